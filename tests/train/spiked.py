"""A spike in a gradient, for a training to be patched with.

SPIKE_AT: number of the critics' backward passes of this start at which the last rank's loss is
multiplied by SPIKE. KILLED: the process kills itself once a rollback is on the record. RATES: a
file that rank 0 adds each step's learning rates to.
"""

import os
import signal
from pathlib import Path

import torch.distributed as dist
from torch import Tensor

from agehpc.train import rollback
from agehpc.train.engines import Engine


def spike() -> None:
    """Break it as the environment says."""
    backward, append, calls = Engine.backward, rollback._append, [0]
    at, factor = int(os.environ.get("SPIKE_AT", "0")), float(os.environ.get("SPIKE", "1"))

    def spiked(engine: Engine, loss: Tensor) -> None:
        if engine.name == "critics":
            calls[0] += 1
            if calls[0] == at and dist.get_rank() == dist.get_world_size() - 1:
                loss = loss * factor
            if "RATES" in os.environ and dist.get_rank() == 0:
                with Path(os.environ["RATES"]).open("a") as file:
                    file.write(f"{engine._engine.optimizer.param_groups[0]['lr']:.6g}\n")
        backward(engine, loss)

    def killed(run: Path, row: dict) -> None:
        append(run, row)
        os.kill(os.getpid(), signal.SIGKILL)

    Engine.backward = spiked
    if "KILLED" in os.environ:
        rollback._append = killed
