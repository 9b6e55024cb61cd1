"""Features over ranks: every sample once and in its place, for any number of ranks and batch."""

from functools import cache
from typing import Any

import pytest
import torch

from tests.evaluate.collect_bodies import Simple, samples
from tests.ranks import run_ranks

# Kind, what the extractor takes, samples, batch: with two ranks uneven parts, with four empty ones.
CASES = [
    ["image", "image", 11, 3],
    ["image", "image", 11, 100],
    ["video", "image", 5, 2],
    ["video", "clip", 5, 2],
    ["image", "image", 1, 1],
]


@cache
def found(world_size: int) -> list[list[dict[str, Any]]]:
    return run_ranks(world_size, "tests.evaluate.collect_bodies:everything", CASES)


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("case", range(len(CASES)), ids=str)
def test_every_sample_is_in_its_place(world_size: int, case: int):
    kind, takes, count, _ = CASES[case]
    each = samples(kind, count)
    if (kind, takes) == ("video", "image"):  # every second frame
        each = [x[:, t] for x in each for t in (0, 2, 4)]
    one_by_one = [Simple(takes)(x[None]) for x in each]
    for rank in found(world_size):
        for name in ("features", "extremes"):
            wanted = torch.cat([one[name] for one in one_by_one])
            torch.testing.assert_close(torch.tensor(rank[case][name]), wanted)
        mean = torch.cat([one["features"] for one in one_by_one]).double().mean(0)
        assert rank[case]["mean"] == pytest.approx(mean.tolist(), rel=1e-9)
        assert rank[case]["count"] == len(each)


def test_an_error_of_one_rank_is_raised_on_all():
    told = run_ranks(2, "tests.evaluate.collect_bodies:damaged_on_rank_1", timeout=60)
    wanted = "features by simple of samples 2 to 3 of here hold NaN or infinite values"
    assert all(text.startswith(wanted) for text in told)
