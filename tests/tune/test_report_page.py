"""The report of a sweep in a real browser, which reaches no network."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("optuna")
pytest.importorskip("plotly")
pytest.importorskip("sklearn")
from agehpc_tune.report import write_report
from tests.tune.test_report import LOSS, SPEED, sweep

CHROMIUM = shutil.which("chromium")
# What the page looks like once it is drawn, where it can be read from outside.
TOLD = """<script>addEventListener("load", () => {
  const page = document.documentElement;
  document.body.dataset.overflow = page.scrollWidth - page.clientWidth;
  document.body.dataset.drawn = [...document.querySelectorAll(".plotly-graph-div")].filter(
    one => one.querySelector(".trace path, .pcp path, .parcoords, .bars path")).length;
});</script>"""


def browse(page: Path, folder: Path) -> tuple[str, str]:
    """The page as the browser has built it, and what its console says."""
    assert CHROMIUM is not None
    flags = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
        *("--disable-background-networking", "--disable-component-update", "--disable-quic"),
        *(f"--user-data-dir={folder}", "--host-resolver-rules=MAP * ~NOTFOUND"),
        *("--virtual-time-budget=15000", "--window-size=1300,2000", "--enable-logging=stderr"),
    ]
    done = subprocess.run(
        [CHROMIUM, *flags, "--dump-dom", page.absolute().as_uri()],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.skipif(CHROMIUM is None, reason="a browser is wanted: Debian's package chromium")
def test_figures_are_drawn_and_fit(tmp_path: Path):
    page = write_report(sweep(tmp_path / "sweep", 14, goals=(LOSS, SPEED)))
    page.write_text(page.read_text().replace("</body>", f"{TOLD}</body>"))
    built, console = browse(page, tmp_path / "profile")
    assert console == ""
    # Five an objective, and the front.
    assert re.findall(r'data-drawn="(\d+)"', built) == ["11"]
    assert re.findall(r'data-overflow="(-?\d+)"', built) == ["0"]
