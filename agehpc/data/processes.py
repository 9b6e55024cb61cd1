"""A function over many tasks, in processes of their own where that is asked for."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from agehpc.data.workers import immune
from agehpc.errors import DataError

Task = TypeVar("Task")
Result = TypeVar("Result")


class WorkerDiedError(DataError):
    """A process died at its task, by a signal."""


def mapped(
    function: Callable[[Task], Result], tasks: Iterable[Task], workers: int
) -> Generator[Result, None, None]:
    """Yield the result of every task, in order; `function` and tasks travel by pickle.

    One worker is this process. The others end when the iterator is closed, by whatever, and when
    this process is killed. WorkerDiedError where one of them dies.
    """
    if workers <= 1:
        yield from map(function, tasks)
        return
    with _pool(workers) as pool:
        waiting: deque[Future[Result]] = deque()
        for task in tasks:
            with immune({signal.SIGINT}):  # submitting may start a process
                waiting.append(pool.submit(function, task))
            # Results wait for their turn in memory: only so many.
            if len(waiting) > 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of processes that ends at once when the work is stopped."""
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)
    try:
        yield pool
    except BrokenProcessPool:
        raise WorkerDiedError(
            "a worker process died (out of memory, or a file that crashes the decoder): run "
            "again with --workers 1 to see at which file"
        ) from None
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
            process.join()
        # One may have ended while it sent a result. The pool's thread waits for the rest of it as
        # long as anyone could write it, and that is this process; nothing public closes its end.
        pool._result_queue._writer.close()  # pyright: ignore[reportAttributeAccessIssue]
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """End this worker when its parent is killed: it would wait for tasks for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
