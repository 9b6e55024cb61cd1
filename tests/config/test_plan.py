"""The arithmetic of batches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agehpc.config.plan import make_plan
from agehpc.config.schema import (
    Config,
    DataConfig,
    PlayerConfig,
    RunConfig,
    TrainConfig,
    ZeroConfig,
)
from agehpc.errors import ConfigError
from agehpc.recipes import RECIPES
from tests.free import FreeSystem


def config(batch: int, micro: int | None = None, *, kimg: float = 1.0, stage: int = 0) -> Config:
    return Config(
        run=RunConfig(recipe="test"),
        data=DataConfig(kind="image", frames=1),
        system=FreeSystem(),
        players={
            "autoencoder": PlayerConfig(zero=ZeroConfig(stage=stage)),
            "critics": PlayerConfig(),
        },
        train=TrainConfig(global_batch=batch, micro_batch=micro, kimg=kimg),
    )


@given(ranks=st.integers(1, 64), micro=st.integers(2, 64), accumulation=st.integers(1, 8))
def test_the_parts_make_the_whole(ranks: int, micro: int, accumulation: int):
    batch = ranks * micro * accumulation
    plan = make_plan(config(batch, micro), ranks)
    assert (plan.world_size, plan.micro_batch, plan.accumulation) == (ranks, micro, accumulation)
    assert plan.global_batch == batch
    assert (plan.steps - 1) * batch < 1000 <= plan.steps * batch
    assert make_plan(config(batch), ranks).accumulation == 1


@given(batch=st.integers(1, 200), ranks=st.integers(1, 16), micro=st.none() | st.integers(1, 40))
def test_a_plan_or_a_reason(batch: int, ranks: int, micro: int | None):
    fits = batch % ranks == 0 and (batch // ranks) % (micro or batch // ranks) == 0
    enough = (micro or batch // ranks) * ranks >= 2
    if fits and enough:
        plan = make_plan(config(batch, micro), ranks)
        assert plan.world_size * plan.micro_batch * plan.accumulation == batch
    else:
        with pytest.raises(ConfigError, match=r"--train\."):
            make_plan(config(batch, micro), ranks)


@pytest.mark.parametrize(
    ("batch", "micro", "ranks", "told"),
    [
        (10, None, 4, r"--train.global-batch 10 does not divide over 4 ranks; use 8 or 12"),
        (3, None, 4, r"does not divide over 4 ranks; use 4, or another"),
        (24, 5, 2, r"--train.micro-batch 5 does not divide .* 24 / 2 ranks = 12; use (4|6)"),
        (8, 16, 1, r"--train.micro-batch 16 does not divide .*; use 8"),
        (4, 1, 1, r"a micro-batch of 1 on 1 rank has no variance"),
    ],
)
def test_reasons_name_the_flag_and_the_fix(batch: int, micro: int | None, ranks: int, told: str):
    with pytest.raises(ConfigError, match=told):
        make_plan(config(batch, micro), ranks)


@pytest.mark.parametrize(("stage", "shared"), [(0, True), (1, True), (2, True), (3, False)])
def test_one_forward_for_both_turns(stage: int, shared: bool):
    assert make_plan(config(8, stage=stage), 2).shared_forward == shared
    assert not make_plan(config(8, 2, stage=stage), 2).shared_forward


def test_steps_round_up():
    assert make_plan(config(64, kimg=0.064), 1).steps == 1
    assert make_plan(config(64, kimg=0.065), 1).steps == 2


def test_one_sample_is_enough_where_nothing_is_taken_over_a_batch():
    def alone(recipe: str) -> Config:
        found = RECIPES[recipe]()
        train = found.train.model_copy(update={"global_batch": 1, "micro_batch": 1})
        return found.model_copy(update={"train": train})

    assert make_plan(alone("cyclegan_64"), 1).micro_batch == 1  # the paper's batch; instance norms
    for recipe in ("pix2pix_64", "dcgan_64", "image_age_moments_64"):
        with pytest.raises(ConfigError, match="no variance"):
            make_plan(alone(recipe), 1)
