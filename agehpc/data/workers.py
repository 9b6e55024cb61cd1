"""Starting worker processes that do not fall to the signals of the whole job."""

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


@contextmanager
def immune(signals: Iterable[signal.Signals]) -> Iterator[None]:
    """Start processes inside: they are born with `signals` blocked, and stay so.

    Ctrl-C and Slurm signal every process of a job, workers included; what becomes of them is for
    the process that started them to decide.
    """
    # Starting this helper of multiprocessing unblocks signals, so it comes first.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
