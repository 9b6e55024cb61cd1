"""What is told before a run against real modules and real tensors."""

import pytest

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
from agehpc.systems.base import Collectives


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


def test_activations_grow_with_the_micro_batch_and_shrink_in_bf16():
    one = config(AgeSystem()).model_copy(update={"train": TrainConfig(global_batch=256)})
    twice = one.model_copy(update={"train": TrainConfig(global_batch=512)})
    ratio = estimate(twice, make_plan(twice, 1)).activations
    ratio /= estimate(one, make_plan(one, 1)).activations
    assert ratio == pytest.approx(2, rel=0.01)
    # At this size the copies of the weights in bf16 weigh, too.
    narrow = one.model_copy(update={"train": TrainConfig(global_batch=256, precision="bf16")})
    plan = make_plan(one, 1)
    ratio = estimate(narrow, plan).activations / estimate(one, plan).activations
    assert 0.5 < ratio < 0.75


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
        assert got == pytest.approx(wanted * n, abs=4 * 2 * 5)
    assert size.states["critics"][0] == 16 * counts["critics"]
    least = size.states["critics"][0] - 8 * counts["critics"]  # less gradients, and some more
    assert size.peak > size.activations + least


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
