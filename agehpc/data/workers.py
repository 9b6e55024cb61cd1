"""Starting worker processes that do not fall to the signals of the whole job."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

# A process that is told to end may have to save first, for which its workers must live.
JOB_SIGNALS = frozenset(
    {signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}
)


@contextmanager
def immune() -> Iterator[None]:
    """Start processes inside: they are born with JOB_SIGNALS blocked, and stay so.

    Ctrl-C and Slurm signal every process of a job, workers included; what becomes of them is for
    the process that started them to decide.
    """
    # Starting this helper of multiprocessing unblocks signals, so it comes first.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, JOB_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
