"""The best checkpoint of a run by a figure of its evaluations: `checkpoints/best.json`.

It is written after the checkpoint that it names is complete and before an older one goes, so that
it never names one that was not there; what a kill between the two leaves is mended from
evaluations.jsonl, which is on the disk before either.
"""

import json
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agehpc import checkpoints
from agehpc.config.metrics import direction
from agehpc.errors import RunError
from agehpc.files import write_text
from agehpc.soundness import newest_sound, verify

LOGGER = logging.getLogger("agehpc")
NAME = "best.json"


@dataclass(frozen=True)
class Best:
    """A value of a metric, and the checkpoint that gave it.

    Attributes:
        metric: its name in evaluations.jsonl.
        value: of the metric.
        step: optimizer steps done.
        kimg: thousands of samples seen.
    """

    metric: str
    value: float
    step: int
    kimg: float

    def beats(self, other: "Best | None") -> bool:
        """Whether it is strictly better; a value of another metric is beaten by any finite one."""
        if not math.isfinite(self.value):
            return False
        if other is None or other.metric != self.metric:
            return True
        higher = direction(self.metric) == "higher"
        return self.value > other.value if higher else self.value < other.value


def path_of(run: Path) -> Path:
    """Where a run's best checkpoint is recorded."""
    return run / "checkpoints" / NAME


def read(run: Path) -> Best | None:
    """The best checkpoint as recorded, or None where there is no record; RunError for a bad one."""
    path = path_of(run)
    try:
        found = json.loads(path.read_text())
        return Best(
            str(found["metric"]), float(found["value"]), int(found["step"]), float(found["kimg"])
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} cannot be read ({error}); delete it: training again with --evaluate.best "
            "finds it anew from evaluations.jsonl"
        ) from None


def write(run: Path, best: Best) -> None:
    """Record a best checkpoint, atomically. One rank calls it."""
    write_text(path_of(run), json.dumps(asdict(best), indent=1) + "\n")


def refresh(run: Path, metric: str | None, rows: Iterable[Mapping[str, Any]]) -> Best | None:
    """Bring the record in line with the checkpoints that are there; return what it then says.

    Without a metric, and until a first value of a new one, what was the best stays it.

    Args:
        run: the run directory.
        metric: what it is chosen by; None where a start chooses none.
        rows: evaluations.jsonl, cut back to the step that is gone on from.
    """
    there = {path.name for path in checkpoints.complete(run)}
    recorded = read(run)
    found = recorded
    if recorded is not None and checkpoints.name_of(recorded.step) not in there:
        found = None
    for row in rows:
        if row["metric"] == metric and checkpoints.name_of(row["step"]) in there:
            one = Best(row["metric"], row["value"], row["step"], row["kimg"])
            if one.beats(found):
                found = one
    if found is None:
        path_of(run).unlink(missing_ok=True)
    elif found != recorded:
        write(run, found)
    return found


def kept(best: Best | None) -> set[str]:
    """Names of the checkpoints that stay whatever their age."""
    return set() if best is None else {checkpoints.name_of(best.step)}


def find(run: Path, checkpoint: str) -> Path:
    """The checkpoint that `latest`, `best` or a name as `step-00001000` stands for, verified.

    A damaged one is passed over for `latest`, with a warning. RunError where the run has none such,
    or the one that is named is damaged.
    """
    if checkpoint == "latest":
        newest = newest_sound(run, lambda text: LOGGER.warning("%s", text))
        if newest is None:
            raise _untrained(run)
        return newest
    path = named(run, checkpoint)
    verify(path)
    return path


def named(run: Path, checkpoint: str) -> Path:
    """The checkpoint that `best` or a name stands for; RunError where the run has none such."""
    found = {path.name: path for path in checkpoints.complete(run)}
    if not found:
        raise _untrained(run)
    there = ", ".join(found)
    if checkpoint == "best":
        best = read(run)
        if best is None:
            raise RunError(
                f"{run} has no best checkpoint: it is kept where a run is trained with "
                f"--evaluate.best METRIC; use latest, or one of {there}"
            )
        checkpoint = checkpoints.name_of(best.step)
    if checkpoint not in found:
        raise RunError(f"{run} has no checkpoint {checkpoint!r}; it has {there}")
    return found[checkpoint]


def _untrained(run: Path) -> RunError:
    return RunError(f"{run} has no complete checkpoint yet; train it first")
