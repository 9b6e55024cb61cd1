"""What a trial has reached so far, read from its run directory."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agehpc.observe import metrics
from agehpc.observe.metrics import Row

# Of a tick's columns the first is left out: its speed holds the start of the process.
_PEAKS = ("memory_gib",)


@dataclass(frozen=True)
class Score:
    """The objectives at a step."""

    kimg: float
    step: int
    values: dict[str, float]


def scores(run: Path, names: Sequence[str]) -> list[Score]:
    """Return the steps at which every objective is known, in order; RunError for a damaged file.

    A figure of evaluations.jsonl is that of the step; a column of metrics.jsonl is the median of
    the ticks up to it, or the largest where it is a peak.
    """
    ticks = read(run / "metrics.jsonl")
    columns = {name for name in names if any(name in tick for tick in ticks)}
    by_step: dict[int, dict[str, Any]] = {}
    for row in read(run / "evaluations.jsonl"):
        if "value" in row:
            at = by_step.setdefault(row["step"], {"kimg": row["kimg"]})
            at[row["metric"]] = row["value"]
    found = []
    for step, at in sorted(by_step.items()):
        values = {name: at[name] for name in names if name in at}
        before = [tick for tick in ticks if tick["step"] <= step]
        for name in columns - values.keys():
            if known := [tick[name] for tick in before[1:] or before if name in tick]:
                values[name] = max(known) if name in _PEAKS else statistics.median(known)
        if len(values) == len(names):
            found.append(Score(at["kimg"], step, {name: values[name] for name in names}))
    return found


def reached(run: Path) -> float:
    """Return the kimg of the newest tick."""
    ticks = read(run / "metrics.jsonl")
    return ticks[-1]["kimg"] if ticks else 0.0


def read(path: Path) -> list[Row]:
    """Return the rows of a file, none where it is not there yet."""
    return metrics.read(path) if path.exists() else []


def last_words(log: Path) -> str:
    """Return the last error that a trial wrote, or its last line."""
    if not log.exists():
        return "no output"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["no output"])[-1].removeprefix("error: ")[:500]
