"""A system with tiny networks in float64 and a random batch, and what its turns do to them.

Shapes: B batch, C channels, S (H, W) or (T, H, W).
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from agehpc.config.schema import (
    Config,
    DataConfig,
    LatentNetworkConfig,
    ModelConfig,
    NetworkConfig,
    PatchConfig,
    PlayerConfig,
    ResnetConfig,
    RunConfig,
    UnetConfig,
)
from agehpc.config.systems import SystemConfig
from agehpc.data.keyed import philox
from agehpc.systems import build_system
from agehpc.systems.base import Collectives, Micro
from agehpc.systems.step import run_turns
from agehpc.train.engines import Engine

BATCH, SIZE, FRAMES, LATENT, CLASSES = 4, 16, 4, 6, 3
CHANNELS, INPUT_CHANNELS = 3, 1


def config(
    system: SystemConfig,
    *,
    video: bool = False,
    norm: Any = "batch",
    spectral: bool = False,
    parts: Mapping[str, Any] | None = None,
    **model: Any,
) -> Config:
    """Tiny networks for the parts that a system wants, or the `parts` given.

    With norm `batch` the discriminator has none where a gradient penalty forbids it.
    """
    judged = "none" if getattr(system, "gradient_penalty", 0) and norm == "batch" else norm
    conv = NetworkConfig(width=4, max_width=8, norm=norm)
    networks: dict[str, Any] = {
        "encoder": conv,
        "generator": conv,
        "discriminator": NetworkConfig(width=4, max_width=8, norm=judged, spectral=spectral),
        "latent_discriminator": LatentNetworkConfig(width=8, spectral=spectral),
        "translator": UnetConfig(width=2, max_width=4, norm=norm, dropout=0.0),
    }
    if system.name in ("pix2pix", "cyclegan"):
        networks["discriminator"] = PatchConfig(width=4, layers=2, norm=judged, spectral=spectral)
    if system.name == "cyclegan":
        networks["translator"] = ResnetConfig(width=4, blocks=1, norm=norm)
    chosen = parts or {name: networks[name] for name in system.wanted[0]}
    latent = {"latent": LATENT} if {"encoder", "generator"} & chosen.keys() else {}
    return Config(
        run=RunConfig(recipe="test"),
        data=DataConfig(
            kind="video" if video else "image",
            size=SIZE,
            frames=FRAMES if video else 1,
            channels=CHANNELS,
            input_channels=INPUT_CHANNELS if system.pairing == "paired" else None,
            pairing=system.pairing,
            classes=tuple("abcdef"[:CLASSES]),
        ),
        system=system,
        model=ModelConfig(**latent, **chosen, **model),
        players=dict.fromkeys(system.players, PlayerConfig()),
    )


def keys(seed: int, count: int = BATCH) -> Callable[[str], list]:
    """Generators of a batch's samples by purpose."""
    return lambda purpose: [philox(seed, purpose, n) for n in range(count)]


@dataclass
class Taken:
    """One backward of a player: its loss and every gradient by parameter's name."""

    player: str
    loss: Tensor
    gradients: dict[str, Tensor | None]


class PlainEngine:
    """An engine of plain torch that never changes its weights and notes each backward."""

    frozen = Engine.frozen  # the real one

    def __init__(self, name: str, module: nn.Module, log: list[Taken]) -> None:
        self.name, self.module, self.log = name, module.train(), log

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        return self.module(*args, **kwargs)

    def backward(self, loss: Tensor) -> None:
        self.module.zero_grad()
        loss.backward()
        gradients = {
            name: None if p.grad is None else p.grad.clone()
            for name, p in self.module.named_parameters()
        }
        self.module.zero_grad()
        self.log.append(Taken(self.name, loss.detach(), gradients))

    def step(self) -> None:
        """Weights stay, so that every turn starts from the same."""


class Scene:
    """A system, its players in float64 and a batch with the system's own draws."""

    def __init__(
        self,
        config: Config,
        *,
        step: int = 0,
        samples_seen: int = 100,
        seed: int = 0,
        collectives: Collectives | None = None,
    ) -> None:
        torch.manual_seed(seed)
        self.config, self.settings = config, config.system
        self.system: Any = build_system(config, collectives or Collectives.alone())
        self.players: dict[str, Any] = {
            name: player.double().train() for name, player in self.system.build().items()
        }
        for name, p in ((n, p) for m in self.players.values() for n, p in m.named_parameters()):
            if p.dim() == 1 or "norm" in name:  # scales of 1 and shifts of 0 hide mistakes
                p.data += 0.2 * torch.randn_like(p)
            elif not name.endswith("original"):
                p.data *= 3  # DCGAN's N(0, 0.02) gives logits of almost 0
        self.micro = self.batch(step=step, samples_seen=samples_seen, seed=seed)

    def batch(self, *, step: int = 0, samples_seen: int = 100, seed: int = 0) -> Micro:
        """A random batch with its draws."""
        video = self.config.data.kind == "video"
        space = (FRAMES, SIZE, SIZE) if video else (SIZE, SIZE)
        made = torch.Generator().manual_seed(seed)

        def samples(channels: int) -> Tensor:
            shape = (BATCH, channels, *space)
            return torch.rand(shape, generator=made, dtype=torch.float64) * 2 - 1

        x = samples(CHANNELS)
        other = {"none": 0, "paired": INPUT_CHANNELS, "unpaired": CHANNELS}[self.settings.pairing]
        labels = torch.randint(CLASSES, (BATCH,), generator=made)
        drawn = self.system.draw(keys(seed), (CHANNELS, *space), step)
        assert all(t.dtype == torch.float32 and len(t) == BATCH for t in drawn.values())
        draws = {name: t.double() for name, t in drawn.items()}
        return Micro(x, labels, samples_seen, step, draws, samples(other) if other else None)

    @property
    def labels(self) -> Tensor | None:
        """Classes of the batch where the model is conditional."""
        return self.micro.labels if self.config.model.conditional else None

    def copies(self) -> dict[str, Any]:
        """The players again, for the other side of a comparison."""
        return copy.deepcopy(self.players)

    def run(self, *, shared_forward: bool = False, turns: Any = None) -> list[Taken]:
        """Take the system's turns (or those given), all on the one batch."""
        log: list[Taken] = []
        engines: Any = {n: PlainEngine(n, m, log) for n, m in self.players.items()}
        before, self.system.turns = self.system.turns, turns or self.system.turns
        count = 1 if shared_forward else max(turn.repeats for turn in self.system.turns)
        batches = [[self.micro]] * count
        run_turns(self.system, engines, batches, shared_forward=shared_forward)
        self.system.turns = before
        return log


Objective = Callable[[Scene, dict[str, Any]], Tensor]


def check(scene: Scene, objectives: Mapping[str, Objective], rtol: float = 1e-9) -> None:
    """Hold the loss and every gradient of each player's turn against a formula.

    Args:
        scene: networks and batch.
        objectives: formula of each player's loss, from the scene and copies of its players.
        rtol: of the loss, and of a tensor's gradient against the largest of the player's.
    """
    wanted: dict[str, tuple[Tensor, dict[str, Tensor]]] = {}
    for name, objective in objectives.items():
        players = scene.copies()
        loss = objective(scene, players)
        named = dict(players[name].named_parameters())
        slopes = torch.autograd.grad(loss, list(named.values()), materialize_grads=True)
        wanted[name] = loss.detach(), dict(zip(named, slopes, strict=True))
    shares = scene.settings.shares_forward and scene.settings.batches == 1
    for shared_forward in (False, True) if shares else (False,):
        taken = scene.run(shared_forward=shared_forward)
        assert {one.player for one in taken} == wanted.keys()
        for one in taken:
            loss, slopes = wanted[one.player]
            assert one.loss.item() == pytest.approx(loss.item(), rel=rtol, abs=1e-12), one.player
            largest = max(slope.abs().max().item() for slope in slopes.values())
            assert largest > 1e-6, one.player
            for name, slope in slopes.items():
                got = one.gradients[name]
                assert got is not None, name  # an optimizer needs zeros, not nothing
                off = (got - slope).abs().max().item()
                assert off <= 10 * rtol * largest, (one.player, name, off, largest)
