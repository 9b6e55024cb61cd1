"""What a learning system is made of: players, and the turns they take.

The trainer runs a system's turns in order. In a turn one player is trained and every other one is
frozen; the turn's loss sees the outputs of one maker's forward, with a graph only where the maker
is the player being trained.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

Outputs = Mapping[str, Tensor]
Statistics = Mapping[str, Tensor]
Forward = Callable[..., dict[str, Tensor]]
Moments = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Mean and biased variance over the global batch: collectives are handed in by the trainer."""


@dataclass(frozen=True)
class Micro:
    """A micro-batch on the device.

    Attributes:
        x: samples [B, C, S], float32 in [-1, 1].
        z: prior latents [B, Z], float32.
        noise: N(0, I) of the same shape, for what a system disturbs; None where it needs none.
        samples_seen: samples of the whole run before this step.
        step: optimizer steps before this one.
    """

    x: Tensor
    z: Tensor
    samples_seen: int
    step: int
    noise: Tensor | None = None


@dataclass(frozen=True)
class Turn:
    """One player's turn.

    Attributes:
        player: who is trained.
        maker: whose forward makes what the loss needs.
        loss: (the other players' forwards by name with the player's own, micro-batch, outputs of
            the maker) to a scalar and detached scalars for the metrics.
    """

    player: str
    maker: str
    loss: Callable[[Mapping[str, Forward], Micro, Outputs], tuple[Tensor, Statistics]]


class System(Protocol):
    """A learning system: one file each in this package."""

    turns: tuple[Turn, ...]

    def build(self) -> dict[str, nn.Module]:
        """The players, freshly initialised from torch's global generator."""
        ...

    def draw(self, generators: list[np.random.Generator]) -> tuple[Tensor, Tensor | None]:
        """Prior latents and noise, a row from each generator: float32 [B, Z] on the CPU."""
        ...

    def make(self, maker: str, forward: Forward, micro: Micro) -> dict[str, Tensor]:
        """Run a maker's forward on a micro-batch."""
        ...


def detached(outputs: Outputs) -> dict[str, Tensor]:
    """The same tensors without their graph."""
    return {name: value.detach() for name, value in outputs.items()}


def scalars(**values: Tensor) -> dict[str, Tensor]:
    """Detached float32 scalars for the metrics."""
    return {name: value.detach().to(torch.float32) for name, value in values.items()}
