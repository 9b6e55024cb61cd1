"""What is told before a run against real modules and real tensors."""

import pytest
import torch
from torch import Tensor

from agehpc.config.plan import make_plan
from agehpc.config.schema import (
    AgeSystem,
    Config,
    DataConfig,
    EmaConfig,
    LatentNetworkConfig,
    ModelConfig,
    NetworkConfig,
    PlayerConfig,
    RunConfig,
    TrainConfig,
    ZeroConfig,
)
from agehpc.estimate import estimate
from agehpc.systems import build_system
from agehpc.systems.base import Collectives, Micro
from agehpc_kernels import backend


def config(
    system: AgeSystem,
    *,
    kind: str = "image",
    norm: str = "batch",
    stage: int = 0,
    precision: str = "fp32",
) -> Config:
    net = NetworkConfig(width=4, max_width=16, norm=norm)  # type: ignore[arg-type]
    zero = ZeroConfig(stage=stage)
    return Config(
        run=RunConfig(recipe="test"),
        data=DataConfig(kind=kind, size=16, frames=4 if kind == "video" else 1, channels=3),  # type: ignore[arg-type]
        system=system,
        model=ModelConfig(
            latent=6,
            encoder=net,
            generator=net,
            discriminator=net,
            latent_discriminator=LatentNetworkConfig(),
        ),
        players={
            "autoencoder": PlayerConfig(zero=zero, ema=EmaConfig(half_life_kimg=1.0)),
            "critics": PlayerConfig(),
        },
        train=TrainConfig(global_batch=8, micro_batch=2, precision=precision),  # type: ignore[arg-type]
    )


SYSTEMS = [
    AgeSystem(),
    AgeSystem(r1_gamma=1.0, warmup_kimg=5.0, latent_noise=0.1),
    AgeSystem(feature_weight=1.0, reconstruction_fake_weight=1.0, squared_weight=1.0),
]


@pytest.mark.parametrize("norm", ["batch", "sync_batch", "group", "none"])
@pytest.mark.parametrize("kind", ["image", "video"])
@pytest.mark.parametrize("settings", SYSTEMS, ids=range(len(SYSTEMS)))
def test_activations_are_what_real_forwards_save(settings: AgeSystem, kind: str, norm: str):
    conf = config(settings, kind=kind, norm=norm)
    system = build_system(conf, Collectives.alone())
    players = system.build()
    weights = {p.data_ptr() for player in players.values() for p in player.parameters()}
    x_BCS = torch.rand(2, 3, 16, 16) if kind == "image" else torch.rand(2, 3, 4, 16, 16)
    z_BZ = torch.randn(2, 6)
    draws = {"z": z_BZ, "noise": torch.randn(2, 6)}
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    micro = Micro(x_BCS, torch.full((2,), -1), samples_seen=10**9, step=0, draws=draws)
    # The formulas of the kernels in plain torch keep what the kernels keep.
    with backend("aten"), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        players["autoencoder"].requires_grad_(False)
        made = system.make("autoencoder", players, micro)
        system.turns[0].loss(players, micro, made)
        players["autoencoder"].requires_grad_(True)
        players["critics"].requires_grad_(False)
        made = system.make("autoencoder", players, micro)
        system.turns[1].loss(players, micro, made)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    wanted = sum(size for pointer, size in storages.items() if pointer not in weights)
    assert estimate(conf, make_plan(conf, 1)).activations == wanted
    assert wanted > 10_000


def test_activations_grow_with_the_micro_batch_and_halve_in_bf16():
    one = config(AgeSystem())
    plan = make_plan(one, 1)
    twice = one.model_copy(update={"train": TrainConfig(global_batch=8, micro_batch=4)})
    ratio = estimate(twice, make_plan(twice, 1)).activations / estimate(one, plan).activations
    assert ratio == pytest.approx(2, rel=0.01)
    half = estimate(config(AgeSystem(), precision="bf16"), plan).activations
    assert half == estimate(one, plan).activations // 2


@pytest.mark.parametrize("stage", range(4))
def test_parameters_and_states(stage: int):
    conf = config(AgeSystem(), stage=stage)
    size = estimate(conf, make_plan(conf, 4))
    players = build_system(conf, Collectives.alone()).build()
    counts = {n: sum(p.numel() for p in m.parameters()) for n, m in players.items()}
    assert size.parameters == counts
    # Bytes: weights, gradients, two moments (and their master weights where sharded), average.
    n = counts["autoencoder"]
    per_parameter = [
        4 + 4 + 8 + 4,
        4 + 4 + 12 / 4 + 4,
        4 + 4 / 4 + 12 / 4 + 4,
        4 / 4 + 4 / 4 + 12 / 4 + 4 / 4,
    ]
    for got, wanted in zip(size.states["autoencoder"], per_parameter, strict=True):
        assert got == pytest.approx(wanted * n, abs=16)
    assert size.states["critics"][0] == 16 * counts["critics"]
    total = size.states["autoencoder"][stage] + size.states["critics"][0] + size.activations
    assert size.total(conf) == total


def test_nothing_is_allocated():
    net = NetworkConfig(width=512, max_width=8192)
    conf = config(AgeSystem()).model_copy(
        update={
            "model": ModelConfig(
                encoder=net,
                generator=net,
                discriminator=net,
                latent_discriminator=LatentNetworkConfig(),
            )
        }
    )
    assert estimate(conf, make_plan(conf, 1)).parameters["autoencoder"] > 10**7
