"""Going back to a good checkpoint, so that a kill at any moment loses nothing of it.

A checkpoint is **good** when the guard was quiet at it and after it: it is saved only after a tick
that was, its samples were not all alike at the last look before it, and a later tick was quiet too.

A rollback goes back to the newest good checkpoint in all but two things: learning rates are lower,
and the order of samples goes on where it was. The batches since that checkpoint are not seen
again; none is left out otherwise. What holds is a row of `guard.jsonl`, on the disk before
anything else happens: a start from a checkpoint takes over the rollbacks to it.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from agehpc import checkpoints
from agehpc.checkpoints import Damaged
from agehpc.config.training import GuardConfig
from agehpc.errors import DivergedError
from agehpc.files import atomic_path
from agehpc.observe import metrics
from agehpc.observe.metrics import MetricsLog, Row
from agehpc.soundness import verify
from agehpc.train.guard import Trouble
from agehpc.train.progress import Progress, progress_of

LOGGER = logging.getLogger("agehpc")

NAME = "guard.jsonl"


def events(run: Path) -> list[Row]:
    """What the guard of a run did, in order."""
    path = run / NAME
    return metrics.read(path) if path.exists() else []


def last_good(run: Path, quiet: int) -> Path | None:
    """The newest good checkpoint, or None; `quiet` is the step of the last quiet tick."""
    return next(_good(run, quiet), None)


def _good(run: Path, quiet: int) -> Iterator[Path]:
    for path in reversed(checkpoints.complete(run)):
        try:
            state = checkpoints.read_state(path)
        except Damaged:
            continue
        if state["step"] < quiet and not state.get("alike"):
            yield path


def _sound(path: Path) -> bool:
    try:
        verify(path)
    except Damaged as error:
        LOGGER.warning("%s; passed over", error)
        return False
    return True


def answer(
    run: Path, trouble: Trouble, now: Progress, guard: GuardConfig, quiet: int
) -> tuple[Path, Progress]:
    """Record a trouble, and go back in the run directory. Rank 0 calls it.

    Returns:
        The checkpoint to take up again, and the counters after it.

    Raises:
        DivergedError: training is to stop: by the configuration, after too many rollbacks, or
            without a good checkpoint.
    """
    good = next(filter(_sound, _good(run, quiet)), None)
    going_back = guard.action == "rollback" and now.rollbacks < guard.rollbacks and good is not None
    row: Row = {
        "event": "rollback" if going_back else "stop",
        "kimg": now.kimg,
        "step": now.step,
        "figure": trouble.what,
        "value": trouble.value,
        "flag": trouble.flag,
        "bound": trouble.bound,
        "first": trouble.first,
        "time": time.time(),
    }
    if not going_back:
        _append(run, row)
        raise DivergedError(f"{trouble.told}; {_why_stopped(now, guard, good)}")
    assert good is not None
    restored = progress_of(checkpoints.read_state(good))
    row |= {
        "to": restored.step,
        "samples_read": now.samples_read,
        "rollbacks": now.rollbacks + 1,
        "lr_scale": now.lr_scale * guard.lr_factor,
    }
    _append(run, row)
    discard(run)
    return good, _after(restored, row)


def _append(run: Path, row: Row) -> None:
    with MetricsLog(run / NAME) as log:  # closing it forces it to the disk
        log.append(row)


def _why_stopped(now: Progress, guard: GuardConfig, good: Path | None) -> str:
    newest = "no checkpoint is known to be good" if good is None else f"the last good one is {good}"
    fix = "start anew with a lower --players.*.optim.lr, or set --players.*.clip"
    if guard.action == "stop":
        fix += ", or --train.guard.action rollback to go on with lower rates"
    elif good is not None:
        newest = f"{now.rollbacks} rollbacks were taken (--train.guard.rollbacks), {newest}"
    return f"{newest}: {fix}"


def discard(run: Path) -> None:
    """Remove the checkpoints that a rollback went back behind. Rank 0 calls it."""
    taken = [row for row in events(run) if row["event"] == "rollback"]
    for path in checkpoints.complete(run):
        try:
            state = checkpoints.read_state(path)
        except Damaged:  # a start passes over it
            continue
        before = [row for row in taken if row["rollbacks"] > state.get("rollbacks", 0)]
        if any(row["to"] < state["step"] for row in before):
            checkpoints.remove(path)


def resume(run: Path, restored: Progress) -> Progress:
    """The counters of a start from a checkpoint: with the rollbacks to it. Rank 0 calls it.

    Rollbacks to later checkpoints, where a run was set back by hand, are struck off the record.
    """
    mine, kept, struck = restored, [], 0
    for row in events(run):
        pending = row["event"] == "rollback" and row["rollbacks"] > restored.rollbacks
        if pending and row["to"] != restored.step:
            struck += 1
            continue
        if pending:
            mine = _after(restored, row)
        kept.append(metrics.encode(row))
    if struck:
        with atomic_path(run / NAME) as temporary:
            temporary.write_bytes(b"".join(kept))
    return mine


def _after(restored: Progress, row: Mapping[str, Any]) -> Progress:
    return replace(
        restored,
        samples_read=row["samples_read"],
        rollbacks=row["rollbacks"],
        lr_scale=row["lr_scale"],
    )
