"""What the ranks of test_parity.py run, and what a case of it is."""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from agehpc.cluster.collectives import gather
from agehpc.cluster.groups import Ranks
from agehpc.config.plan import make_plan
from agehpc.config.schema import (
    AgeSystem,
    Config,
    DataConfig,
    LatentNetworkConfig,
    ModelConfig,
    NetworkConfig,
    OptimConfig,
    PlayerConfig,
    RunConfig,
    TrainConfig,
    ZeroConfig,
)
from agehpc.systems import build_system
from agehpc.systems.base import Collectives, Micro
from agehpc.systems.step import run_turns
from agehpc.train.engines import Engine
from agehpc_kernels.norm import global_moments

BATCH, LATENT = 8, 16
WORLD = 2


@dataclass(frozen=True)
class Case:
    """One training: its sharding, its mathematics, and how the code is broken, if it is."""

    autoencoder: int = 0  # ZeRO stages
    critics: int = 0
    accumulation: int = 1
    r1: bool = False
    norm: str = "sync_batch"
    video: bool = False
    eps: float = 1e-4
    # Kinks (LeakyReLU, L1) turn float32 rounding into differences of 1e-3 within 20 steps, also
    # between two plain-torch runs on permuted batches: exact cases are smooth.
    smooth: bool = True
    steps: int = 20
    shared: bool | None = None  # None: as the plan says
    clip: float = 0.0
    weight_decay: float = 0.0
    warmup: bool = False
    precision: str = "fp32"
    broken: str | None = None

    @property
    def name(self) -> str:
        """What differs from the defaults."""
        default = asdict(Case())
        stages = f"zero-{self.autoencoder}-{self.critics}"
        told = {k: v for k, v in asdict(self).items() if v != default[k]}
        rest = [f"{k}={v}" for k, v in told.items() if k not in ("autoencoder", "critics")]
        return " ".join([stages, *rest])

    @property
    def mathematics(self) -> "Case":
        """The case without what must not change its result."""
        return replace(self, autoencoder=0, critics=0, shared=None, precision="fp32", broken=None)


def config_of(case: Case) -> Config:
    """Real networks at 32 x 32, images or clips of 8 frames."""
    slope = 1.0 if case.smooth else 0.2
    net: Any = NetworkConfig(
        width=4 if case.video else 8,
        max_width=64,
        norm=case.norm,
        slope=slope,  # type: ignore[arg-type]
    )
    optim = OptimConfig(lr=1e-3, eps=case.eps, weight_decay=case.weight_decay)
    stages = {"autoencoder": case.autoencoder, "critics": case.critics}
    return Config(
        run=RunConfig(recipe="parity"),
        data=DataConfig(
            kind="video" if case.video else "image",
            frames=8 if case.video else 1,
            size=32,
            channels=3,
        ),
        model=ModelConfig(
            latent=LATENT,
            encoder=net,
            generator=net,
            discriminator=net,
            latent_discriminator=LatentNetworkConfig(width=32),
            upsample="resize" if case.video else "transposed",
        ),
        system=AgeSystem(
            reconstruction="mse" if case.smooth else "l1",
            feature_weight=0.0 if case.smooth else 1.0,
            reconstruction_fake_weight=0.3,
            squared_weight=0.5,
            latent_noise=0.1,
            warmup_kimg=0.05 if case.warmup else 0.0,
            adversarial_ramp_kimg=0.08,
            r1_gamma=1.0 if case.r1 else 0.0,
            r1_every=2,
        ),
        players={
            name: PlayerConfig(zero=ZeroConfig(stage=stage), optim=optim, clip=case.clip)
            for name, stage in stages.items()
        },
        train=TrainConfig(
            global_batch=BATCH,
            micro_batch=BATCH // WORLD // case.accumulation,
            precision=case.precision,  # type: ignore[arg-type]
        ),
    )


def micro(case: Case, step: int, chosen: slice) -> Micro:
    """Part of the global batch of a step."""
    generator = torch.Generator().manual_seed(1000 + step)
    space = (8, 32, 32) if case.video else (32, 32)
    x_BCS = torch.rand((BATCH, 3, *space), generator=generator) * 2 - 1
    z_BZ = torch.randn(BATCH, LATENT, generator=generator)
    noise_BZ = torch.randn(BATCH, LATENT, generator=generator)
    draws = {"z": z_BZ[chosen], "noise": noise_BZ[chosen]}
    return Micro(
        x_BCS[chosen], torch.full_like(draws["z"][:, 0], -1).long(), step * BATCH, step, draws
    )


def train_all(ranks: Ranks, folder: str, cases: list[dict[str, Any]]) -> list[str]:
    """Train every case on these ranks; each rank writes what it has to a file a case."""
    names = []
    for fields in cases:
        case = Case(**fields)
        with broken(case):
            tensors = _train(ranks, case)
        save_file(tensors, Path(folder) / f"{case.name} rank {ranks.env.rank}.safetensors")
        names.append(case.name)
        dist.barrier()
    return names


def _train(ranks: Ranks, case: Case) -> dict[str, Tensor]:
    config = config_of(case)
    plan = make_plan(config, ranks.env.world_size)
    torch.manual_seed(0)
    moments = _local if case.broken == "local moments" else _moments
    system = build_system(config, Collectives(moments, gather))
    if case.broken == "not divided":
        system.turns = tuple(
            replace(turn, loss=_times(case.accumulation, turn.loss)) for turn in system.turns
        )
    engines = {
        name: Engine(name, module, config.players[name], plan, case.precision, ranks.device)
        for name, module in system.build().items()
    }
    for step in range(case.steps):
        micros = []
        for k in range(plan.accumulation):
            first = (k * WORLD + ranks.env.rank) * plan.micro_batch
            if case.broken == "wrong order":
                first = (ranks.env.rank * plan.accumulation + k) * plan.micro_batch
            micros.append(micro(case, step, slice(first, first + plan.micro_batch)))
        shared = plan.shared_forward if case.shared is None else case.shared
        run_turns(system, engines, [micros], shared_forward=shared)
    found: dict[str, Tensor] = {}
    for player, engine in engines.items():
        for kind, tensors in (
            ("weight", engine.weights()),
            ("buffer", engine.buffers()),
            ("moment", engine.moments()),
        ):
            found |= {f"{kind}/{player}.{name}": t.clone() for name, t in tensors.items()}
    return found


@contextlib.contextmanager
def broken(case: Case) -> Iterator[None]:
    """Break the code under test in the way that a case names."""

    @contextlib.contextmanager
    def without_statistics(engine: Engine) -> Iterator[None]:
        engine.module.requires_grad_(False)
        yield
        engine.module.requires_grad_(True)

    def nothing(engine: Engine) -> Any:
        return contextlib.nullcontext()

    frozen = {"not frozen": nothing, "statistics not frozen": without_statistics}
    if case.broken in frozen:
        with mock.patch.object(Engine, "frozen", frozen[case.broken]):
            yield
    else:
        yield


def _times(factor: int, loss: Any) -> Any:
    def scaled(*arguments: Any) -> Any:
        value, told = loss(*arguments)
        return value * factor, told

    return scaled


def _moments(z_BZ: Tensor) -> tuple[Tensor, Tensor]:
    m_Z, v_Z, _ = global_moments(z_BZ)
    return m_Z, v_Z


def _local(z_BZ: Tensor) -> tuple[Tensor, Tensor]:
    return z_BZ.mean(0), z_BZ.var(0, correction=0)
