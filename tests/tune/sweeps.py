"""Sweeps of the stand-in, in processes of their own: `python -m tests.tune.sweeps tune FLAGS`."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.ranks import ROOT

PACKAGES = os.pathsep.join(str(ROOT / name) for name in ("", "kernels", "tune"))
SPACE = "players.autoencoder.optim.lr: {log_uniform: [1e-5, 1e-1]}\n"


class Sweep:
    """A sweep directory and the drivers that run in it, one after another."""

    def __init__(
        self, folder: Path, *flags: str, space: str = SPACE, pause_s: float = 0.02
    ) -> None:
        self.out = folder / "sweep"
        (folder / "space.yaml").write_text(space)
        words = ["mnist_autoencoder", "--data.shards", "none", "--train.kimg", "10"]
        words += ["--evaluate.every-kimg", "1", "--space", str(folder / "space.yaml")]
        self._start = [*words, "--cluster.threads", "1", *flags, "--out", str(self.out)]
        self._environ = {**os.environ, "PYTHONPATH": PACKAGES, "STAND_IN_S": str(pause_s)}
        self._log = folder / "driver.log"

    def start(self, *flags: str, resume: bool = False) -> subprocess.Popen[str]:
        """Start a driver; its output goes to `log`."""
        words = ["--resume", "--out", str(self.out)] if resume else self._start
        with self._log.open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.tune.sweeps", "tune", *words, *flags],
                cwd=ROOT,
                env=self._environ,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def run(self, *flags: str, resume: bool = False) -> int:
        """Run a driver to its end, and return its exit code."""
        return self.start(*flags, resume=resume).wait(timeout=400)

    @property
    def log(self) -> str:
        """What the drivers have written."""
        return self._log.read_text()

    def trials(self) -> list[dict[str, Any]]:
        """The trials of state.json."""
        path = self.out / "state.json"
        return json.loads(path.read_text())["trials"] if path.exists() else []

    def runs(self) -> list[Path]:
        """The run directories of the trials."""
        return sorted((self.out / "trials").glob("*"))

    def starts(self, trial: dict[str, Any]) -> list[int]:
        """At which evaluation each start of a trial began."""
        run = self.out / "trials" / f"{trial['number']:03d}-{trial['id']}"
        return [int(line.split()[0]) for line in lines(run / "starts")]

    def wait(self, what: str, true: Callable[[], bool], seconds: float = 200) -> None:
        """Wait for a condition; AssertionError with the log if it does not come."""
        deadline = time.monotonic() + seconds
        while not true():
            if time.monotonic() > deadline:
                raise AssertionError(f"no {what} in {seconds} s\n{self.log}")
            time.sleep(0.05)

    def trained(self) -> int:
        """Evaluations that were made so far."""
        return sum(len(lines(run / "trained")) for run in self.runs())

    def ranks(self) -> list[int]:
        """Processes of the stand-in that are alive."""
        return [pid for pid, words in processes() if str(self.out) in words and "stand_in" in words]


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def processes() -> Iterator[tuple[int, str]]:
    """All processes with their command lines."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            yield int(folder.name), words


def below(pid: int, name: str) -> list[int]:
    """Children of a process whose program has a name."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            program, _, rest = (folder / "stat").read_text().partition(" (")[2].rpartition(") ")
            if program == name and int(rest.split()[1]) == pid:
                found.append(int(folder.name))
    return found


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    from agehpc.cli import main
    from agehpc_tune import command, sweep

    sweep.TRAIN = (sys.executable, "-m", "tests.tune.stand_in")
    command._check_training = lambda *_: None  # there are no shards
    sys.exit(main(sys.argv[1:]))
