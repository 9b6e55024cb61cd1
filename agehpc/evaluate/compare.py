"""Figures of runs side by side, where they are figures of the same thing.

Imports nothing heavy.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agehpc.errors import RunError, UsageError
from agehpc.evaluate.protocols import refuse_unlike
from agehpc.files import unwritable
from agehpc.observe import metrics

LOG = "evaluations.jsonl"


def check_writable(run: Path) -> None:
    """Raise RunError unless figures can be added to the log of a run."""
    if trouble := unwritable(run / LOG):
        raise RunError(
            f"{run / LOG} cannot be written, and figures would be lost: {trouble}; mend that, or "
            f"evaluate a copy of {run}"
        )


def append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Add rows to a log in one piece: a training may be writing to it."""
    with path.open("ab") as file:
        file.write(b"".join(map(metrics.encode, rows)))


def side_by_side(runs: Sequence[Path], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return for each metric its newest value in each run.

    Raises:
        UsageError: fewer than two runs, or no metric.
        RunError: a run without a figure of a metric.
        IncomparableError: figures of unlike protocols, with what differs.
    """
    if len(runs) < 2:
        raise UsageError(f"--compare needs two runs or more: got {', '.join(map(str, runs))}")
    if not names:
        raise UsageError("--compare prints the newest figures of --metrics: name some")
    rows = []
    for name in names:
        found = {str(run): _newest(run, name) for run in runs}
        first, *others = found
        for other in others:
            refuse_unlike(found[first]["protocol"], found[other]["protocol"], (first, other))
        values = {run: row["value"] for run, row in found.items()}
        rows.append({"metric": name, "values": values, "fingerprint": found[first]["fingerprint"]})
    return rows


def _newest(run: Path, name: str) -> dict[str, Any]:
    path = run / LOG
    if not path.is_file():
        raise RunError(f"{run} has no {LOG}: evaluate it first")
    rows = [row for row in metrics.read(path) if row["metric"] == name and "protocol" in row]
    if not rows:
        raise RunError(
            f"{run} has no figure {name} of `agehpc evaluate`: run agehpc evaluate {run} first"
        )
    return max(rows, key=lambda row: row["time"])
