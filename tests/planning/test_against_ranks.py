"""The plan of memory and traffic against what real gloo ranks allocate and send."""

from collections import Counter
from functools import cache
from typing import Any

import pytest

from agehpc.config.plan import make_plan
from agehpc.planning.rehearsal import Rehearsal, rehearse
from agehpc.planning.wire import sent
from agehpc.recipes import RECIPES
from tests.planning.measured import configured
from tests.ranks import run_ranks

Recipe = tuple[str, tuple[str, ...]]
# Operators of torch.distributed, as they are called in a plan.
KINDS = {
    "allreduce_": "all_reduce",
    "_allgather_base_": "all_gather",
    "_reduce_scatter_base_": "reduce_scatter",
}
BROADCASTS = "broadcast_"  # stage 3's checks of its record: integers, not planned
CONTROL = 2 * 8  # bytes of the two flags that the ranks agree on after a step: not taken here
SMALL: list[Recipe] = [("image_age_demo", ())]
ODD: list[Recipe] = [
    ("video_age_demo", ()),  # statistics over all ranks
    ("image_age_demo", ("--train.micro-batch", "1")),  # two micro-batches a step
    ("mnist_gan_conv", ()),
    ("mnist_autoencoder", ()),  # one player, whose record stage 3 can go by
    ("image_age_demo", ("--train.precision", "bf16")),
]
LARGE: list[Recipe] = [("dcgan_64", ()), ("image_age_64", ()), ("video_age_64", ())]
RECIPES_OF = {"small": SMALL, "odd": ODD, "large": LARGE}


def cases(recipes: list[Recipe], world: int) -> list[list[str]]:
    """Each recipe at each stage that its players may have, with two samples a rank."""
    found = []
    for name, flags in recipes:
        least = RECIPES[name]().system.least_stages
        for stage in range(4):
            stages = {
                player: min(stage, 2) if player in least else stage
                for player in RECIPES[name]().players
            }
            zero = [
                word
                for player, own in stages.items()
                for word in (f"--players.{player}.zero.stage", str(own))
            ]
            found.append([name, "--train.global-batch", str(2 * world), *flags, *zero])
    return found


@cache
def measured(world: int, group: str) -> list[list[dict[str, Any]]]:
    """By rank, what was measured of each case of a group."""
    todo = cases(RECIPES_OF[group], world)
    return run_ranks(world, "tests.planning.measured:measure_all", todo, timeout=1500)


def planned(argv: list[str], world: int) -> Rehearsal:
    config = configured(argv)
    return rehearse(config, make_plan(config, world), device="cpu")


GROUPS = [
    pytest.param(1, "small", marks=pytest.mark.slow),
    (2, "small"),
    pytest.param(4, "small", marks=pytest.mark.slow),
    pytest.param(8, "small", marks=pytest.mark.slow),
    pytest.param(2, "odd", marks=pytest.mark.slow),
    *(pytest.param(world, "large", marks=pytest.mark.slow) for world in (1, 2, 4)),
]


@pytest.mark.timeout(3000)
@pytest.mark.parametrize(("world", "group"), GROUPS)
def test_memory_and_traffic_are_those_of_real_ranks(world: int, group: str):
    for number, argv in enumerate(cases(RECIPES_OF[group], world)):
        plan = planned(argv, world)
        ranks = [rank[number] for rank in measured(world, group)]
        # Of the ranks' figures the least: gloo's threads may hold a tensor for longer than needed.
        peak, between = (min(rank[what] for rank in ranks) for what in ("peak", "between"))
        assert max(plan.totals) == pytest.approx(peak, rel=0.1), argv
        assert sum(plan.between.values()) == pytest.approx(between, rel=0.1), argv
        if world == 1:
            assert sum(sent(c, 1) for c in plan.collectives) == 0
            continue
        wanted: Counter[str] = Counter()
        for operator, size in ranks[0]["collectives"]:
            if operator != BROADCASTS:
                wanted[KINDS[operator]] += size
        got: Counter[str] = Counter({"all_reduce": -CONTROL})
        for collective in plan.collectives:
            got[collective.kind] += collective.payload
        assert set(got) == set(wanted), argv
        for kind, size in wanted.items():
            assert got[kind] == pytest.approx(size, rel=0.05), (argv, kind)
        total = sum(sent(c, world) for c in plan.collectives)
        # gloo's reduce-scatter is an all-reduce; the plan is for libraries that have one.
        total += sum(sent(c, world) for c in plan.collectives if c.kind == "reduce_scatter")
        for real in ranks:
            assert total == pytest.approx(real["sent"], rel=0.05), argv
