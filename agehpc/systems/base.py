"""What a learning system is made of: players, the turns they take, and what a trained one can do.

The trainer runs a system's turns in order. In a turn one player is trained and every other one is
frozen; the turn's loss sees the outputs of one maker's forward, with a graph only where the maker
is the player being trained.

Shapes: B batch, C channels, S (H, W) or (T, H, W), Z latent size.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agehpc.config.schema import Config
from agehpc.errors import UsageError
from agehpc.models.blocks import DATA, PRIOR
from agehpc.models.prior import draw

Outputs = Mapping[str, Tensor]
Statistics = Mapping[str, Tensor]
Forward = Callable[..., dict[str, Tensor]]
Forwards = Mapping[str, Forward]
Players = Mapping[str, nn.Module]
Keys = Callable[[str], list[np.random.Generator]]
"""Purpose to one generator a sample, keyed by its global position."""

ALWAYS = 2**62
"""Samples seen when every warm-up is over."""


USES = {
    "encode": ("encoder", "age, autoencoder, denoising or vae"),
    "generate": ("generator of latents", "age, autoencoder, denoising, vae, gan or wgan"),
    "sample": ("prior that its generator was trained on", "age, vae, gan or wgan"),
    "translate": ("translator", "pix2pix or cyclegan"),
    "restore": ("restoring network", "denoising"),
    "critique": ("data discriminator", "age, gan or wgan"),
}
"""Uses of a trained model: what a system needs for each, and systems that have it."""


@dataclass(frozen=True)
class Collectives:
    """What a system does over all ranks; the trainer hands it in.

    Attributes:
        moments: mean and biased variance of latents [B, Z] over the global batch.
        gather: the ranks' tensors [B, ...], detached, joined in the order of ranks.
        rank: this process's place in that order.
    """

    moments: Callable[[Tensor], tuple[Tensor, Tensor]]
    gather: Callable[[Tensor], Tensor]
    rank: Callable[[], int] = lambda: 0

    @staticmethod
    def alone() -> "Collectives":
        """Those of one process without a group."""
        return Collectives(lambda z: (z.mean(0), z.var(0, correction=0)), lambda x: x.detach())


@dataclass(frozen=True)
class Micro:
    """A micro-batch on the device.

    Attributes:
        x: samples [B, C, S], float32 in [-1, 1].
        labels: class of each sample, int64 [B]; -1 where it has none.
        samples_seen: samples of the whole run before this step.
        step: optimizer steps before this one.
        draws: what the system drew for these samples by name, `z` the prior latents [B, Z].
        second: the input of a pair, or a sample of the other domain [B, C', S], as `x`.
    """

    x: Tensor
    labels: Tensor
    samples_seen: int
    step: int
    draws: Mapping[str, Tensor] = field(default_factory=dict)
    second: Tensor | None = None

    @property
    def z(self) -> Tensor:
        """Prior latents [B, Z]."""
        return self.draws["z"]


@dataclass(frozen=True)
class Turn:
    """One player's turn.

    Attributes:
        player: who is trained.
        maker: whose forward makes what the loss needs.
        loss: (every player's forward by name, micro-batch, outputs of the maker) to a scalar and
            detached scalars for the metrics.
        repeats: times that it is taken in a step, each on a global batch of its own.
    """

    player: str
    maker: str
    loss: Callable[[Forwards, Micro, Outputs], tuple[Tensor, Statistics]]
    repeats: int = 1


class System(ABC):
    """A learning system: one file each in this package.

    A subclass gives `turns`, `models`, `build` and `make`, and of the uses below those that it
    has.

    Args:
        config: with what the shards decide filled in.
        collectives: what it does over all ranks.
    """

    turns: tuple[Turn, ...]
    models: tuple[str, ...]
    """Players whose averaged weights are the trained model; the others only judge."""
    weight_bounds: Mapping[str, float]
    """Players whose weights are clipped to [-bound, bound] after each of their steps."""
    has_prior = True
    """Whether draws of the configured prior are latents that the generator knows."""

    def __init__(self, config: Config, collectives: Collectives) -> None:
        self.config = config
        # Its own class of settings, which only the system itself knows.
        self.settings: Any = config.system
        self.collectives = collectives
        self.weight_bounds = {}

    def labels(self, micro: Micro) -> Tensor | None:
        """Classes of a micro-batch where the model is conditional."""
        return micro.labels if self.config.model.conditional else None

    @abstractmethod
    def build(self) -> dict[str, nn.Module]:
        """The players, freshly initialised from torch's global generator."""

    def draw(self, keys: Keys, shape: tuple[int, ...], step: int) -> dict[str, Tensor]:
        """Prior latents and noise, a row from each sample's generator: float32 on the CPU.

        Args:
            keys: the generators.
            shape: (C, S) of a sample.
            step: optimizer steps before this one, for what is not needed at each.
        """
        return {"z": draw(self.config.model.prior, keys("prior"), self.config.model.latent)}

    @abstractmethod
    def make(self, maker: str, forwards: Forwards, micro: Micro) -> dict[str, Tensor]:
        """Run a maker's forward on a micro-batch."""

    def state(self) -> dict[str, Tensor]:
        """What the system remembers between steps beside its players; equal on every rank."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027 - most have none
        """Take back what `state` gave; KeyError where something of it is missing."""

    def calibrate(self, players: Players, micro: Micro) -> None:
        """Run all that the trained model is made of, as in training, for the norms' statistics."""
        for maker in dict.fromkeys(turn.maker for turn in self.turns):
            self.make(maker, players, micro)

    # What a trained model can do, from `players` in evaluation mode.

    def encode(self, players: Players, x_BCS: Tensor) -> Tensor:
        """Latents [B, Z] of samples in [-1, 1]."""
        raise self.lacks("encode")

    def generate(
        self, players: Players, z_BZ: Tensor, labels_B: Tensor | None, bank: int
    ) -> Tensor:
        """Samples [B, C, S] in [-1, 1] from latents; differentiable in them."""
        raise self.lacks("generate")

    def translate(self, players: Players, x_BCS: Tensor, to: str | None) -> Tensor:
        """The other side of a pair, or x in another domain: [B, C', S] in [-1, 1]."""
        raise self.lacks("translate")

    def restore(self, players: Players, x_BCS: Tensor) -> Tensor:
        """The clean sample behind a corrupted one: [B, C, S] in [-1, 1]."""
        raise self.lacks("restore")

    def critique(
        self, players: Players, x_BCS: Tensor, labels_B: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The data discriminator's logits [B] and features [B, F]; `players` hold the judges."""
        raise self.lacks("critique")

    def can(self, use: str) -> bool:
        """Whether the trained model has one of the uses above, or generates from draws: sample."""
        if use == "sample":
            return self.has_prior and self.can("generate")
        return getattr(type(self), use) is not getattr(System, use)

    def lacks(self, use: str) -> UsageError:
        """The error for a use that the system does not have."""
        what, systems = USES[use]
        return UsageError(
            f"recipe {self.config.run.recipe} trains the system {self.settings.name}, which has "
            f"no {what}: it cannot {use}; use a run of {systems}"
        )

    # What a run shows and measures while it trains.

    def reconstruct(self, players: Players, micro: Micro) -> Tensor:
        """G(E(x)) of a micro-batch."""
        z_BZ = self.encode(players, micro.x)
        return self.generate(players, z_BZ, self.labels(micro), DATA)

    def rows(self, players: Players, micro: Micro) -> dict[str, Tensor]:
        """Rows of the sample grid by caption, each [B, C, S] in [-1, 1]."""
        rows = {"real": micro.x}
        if self.can("encode") and self.can("generate"):
            rows["reconstruction"] = self.reconstruct(players, micro)
        if "z" in micro.draws:
            rows["generated"] = self.generate(players, micro.z, self.labels(micro), PRIOR)
        return rows

    def compare(self, players: Players, micro: Micro) -> dict[str, tuple[Tensor, Tensor]]:
        """Names to (made, wanted) samples, whose PSNR is measured on the validation split."""
        if self.can("encode") and self.can("generate"):
            return {"reconstruction": (self.reconstruct(players, micro), micro.x)}
        return {}

    def score(self, players: Players, micro: Micro) -> dict[str, Tensor]:
        """Further figures of each sample [B], averaged over the validation split."""
        return {}


def detached(outputs: Outputs) -> dict[str, Tensor]:
    """The same tensors without their graph."""
    return {name: value.detach() for name, value in outputs.items()}


def scalars(**values: Tensor) -> dict[str, Tensor]:
    """Detached float32 scalars for the metrics."""
    return {name: value.detach().to(torch.float32) for name, value in values.items()}


def total(terms: Mapping[str, tuple[float, Tensor]]) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum of a loss's terms, and their unweighted values for the metrics."""
    loss = torch.stack([weight * value for weight, value in terms.values()]).sum()
    return loss, scalars(**{name: value for name, (_, value) in terms.items()})


def ramp(samples_seen: int, start_kimg: float, length_kimg: float) -> float | None:
    """Share of its weight that a loss has: None before `start_kimg`, 1 after `length_kimg` more."""
    since = samples_seen / 1000 - start_kimg
    if since < 0:
        return None
    return min(1.0, since / length_kimg) if length_kimg > 0 else 1.0
