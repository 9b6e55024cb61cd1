"""Fused modules inside DeepSpeed ZeRO-3, which frees parameters after each use."""

from typing import Any

import pytest

from tests.kernels.zero_bodies import alone
from tests.ranks import run_ranks


@pytest.fixture(scope="module")
def two() -> list[dict[str, Any]]:
    """What two ranks end with, for each kind of network."""
    names = ["plain", "input", "output", "sync"]
    return run_ranks(2, "tests.kernels.zero_bodies:kinds", names, timeout=400)


@pytest.mark.parametrize("save", ["input", "output"])
def test_training_equals_the_reference_modules(two: list[dict[str, Any]], save: str):
    for rank in two:
        compare(rank[save], rank["plain"])


def test_statistics_of_all_ranks_equal_one_process(two: list[dict[str, Any]]):
    wanted = alone()
    for rank in two:
        compare(rank["sync"], wanted)


def compare(found: dict[str, list[float]], wanted: dict[str, list[float]]) -> None:
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert found[name] == pytest.approx(values, rel=1e-5, abs=1e-5), name
