"""From a batch of the loader to what the turns see: on the device, with its keyed draws."""

import torch
from torch import Tensor

from agehpc.data.keyed import philox
from agehpc.data.loader import Batch
from agehpc.data.pixels import to_float
from agehpc.systems.base import ALWAYS, Keys, Micro, System


def to_micro(
    batch: Batch,
    system: System,
    device: torch.device,
    *,
    seed: int,
    prefix: str = "",
    samples_seen: int = ALWAYS,
    step: int = 0,
) -> Micro:
    """A micro-batch of a system.

    Args:
        batch: from the loader.
        system: says which draws it needs.
        device: where it goes.
        seed: the run's.
        prefix: put before the purpose of every draw; empty in training.
        samples_seen: samples of the run before this step.
        step: steps before this one.
    """

    def keys(purpose: str) -> list:
        return [philox(seed, prefix + purpose, int(p)) for p in batch.positions]

    return _placed(batch, system, keys, device, samples_seen, step)


def _placed(
    batch: Batch, system: System, keys: Keys, device: torch.device, samples_seen: int, step: int
) -> Micro:
    def place(tensor: Tensor) -> Tensor:
        return tensor.to(device, non_blocking=True)

    drawn = system.draw(keys, tuple(batch.pixels.shape[1:]), step)
    return Micro(
        x=to_float(place(batch.pixels)),
        labels=place(batch.labels),
        samples_seen=samples_seen,
        step=step,
        draws={name: place(tensor) for name, tensor in drawn.items()},
        second=None if batch.second is None else to_float(place(batch.second)),
    )
