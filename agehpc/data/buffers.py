"""Memory that a process shares with those it starts."""

import mmap
import os
from multiprocessing import reduction
from typing import Any

import numpy as np


class SharedBytes:
    """Zeroed memory without a name: nothing of it is left however its processes end.

    Hand it to processes as an argument when they are started. Raises OSError where the machine
    lacks the memory, which is taken at once.
    """

    def __init__(self, size: int) -> None:
        descriptor = os.memfd_create("agehpc samples", os.MFD_CLOEXEC)
        # Taken now: a page that cannot be had later would end the process that touches it.
        os.posix_fallocate(descriptor, 0, size)
        self._attach(descriptor, size)

    def _attach(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self.array: np.ndarray = np.frombuffer(mmap.mmap(descriptor, size), np.uint8)
        """uint8 [size]."""

    def __getstate__(self) -> Any:
        return reduction.DupFd(self._descriptor), self.array.size

    def __setstate__(self, state: Any) -> None:
        duplicate, size = state
        self._attach(duplicate.detach(), size)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)
