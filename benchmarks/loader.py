"""Clips a second of the loader beside its rivals, on the same shards in the same minutes.

    python benchmarks/loader.py
    python benchmarks/loader.py --rounds 9 --clips 200 --sources videos/

Variants run in processes of their own and take turns, every round all of them, so that a machine
that slows down slows all. A ratio is taken within each round; ratios of variants on one core are of
processor time, those of variants with workers of time on the clock. Without --sources the real
clips of agehpc[demo] are packed. ffmpeg takes part where it is installed.

Rows go to benchmarks/results/loader.csv; benchmarks/README.md tells how they are read.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loader_variants import VARIANTS
from results_csv import append

from agehpc.data.pack_command import demo_clips
from agehpc.data.shards import read_manifest
from agehpc.errors import EXIT_DONE, EXIT_FAILURE, AgehpcError
from agehpc.observe import environment

RESULTS = Path(__file__).resolve().parent / "results" / "loader.csv"
SHARD_SAMPLES = 2  # each of webdataset's workers needs shards of its own
WARM = 48  # clips before a measurement: more than two workers have ready after a pause
OPENS = 1500
COLUMNS = (
    *("date", "variant", "per_s", "ms_cpu", "ms_cpu_q1", "ms_cpu_q3"),
    *("ratio_to", "ratio", "ratio_low", "ratio_high", "wanted"),
    *("rounds", "size", "dataset_id", "device", "load_at_start", "decord", "av", "webdataset"),
    *("torch", "agehpc", "revision"),
)


@dataclass(frozen=True)
class Ratio:
    """A variant's speed over another's; by processor time, or on the clock."""

    variant: str
    over: str
    wanted: str = ""
    clock: bool = False


RATIOS = (
    Ratio("packed: bare decord", "source: bare decord", ">= 10"),
    Ratio("packed: bare decord", "packed: ffmpeg"),
    Ratio("packed: bare PyAV", "packed: bare decord"),
    Ratio("packed: decode_video by decord", "packed: bare decord"),
    Ratio("packed: decode_video by pyav", "packed: bare decord"),
    Ratio("packed: loader by decord", "packed: bare decord", ">= 0.85"),
    Ratio("packed: loader by pyav", "packed: bare decord", ">= 0.85"),
    Ratio("2 workers: loader by decord", "2 workers: webdataset + decord", ">= 1.3", clock=True),
    Ratio(
        "2 workers: loader by decord", "2 workers: webdataset + decord, 1 thread each", clock=True
    ),
    Ratio("2 workers: loader by pyav", "2 workers: webdataset + decord", ">= 1.3", clock=True),
    Ratio("2 workers: loader by pyav", "2 workers: webdataset + decord, 1 thread each", clock=True),
    Ratio("tar: reader", "tar: webdataset"),
    Ratio("jpeg: decode_image", "jpeg: Pillow"),
)


@dataclass
class Measured:
    """What a variant did in each round: seconds a unit."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


class Competitor:
    """The process of a variant."""

    def __init__(self, name: str, folder: Path) -> None:
        script = Path(__file__).with_name("loader_variants.py")
        command = [sys.executable, str(script), name, str(folder)]
        self.name = name
        self._process = subprocess.Popen(
            command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> "Competitor":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def work(self, units: int) -> dict[str, float]:
        """Do so many units and return the seconds that they took, and the memory."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{units}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise AgehpcError(f"the variant '{self.name}' ended with code {self._process.wait()}")
        return json.loads(line)


def units_of(name: str, clips: int) -> int:
    """Return how much of a variant takes about as long as `clips` packed clips."""
    if name == "source: bare decord":
        return max(clips // 10, 3)
    return clips * {"tar": 100, "jpeg": 20}.get(name.partition(":")[0], 1)


def prepare(folder: Path, given: Path | None) -> None:
    """Lay out the source videos and pack them."""
    (folder / "sources").mkdir()
    for path in sorted(given.iterdir()) if given else demo_clips():
        (folder / "sources" / path.name).symlink_to(path.resolve())
    words = [sys.executable, "-m", "agehpc", "data", "pack", str(folder / "sources")]
    words += [str(folder / "shards"), "--kind", "video", "--clip-len", "64"]
    words += ["--samples-per-shard", str(SHARD_SAMPLES), "--validation-fraction", "0"]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != EXIT_DONE:
        raise AgehpcError(f"packing failed:\n{done.stdout}{done.stderr}")


def measure(names: Sequence[str], folder: Path, rounds: int, clips: int) -> dict[str, Measured]:
    """Let the variants take turns."""
    measured = {name: Measured() for name in names}
    with ExitStack() as stack:
        competitors = [stack.enter_context(Competitor(name, folder)) for name in names]
        for number in range(rounds):
            for competitor in competitors:
                units = units_of(competitor.name, clips)
                competitor.work(WARM if "workers" in competitor.name else min(8, units))
                seconds = competitor.work(units)
                measured[competitor.name].wall.append(seconds["wall_s"] / units)
                measured[competitor.name].cpu.append(seconds["cpu_s"] / units)
            print(f"round {number + 1} of {rounds} done", file=sys.stderr, flush=True)
    return measured


def growth(folder: Path, decoder: str, opens: int) -> float:
    """Return by how much resident memory grows over so many opened clips, as a share."""
    with Competitor(f"packed: decode_video by {decoder}", folder) as competitor:
        before = competitor.work(100)["rss_kib"]
        return competitor.work(opens)["rss_kib"] / before - 1


def rows_of(measured: dict[str, Measured]) -> list[dict[str, Any]]:
    """Return a row for each variant and ratio that was measured."""
    compared = {ratio.variant: ratio for ratio in RATIOS}
    alone = [Ratio(name, "") for name in measured if name not in compared]
    rows = []
    for ratio in (*alone, *RATIOS):
        if ratio.variant not in measured:
            continue
        own = measured[ratio.variant]
        low, middle, high = _quartiles([1000 * seconds for seconds in own.cpu])
        row: dict[str, Any] = dict.fromkeys(COLUMNS, "") | {"variant": ratio.variant}
        row |= {"ms_cpu": middle, "ms_cpu_q1": low, "ms_cpu_q3": high}
        row["per_s"] = _round(1 / statistics.median(own.wall))
        if other := measured.get(ratio.over):
            pairs = (other.wall, own.wall) if ratio.clock else (other.cpu, own.cpu)
            values = sorted(theirs / mine for theirs, mine in zip(*pairs, strict=True))
            row |= {"ratio_to": ratio.over, "wanted": ratio.wanted}
            row |= {"ratio": _round(statistics.median(values))}
            row |= {"ratio_low": _round(values[0]), "ratio_high": _round(values[-1])}
        rows.append(row)
    return rows


def _quartiles(values: list[float]) -> list[float]:
    if len(values) == 1:
        values = values * 2
    return [_round(value) for value in statistics.quantiles(values, n=4, method="inclusive")]


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows for people to read."""
    lines = [f"{'variant':<45} {'a second':>9} {'ms of CPU':>10}  ratio (range), wanted"]
    for row in rows:
        line = f"{row['variant']:<45} {row['per_s']:>9} {row['ms_cpu']:>10}"
        if row["ratio_to"]:
            spread = "{ratio:.2f} ({ratio_low:.2f}-{ratio_high:.2f})".format(**row)
            line += f"  {spread} of '{row['ratio_to']}' {row['wanted']}"
        lines.append(line)
    return "\n".join(lines)


def bench(options: argparse.Namespace) -> int:
    """Measure, print and write down."""
    append(options.out, COLUMNS, [])  # what cannot be written is better known before than after
    known = environment.describe()
    about = {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "load_at_start": _round(os.getloadavg()[0]),
        "rounds": options.rounds,
        "device": f"{known['cpu']} ({known['cores']} cores)",
        "agehpc": known["agehpc"],
        "revision": known["revision"] or "none",
        "decord": known["packages"].get("decord2") or known["packages"].get("decord"),
    } | {name: known["packages"][name] for name in ("av", "webdataset", "torch")}
    names = [name for name in VARIANTS if "ffmpeg" not in name or shutil.which("ffmpeg")]
    with tempfile.TemporaryDirectory(prefix="agehpc-bench-") as name:
        folder = Path(name)
        prepare(folder, options.sources)
        manifest = read_manifest(folder / "shards")
        about |= {"size": manifest.size, "dataset_id": manifest.dataset_id}
        rows = rows_of(measure(names, folder, options.rounds, options.clips))
        for decoder in ("decord", "pyav"):
            row = dict.fromkeys(COLUMNS, "") | {"wanted": "<= 1.05"}
            row["variant"] = f"memory after {options.opens} opens by {decoder}"
            row |= {"ratio_to": "memory after 100", "per_s": "", "ms_cpu": ""}
            ratio = _round(1 + growth(folder, decoder, options.opens))
            rows.append(row | {"ratio": ratio, "ratio_low": ratio, "ratio_high": ratio})
    rows = [row | about for row in rows]
    append(options.out, COLUMNS, rows)
    print(json.dumps(rows, indent=2) if options.json else table(rows))
    return EXIT_DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sources", type=Path, help="folder of videos to pack (default: the demo clips)")
    add("--rounds", type=int, default=7, help="turns of every variant (default 7)")
    add("--clips", type=int, default=160, help="packed clips of a turn (default 160)")
    add("--opens", type=int, default=OPENS, help=f"clips opened to see memory grow ({OPENS})")
    add("--out", type=Path, default=RESULTS, help=f"CSV that rows are added to ({RESULTS.name})")
    add("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args(argv)
    if min(options.rounds, options.clips, options.opens) < 1:
        parser.error("--rounds, --clips and --opens are 1 or more")
    try:
        return bench(options)
    except AgehpcError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILURE


if __name__ == "__main__":
    sys.exit(main())
