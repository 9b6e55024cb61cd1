"""Decoding processes that a damaged sample may crash or hang: it costs that sample alone.

The parent knows what each process is on before it begins: it gives every process a queue, and the
first sample of it without a reply is the one. There is no thread here: the processes work through
their queues while the parent trains.
"""

import atexit
import contextlib
import multiprocessing
import signal
import time
from collections import deque
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import NamedTuple

from agehpc.data import pool_worker
from agehpc.data.buffers import SharedBytes
from agehpc.data.damage import Damage
from agehpc.data.fetch import Counts
from agehpc.data.pool_worker import CLOCK, Reply
from agehpc.data.samples import Samples, Unit
from agehpc.data.workers import immune
from agehpc.errors import DataError

QUEUE = 512  # tasks and replies of one process stay below the 64 KiB of a pipe: nobody blocks
ATTEMPTS = 2  # of a sample whose time ran out, or whose process the machine killed
_KILL_SECONDS = 30


@dataclass
class Figures:
    """What decoding has done since the last look."""

    decoded: int = 0
    """Good samples."""
    seconds: float = 0.0
    """Time spent on them: reading, decoding, augmenting."""
    retries: int = 0
    """Second attempts."""
    read: Counts = field(default_factory=Counts)
    """What decoding processes read from URLs."""


class Result(NamedTuple):
    """A finished sample: its pixels lie in its slot unless it is damaged."""

    unit: Unit
    slot: int
    label: int
    kind: Damage | None
    reason: str


@dataclass
class _Task:
    unit: Unit
    slot: int
    attempts: int = 0

    def plain(self) -> pool_worker.Task:
        position, domain, shard, index = self.unit
        return position, domain, shard, index, self.slot


@dataclass
class _Worker:
    process: SpawnProcess
    tasks: Connection
    replies: Connection
    ready: bool = False
    queue: deque[_Task] = field(default_factory=deque)
    """Tasks without a reply: it is on the first."""
    unsent: list[_Task] = field(default_factory=list)
    late: _Task | None = None
    """What it was killed for."""

    def send(self) -> None:
        """Hand over what was given to it since the last time."""
        tasks, self.unsent = [task.plain() for task in self.unsent], []
        if tasks:
            with contextlib.suppress(BrokenPipeError):  # it has died: its queue goes to another
                self.tasks.send(tasks)


class Pool:
    """Processes that decode samples into slots of shared memory.

    Args:
        samples: what they load from.
        workers: how many.
        slots: samples that the memory holds; at most QUEUE for each process.
        deadline_s: seconds that one sample may take, over all attempts, once its bytes are read.
        figures: counts what is done.
    """

    def __init__(
        self, samples: Samples, workers: int, slots: int, deadline_s: float, figures: Figures
    ) -> None:
        assert 0 < slots <= QUEUE * workers
        self._samples, self._deadline_s, self._figures = samples, deadline_s, figures
        self._memory = SharedBytes(workers * CLOCK.itemsize + slots * samples.nbytes)
        self._clocks, self.slots_SN = pool_worker.slots(self._memory, workers, samples.nbytes)
        # Before multiprocessing's own farewell, which waits for children that may hang.
        atexit.register(self.close)
        self._workers: list[_Worker] = []
        for number in range(workers):
            self._workers.append(self._start(number))

    def submit(self, unit: Unit, slot: int) -> None:
        """Give a sample to the process with the shortest queue; `send` or `results` sends it."""
        task = _Task(unit, slot)
        worker = min(self._workers, key=lambda worker: len(worker.queue))
        worker.queue.append(task)
        worker.unsent.append(task)

    def send(self) -> None:
        """Send what was submitted."""
        for worker in self._workers:
            worker.send()

    def results(self) -> list[Result]:
        """Wait until samples are finished. DataError for a shard that cannot be used."""
        self.send()
        found: list[Result] = []
        while not found:
            by_reply = {worker.replies: n for n, worker in enumerate(self._workers)}
            for reply in connection.wait(list(by_reply), min(0.2, self._deadline_s / 10)):
                assert isinstance(reply, Connection)
                found += self._receive(by_reply[reply])
            for number in range(len(self._workers)):
                if self._is_late(number):
                    found += self._end_late(number)
        return found

    def close(self) -> None:
        """End the processes, at once."""
        atexit.unregister(self.close)
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            _bury(worker)
        self._workers = []

    def _start(self, number: int) -> _Worker:
        context = multiprocessing.get_context("spawn")
        their_tasks, tasks = context.Pipe(duplex=False)
        replies, their_replies = context.Pipe(duplex=False)
        process = context.Process(
            target=pool_worker.run,
            args=(
                *(self._samples, self._memory, len(self._clocks), number),
                *(their_tasks, their_replies),
            ),
            name=f"decoder {number}",
            daemon=True,
        )
        self._clocks[number] = 0
        with immune():
            process.start()
        # Only the process holds its ends now: when it dies, ours tell.
        their_tasks.close()
        their_replies.close()
        return _Worker(process, tasks, replies)

    def _receive(self, number: int) -> list[Result]:
        """Return what a process has replied; where it has died, start another."""
        worker = self._workers[number]
        found: list[Result] = []
        while worker.replies.poll():
            try:
                reply = Reply(*worker.replies.recv())
            except (EOFError, OSError):
                return found + self._replace(number)
            if not worker.ready:
                worker.ready = True
                continue
            if reply.fatal:
                raise DataError(reply.fatal)
            self._figures.read = self._figures.read.plus(Counts(*reply.read))
            task = worker.queue.popleft()
            if reply.kind is None:
                self._figures.decoded += 1
                self._figures.seconds += reply.seconds
            found.append(Result(task.unit, task.slot, reply.label, reply.kind, reply.reason))
        return found

    def _is_late(self, number: int) -> bool:
        began = float(self._clocks[number])
        return began > 0 and time.monotonic() - began > self._deadline_s / ATTEMPTS

    def _end_late(self, number: int) -> list[Result]:
        worker = self._workers[number]
        worker.late = worker.queue[0]
        worker.process.kill()
        _wait_for(worker.process)
        return self._receive(number)  # what it finished meanwhile counts

    def _replace(self, number: int) -> list[Result]:
        """Start a process in the place of a dead one; return the sample that is given up, if any.

        The rest of its queue goes on, and so does a sample that may have a second attempt.
        """
        worker = self._workers[number]
        code = _wait_for(worker.process)
        if not worker.ready:
            raise DataError(
                f"a decoding process ended ({_ending(code)}) before it was ready: what it printed "
                "says why; --data.workers 0 decodes in the training process"
            )
        given_up: list[Result] = []
        queue = worker.queue
        if queue and worker.late in (None, queue[0]):
            task = queue[0]
            task.attempts += 1
            # Who kills a process from outside (for memory) means the machine, not the sample.
            may_again = worker.late is not None or code == -signal.SIGKILL
            if may_again and task.attempts < ATTEMPTS:
                self._figures.retries += 1
            else:
                queue.popleft()
                given_up.append(self._given_up(task, worker.late is not None, code))
        successor = self._start(number)
        successor.queue, successor.unsent = queue, list(queue)
        successor.send()
        self._workers[number] = successor
        _bury(worker)
        return given_up

    def _given_up(self, task: _Task, late: bool, code: int) -> Result:
        if late:
            reason = f"it was not decoded in {self._deadline_s:g} s, in {ATTEMPTS} attempts"
            return Result(task.unit, task.slot, -1, "timeout", reason)
        return Result(task.unit, task.slot, -1, "crash", f"its decoding ended in {_ending(code)}")


def _bury(worker: _Worker) -> None:
    """Let go of what belongs to a dead or dying process."""
    _wait_for(worker.process)
    worker.tasks.close()
    worker.replies.close()
    worker.process.close()


def _wait_for(process: SpawnProcess) -> int:
    process.join(_KILL_SECONDS)
    if process.exitcode is None:
        raise DataError(
            f"decoding process {process.pid} was killed but does not end: a file system that it "
            "reads from hangs"
        )
    return process.exitcode


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
