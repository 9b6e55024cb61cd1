from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agehpc.config.schema import DataConfig
from agehpc.data import order
from agehpc.data.order import Mix, Order, Place

sizes = st.lists(st.integers(0, 40), min_size=1, max_size=12).map(tuple).filter(sum)
columns = st.integers(1, 600)
seeds = st.integers(0, 2**63 - 1)
DEFAULT = DataConfig(kind="image", frames=1).interleave
SHARDS = tuple(np.random.default_rng(0).integers(800, 1200, 1000).tolist())


def sequence(made: Order, first: int, count: int) -> list[Place]:
    return [made.place(position) for position in range(first, first + count)]


@given(sizes, columns, seeds, st.integers(0, 5))
def test_an_epoch_holds_every_sample_once(
    samples: tuple[int, ...], interleave: int, seed: int, epoch: int
):
    total = sum(samples)
    places = sequence(Order("id", seed, samples, interleave), epoch * total, total)
    assert {place.epoch for place in places} == {epoch}
    seen = Counter((place.shard, place.index) for place in places)
    assert seen == Counter((s, i) for s, n in enumerate(samples) for i in range(n))


@given(sizes, columns, seeds, st.integers(0, 10_000))
def test_a_position_does_not_depend_on_what_was_asked_before(
    samples: tuple[int, ...], interleave: int, seed: int, position: int
):
    walked = Order("id", seed, samples, interleave)
    for other in (position + 977, 0, position - 1 if position else 1):
        walked.place(other)
    assert walked.place(position) == Order("id", seed, samples, interleave).place(position)


def shared(batch: Sequence[Place]) -> float:
    """The share of a batch's pairs whose two samples lie in one shard."""
    counts = Counter((place.epoch, place.shard) for place in batch).values()
    return sum(n * (n - 1) for n in counts) / (len(batch) * (len(batch) - 1))


@pytest.mark.parametrize("batch", [64, 512, 1024])
def test_a_batch_shares_shards_hardly_more_than_an_ideal_permutation(batch: int):
    """At the default settings, wherever in an epoch a batch lies; the bound is twice the ideal."""
    made = Order("id", 0, SHARDS, DEFAULT)
    total = sum(SHARDS)
    ideal = sum(n * (n - 1) for n in SHARDS) / (total * (total - 1))
    starts = np.random.default_rng(1).integers(0, total - batch, 20).tolist()
    found = np.mean([shared(sequence(made, start, batch)) for start in [0, *starts]])
    assert found <= 2 * ideal


@pytest.mark.parametrize(
    ("samples", "most"), [((1000,) * 5, 1.05), ((50,) * 400, 1.05), ((100_000, 1, 1), 1.01)]
)
def test_few_and_small_shards_are_mixed_too(samples: tuple[int, ...], most: float):
    made = Order("id", 0, samples, DEFAULT)
    total = sum(samples)
    ideal = sum(n * (n - 1) for n in samples) / (total * (total - 1))
    found = [shared(sequence(made, start, 64)) for start in range(0, min(total, 20_000) - 64, 64)]
    assert np.mean(found) <= most * ideal


@pytest.mark.parametrize(("world", "batch"), [(1, 512), (4, 512), (8, 512), (8, 256), (16, 1024)])
def test_a_rank_has_few_shards_open(world: int, batch: int):
    """It returns to the same columns: so many shards a step, and hardly others in the next 50."""
    made = Order("id", 0, SHARDS, DEFAULT)
    micro = batch // world
    own = max(DEFAULT, batch) // world
    found = set()
    for step in range(50):
        found |= {place.shard for place in sequence(made, step * batch + 3 * micro, micro)}
    assert len(found) <= 1.1 * own + 4


def test_a_rank_has_bounded_shards_open_for_any_batch():
    made = Order("id", 0, SHARDS, 64)
    for first in range(0, 20_000, 480):
        assert len({p.shard for p in sequence(made, first, 480)}) <= 64 + 8


def test_what_is_kept_for_a_position_is_bounded():
    """Planning an epoch of 10^8 samples makes two short arrays and one shard's permutation."""
    made = Order("id", 0, (1000,) * 100_000, DEFAULT)
    order._inside.cache_clear()
    made.place(90_000_000)
    assert order._inside.cache_info().currsize == 1
    assert [len(part) for part in order._plan(made, 0)] == [100_000, 100_000, DEFAULT]


def test_order_differs_by_epoch_seed_and_dataset():
    def epoch_of(of: Order, epoch: int) -> list[tuple[int, int]]:
        return [(p.shard, p.index) for p in sequence(of, epoch * 40, 40)]

    made = Order("id", 0, (10, 10, 20), 16)
    others = [Order("id", 1, (10, 10, 20), 16), Order("other", 0, (10, 10, 20), 16)]
    orders = [epoch_of(made, 0), epoch_of(made, 1), *(epoch_of(other, 0) for other in others)]
    assert len({tuple(order) for order in orders}) == 4


@pytest.mark.parametrize("interleave", [1, 7, 512])
def test_samples_are_shuffled_well(interleave: int):
    """Over many epochs a sample's place is uniform: mean and spread of a uniform draw."""
    made = Order("id", 0, (25, 25, 25, 25), interleave)
    found = []
    for epoch in range(400):
        places = [(p.shard, p.index) for p in sequence(made, epoch * 100, 100)]
        found.append(places.index((2, 3)))
    mean = sum(found) / 400
    spread = sum((x - mean) ** 2 for x in found) / 400
    assert abs(mean - 49.5) < 4 * (100 / 12**0.5) / 20
    assert 0.8 < spread / (100**2 / 12) < 1.2


weights = st.lists(st.integers(1, 9), min_size=1, max_size=6).map(tuple)


@given(weights, seeds, st.integers(0, 1000))
def test_a_mix_is_exact_in_every_round(shares: tuple[int, ...], seed: int, number: int):
    """And each order's own positions follow each other without a gap."""
    mix, length = Mix("id", seed, shares), sum(shares)
    places = [mix.place(p) for p in range(number * length, (number + 2) * length)]
    for half in (places[:length], places[length:]):
        assert Counter(which for which, _ in half) == Counter(dict(enumerate(shares)))
    for which, weight in enumerate(shares):
        own = [position for chosen, position in places if chosen == which]
        assert own == list(range(number * weight, (number + 2) * weight))


def test_a_mix_is_shuffled():
    """Every order comes as often at every place of a round."""
    mix = Mix("id", 0, (3, 1))
    at = Counter(p % 4 for p in range(4000) if mix.place(p)[0] == 1)
    assert all(abs(at[place] - 250) < 4 * (250 * 0.75) ** 0.5 for place in range(4))


def test_order_never_changes():
    """A resumed run continues the sequence that it began, under any later version."""
    made = Order("0123456789abcdef", 7, (3, 4, 5), 5)
    assert [(p.shard, p.index) for p in sequence(made, 0, 24)] == GOLDEN
    assert [which for which, _ in map(Mix("0123456789abcdef", 7, (3, 1)).place, range(12))] == MIXED


GOLDEN: list[tuple[int, int]] = [
    (0, 0),
    (2, 3),
    (1, 3),
    (0, 1),
    (2, 0),
    (2, 1),
    (1, 1),
    (1, 2),
    (0, 2),
    (2, 2),
    (2, 4),
    (1, 0),
    (2, 0),
    (0, 1),
    (1, 0),
    (2, 2),
    (1, 1),
    (2, 3),
    (0, 2),
    (1, 3),
    (2, 1),
    (1, 2),
    (2, 4),
    (0, 0),
]
MIXED: list[int] = [0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 1]
