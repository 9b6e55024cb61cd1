"""A decoding process: samples from the shards into shared memory, one after the other."""

import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np

from agehpc.data.buffers import SharedBytes
from agehpc.data.damage import Damage, DamagedError
from agehpc.data.remote import Tally
from agehpc.data.samples import Samples, Unit
from agehpc.errors import DataError

CLOCK = np.dtype(np.float64)
"""When a worker began to decode, by time.monotonic, which all processes share; 0: it does not."""

Task = tuple[int, int, int, int, int]
"""A unit and the slot for its pixels."""


class Reply(NamedTuple):
    """What became of a sample."""

    label: int = -1
    seconds: float = 0.0
    kind: Damage | None = None
    """How it is damaged; None for a good one."""
    reason: str = ""
    fatal: str = ""
    """A message that ends the run: a shard cannot be used."""
    read: tuple[int, ...] = ()
    """The Counts of what was read from URLs since the last reply, where there is any."""


def slots(memory: SharedBytes, workers: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the two parts of the memory: a CLOCK for each worker, and the slots [S, size]."""
    head = workers * CLOCK.itemsize
    count = (memory.array.size - head) // size
    return memory.array[:head].view(CLOCK), memory.array[head:][: count * size].reshape(count, size)


def run(
    samples: Samples,
    memory: SharedBytes,
    workers: int,
    number: int,
    tasks: Connection,
    replies: Connection,
) -> None:
    """Answer lists of tasks, a reply each, until the parent is gone. The first reply: ready."""
    threading.Thread(target=_obey_parent, args=(os.getppid(),), daemon=True).start()
    # What a damaged clip brings down leaves no core file of gigabytes.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    clocks, slots_SN = slots(memory, workers, samples.nbytes)

    def begin() -> None:
        clocks[number] = time.monotonic()

    samples.prepare()
    tally = Tally(samples.data)
    try:
        replies.send(tuple(Reply()))
        while True:
            for *unit, slot in tasks.recv():
                reply = _load(samples, Unit(*unit), slots_SN[slot], begin)
                clocks[number] = 0
                read = tally.take()
                replies.send(tuple(reply._replace(read=tuple(read) if any(read) else ())))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _load(samples: Samples, unit: Unit, out_N: np.ndarray, begin: Callable[[], None]) -> Reply:
    start = time.monotonic()
    try:
        label = samples.load(unit, out_N, begin)
    except DamagedError as error:
        return Reply(kind=error.kind, reason=error.reason)
    except DataError as error:
        return Reply(fatal=str(error))
    return Reply(label, time.monotonic() - start)


def _obey_parent(parent: int) -> None:
    """End the worker when its parent has ended or sends SIGTERM; not when the job's launcher does.

    Beside the decoder, which may hang.
    """
    while os.getppid() == parent:
        sent = signal.sigtimedwait({signal.SIGTERM}, 1.0)
        if sent is not None and sent.si_pid == parent:
            break
    os._exit(0)
