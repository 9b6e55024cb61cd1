from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from agehpc.data.order import Order, Place

sizes = st.lists(st.integers(1, 40), min_size=1, max_size=12).map(tuple)
blocks = st.integers(1, 100)
seeds = st.integers(0, 2**63 - 1)


def sequence(order: Order, first: int, count: int) -> list[Place]:
    return [order.place(position) for position in range(first, first + count)]


@given(sizes, blocks, seeds, st.integers(0, 5))
def test_an_epoch_holds_every_sample_once(
    samples: tuple[int, ...], block: int, seed: int, epoch: int
):
    total = sum(samples)
    places = sequence(Order("id", seed, samples, block), epoch * total, total)
    assert {place.epoch for place in places} == {epoch}
    seen = Counter((place.shard, place.index) for place in places)
    assert seen == Counter((s, i) for s, n in enumerate(samples) for i in range(n))


@given(sizes, blocks, seeds, st.integers(0, 10_000))
def test_a_position_does_not_depend_on_what_was_asked_before(
    samples: tuple[int, ...], block: int, seed: int, position: int
):
    walked = Order("id", seed, samples, block)
    for other in (position + 977, 0, position - 1 if position else 1):
        walked.place(other)
    assert walked.place(position) == Order("id", seed, samples, block).place(position)


@given(sizes, blocks, st.integers(1, 8), st.integers(1, 5), st.integers(0, 300))
def test_any_world_size_sees_the_same_sequence(
    samples: tuple[int, ...], block: int, world: int, micro: int, start: int
):
    """Slicing by rank and putting the slices together again is the sequence itself."""
    order = Order("id", 1, samples, block)
    steps = 3
    by_rank = [
        [
            order.place(start + (step * world + rank) * micro + i)
            for step in range(steps)
            for i in range(micro)
        ]
        for rank in range(world)
    ]
    together = [
        place
        for step in range(steps)
        for rank in range(world)
        for place in by_rank[rank][step * micro : (step + 1) * micro]
    ]
    assert together == sequence(order, start, steps * world * micro)


def test_a_block_stays_within_few_shards():
    """What bounds how many shards are open: a block of 20 over shards of 10 touches 3 at most."""
    order = Order("id", 0, (10,) * 50, 20)
    for block in range(25):
        assert len({place.shard for place in sequence(order, block * 20, 20)}) <= 3


def test_order_differs_by_epoch_seed_and_dataset():
    def epoch_of(order: Order, epoch: int) -> list[tuple[int, int]]:
        return [(p.shard, p.index) for p in sequence(order, epoch * 40, 40)]

    made = Order("id", 0, (10, 10, 20), 16)
    others = [Order("id", 1, (10, 10, 20), 16), Order("other", 0, (10, 10, 20), 16)]
    orders = [epoch_of(made, 0), epoch_of(made, 1), *(epoch_of(other, 0) for other in others)]
    assert len({tuple(order) for order in orders}) == 4


def test_samples_are_shuffled_well():
    """Over many epochs a sample's place is uniform: mean and spread of a uniform draw."""
    order = Order("id", 0, (25, 25, 25, 25), 100)
    found = []
    for epoch in range(400):
        places = [(p.shard, p.index) for p in sequence(order, epoch * 100, 100)]
        found.append(places.index((2, 3)))
    mean = sum(found) / 400
    spread = sum((x - mean) ** 2 for x in found) / 400
    assert abs(mean - 49.5) < 4 * (100 / 12**0.5) / 20
    assert 0.8 < spread / (100**2 / 12) < 1.2


def test_order_never_changes():
    """A resumed run continues the sequence that it began, under any later version."""
    order = Order("0123456789abcdef", 7, (3, 4, 5), 6)
    assert [(p.shard, p.index) for p in sequence(order, 0, 24)] == GOLDEN


GOLDEN: list[tuple[int, int]] = [
    (0, 0),
    (2, 2),
    (0, 1),
    (0, 2),
    (2, 1),
    (2, 0),
    (1, 3),
    (1, 2),
    (1, 1),
    (1, 0),
    (2, 3),
    (2, 4),
    (2, 4),
    (2, 0),
    (2, 1),
    (0, 0),
    (2, 3),
    (2, 2),
    (0, 2),
    (1, 1),
    (1, 0),
    (1, 3),
    (0, 1),
    (1, 2),
]
