"""The largest micro-batch against rehearsals of it and of the next one."""

from dataclasses import replace

import pytest

from agehpc.config.plan import make_plan
from agehpc.planning.memory import at_stage, largest_micro_batch
from agehpc.planning.rehearsal import rehearse
from tests.planning.measured import configured

ARGV = ["image_age_demo", "--data.size", "16", "--train.global-batch", "8"]


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_the_largest_micro_batch_fits_and_the_next_does_not(stage: int):
    config = at_stage(configured(ARGV), stage)
    plan = make_plan(config, 2)
    once = rehearse(config, plan)
    twice = rehearse(config, replace(plan, micro_batch=8))
    capacity = 12_345_678
    found = largest_micro_batch(once, twice, plan, capacity)
    assert found > 8

    def peak(micro_batch: int) -> int:
        return max(rehearse(config, replace(plan, micro_batch=micro_batch)).totals)

    assert peak(found) <= capacity < peak(found + 1)


def test_nothing_fits_where_the_states_do_not():
    config = configured(ARGV)
    plan = make_plan(config, 2)
    once = rehearse(config, plan)
    twice = rehearse(config, replace(plan, micro_batch=8))
    assert largest_micro_batch(once, twice, plan, 1_000_000) == 0


def test_players_that_stage_3_is_closed_to_stay_at_2():
    config = at_stage(configured(ARGV), 3)
    assert {n: p.zero.stage for n, p in config.players.items()} == {
        "autoencoder": 3,
        "critics": 2,
    }
