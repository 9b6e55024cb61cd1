"""Samples whose decoding does not end well, for tests of the processes that decode."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from agehpc.data.samples import Samples, Unit

# By (shard, index): "crash", "abort", "exit", "hang", or a path: hangs until the file is there.
Faults = dict[tuple[int, int], str]


class BrokenSamples(Samples):
    """Decodes as Samples does, except for some samples in a decoding process."""

    def __init__(self, faults: Faults, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.faults = faults
        self.parent = os.getpid()

    def load(self, unit: Unit, out_N: np.ndarray, begin: Callable[[], None] | None = None) -> int:
        fault = self.faults.get((unit.shard, unit.index))
        if fault is None or os.getpid() == self.parent:
            return super().load(unit, out_N, begin)
        out_N[:] = 99  # what is left in the slot must not be taken for the sample
        if begin is not None:
            begin()
        if fault == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif fault == "abort":
            os.abort()
        elif fault == "exit":
            os._exit(3)
        elif fault == "hang" or not Path(fault).exists():
            if fault != "hang":
                Path(fault).touch()
            time.sleep(600)
        return super().load(unit, out_N, begin)
