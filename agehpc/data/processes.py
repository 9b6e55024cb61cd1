"""A function over many tasks, in processes of their own that a task may crash or hang.

Not concurrent.futures: there one crash ends the pool, and a process that is killed while it sends a
result hangs it. Not pebble: its processes share a channel, and one killed in it takes its lock
along. Here every process has a pipe of its own, whose end tells of its death.
"""

import contextlib
import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, Generic, TypeVar

from agehpc.data.workers import immune
from agehpc.errors import DataError

_KILL_SECONDS = 30
Task = TypeVar("Task")
Result = TypeVar("Result")


class StartError(DataError):
    """A process ended before it could take its first task: that says nothing of the task."""


@dataclass(frozen=True)
class Failed(Generic[Task]):
    """A task whose process did not live to its end."""

    task: Task
    code: int
    """Exit code of the process, below 0 a signal."""
    late: bool = False
    """Whether it was ended for its time."""

    @property
    def is_to_blame(self) -> bool:
        """Whether the task did it: who kills a process (for memory) means the machine."""
        return self.late or self.code != -signal.SIGKILL

    def __str__(self) -> str:
        if self.late:
            return "took too long"
        name = signal.Signals(-self.code).name if self.code < 0 else f"exit code {self.code}"
        return f"ended in {name}"


def mapped(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    workers: int,
    deadline_s: float = float("inf"),
) -> Generator[Result | Failed[Task], None, None]:
    """Yield the result of every task, in order; `function`, tasks and results travel by pickle.

    A task that crashes its process, or takes longer than `deadline_s`, gives Failed; an exception
    in a task is raised here, and StartError where a process cannot start. Without workers all is
    done in this process, which a task may then crash or hang. The processes end when the iterator
    is closed, by whatever, and when this process is killed.
    """
    if not workers:
        yield from map(function, tasks)
        return
    pool = _Pool(function, workers, deadline_s)
    try:
        yield from pool.run(iter(tasks))
    finally:
        pool.close()


@dataclass
class _Worker(Generic[Task]):
    process: SpawnProcess
    pipe: Connection
    ready: bool = False
    number: int = -1
    """Of its task; -1 without one."""
    task: Task | None = None
    since: float = 0.0


class _Pool(Generic[Task, Result]):
    def __init__(self, function: Callable[[Task], Result], workers: int, deadline_s: float) -> None:
        self._function, self._deadline_s = function, deadline_s
        self._most = workers
        self._workers: list[_Worker[Task]] = []
        self._done: dict[int, Result | Failed[Task]] = {}

    def run(self, tasks: Iterator[Task]) -> Iterator[Result | Failed[Task]]:
        given = taken = 0
        more = True
        while more or taken < given:
            # Results wait for their turn in memory: only so many.
            while more and given - taken < 4 * self._most and (worker := self._idle()):
                try:
                    task = next(tasks)
                except StopIteration:
                    more = False
                    break
                self._give(worker, given, task)
                given += 1
            if taken < given:
                self._collect(wait=taken not in self._done)
            if taken in self._done:
                yield self._done.pop(taken)
                taken += 1

    def close(self) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            _bury(worker)

    def _idle(self) -> _Worker[Task] | None:
        for worker in self._workers:
            if worker.number < 0:
                return worker
        if len(self._workers) == self._most:
            return None
        self._workers.append(_start(self._function))
        return self._workers[-1]

    def _give(self, worker: _Worker[Task], number: int, task: Task) -> None:
        worker.number, worker.task = number, task
        # What a process needs to start is no part of its first task's time.
        worker.since = time.monotonic() if worker.ready else float("inf")
        with contextlib.suppress(BrokenPipeError):  # it has died: its pipe tells when it is asked
            worker.pipe.send(task)

    def _collect(self, *, wait: bool) -> None:
        """Take what is finished, or has taken too long; `wait` until something is."""
        busy = {worker.pipe: worker for worker in self._workers if worker.number >= 0}
        first = min((worker.since for worker in busy.values()), default=0.0) + self._deadline_s
        seconds = max(first - time.monotonic(), 0.0) if wait else 0.0
        for pipe in connection.wait(list(busy), None if seconds == float("inf") else seconds):
            assert isinstance(pipe, Connection)
            self._receive(busy.pop(pipe))
        for worker in busy.values():
            if time.monotonic() - worker.since >= self._deadline_s:
                worker.process.kill()
                self._lose(worker, late=True)

    def _receive(self, worker: _Worker[Task]) -> None:
        try:
            answer = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            self._lose(worker, late=False)
            return
        if not worker.ready:
            worker.ready, worker.since = True, time.monotonic()
            return
        result, error = answer
        if error is not None:
            raise error
        self._done[worker.number] = result
        worker.number, worker.task = -1, None

    def _lose(self, worker: _Worker[Task], *, late: bool) -> None:
        self._workers.remove(worker)
        code = _bury(worker)
        assert worker.task is not None
        failed = Failed(worker.task, code, late)
        if not worker.ready:
            raise StartError(
                f"a worker process {failed} before it was ready: what it printed says why; give "
                "fewer --workers, or --workers 0 to do it in one process"
            )
        self._done[worker.number] = failed


def _start(function: Callable[[Any], Any]) -> _Worker[Any]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(function, theirs), daemon=True)
    with immune():
        process.start()
    theirs.close()  # only the process holds its end now: when it dies, ours tells
    return _Worker(process, ours)


def _bury(worker: _Worker[Any]) -> int:
    """Let go of a dead or dying process and return its exit code."""
    worker.process.join(_KILL_SECONDS)
    code = worker.process.exitcode
    if code is None:
        raise DataError(
            f"worker process {worker.process.pid} was killed but does not end: a file system that "
            "it reads from hangs"
        )
    worker.pipe.close()
    worker.process.close()
    return code


def _work(function: Callable[[Any], Any], pipe: Connection) -> None:
    """Say that it is ready, then answer tasks with (result, exception) until the parent is gone."""
    # What a damaged file brings down leaves no core file of gigabytes.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        pipe.send(None)
        while True:
            task = pipe.recv()
            try:
                answer = function(task), None
            except Exception as error:  # for the parent to raise
                answer = None, error
            pipe.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _end_with_parent() -> None:
    """End this process when its parent is killed: it may be in the middle of a long task."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
