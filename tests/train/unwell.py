"""A rank that is slow, hangs or dies of NaN, for a training to be patched with.

SLOW: seconds that the last rank sleeps in each step. HANG_AT: the step in which it does not go on:
HANG_IN `sleep` (C without the interpreter's lock), `locked` (C that keeps it) or `stopped` (the
process is stopped). NAN_AT: the step in which its latents' noise is NaN. LONG: seconds that rank 0
looks at its samples, in batches of a tenth of it.
"""

import ctypes
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from agehpc.train import loop
from agehpc.train.loop import Trainer
from agehpc.train.snapshot import Snapshot


def hang(how: str) -> None:
    if how == "sleep":
        time.sleep(3600)
    elif how == "locked":
        ctypes.PyDLL(None).sleep(3600)
    else:
        os.kill(os.getpid(), signal.SIGSTOP)


def is_last() -> bool:
    return dist.get_rank() == dist.get_world_size() - 1


def break_it() -> None:
    """Break it as the environment says."""
    step, measure, turns = Trainer._step, Snapshot.measure, loop.run_turns
    slow, hang_at = float(os.environ.get("SLOW", "0")), int(os.environ.get("HANG_AT", "-1"))
    nan_at, long = int(os.environ.get("NAN_AT", "-1")), float(os.environ.get("LONG", "0"))
    count = [0]

    def broken_step(trainer: Trainer, batches: list[Any]) -> None:
        if is_last():
            time.sleep(slow)
            if trainer.progress.step == hang_at:
                hang(os.environ["HANG_IN"])
        step(trainer, batches)

    def broken_turns(*given: Any, **more: Any) -> dict[str, Any]:
        found = turns(*given, **more)
        count[0] += 1
        if count[0] == nan_at and is_last():
            found["reconstruction"] = found["reconstruction"] * float("nan")
        return found

    def long_measure(snapshot: Snapshot, check: Callable[[], None]) -> Any:
        for _ in range(10):
            time.sleep(long / 10)
            check()
        return measure(snapshot, check)

    Trainer._step = broken_step  # type: ignore[method-assign]
    Snapshot.measure = long_measure  # type: ignore[method-assign]
    loop.run_turns = broken_turns
