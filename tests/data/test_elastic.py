"""Every sample once an epoch, however a run is shared out over its starts; validation likewise.

Every picture is of one level, which is its name.
"""

import itertools
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from agehpc.config.schema import DataConfig
from agehpc.data.check import check
from agehpc.data.commands import main
from agehpc.data.loader import train_batches, validation_batches
from agehpc.data.mixture import read_shards
from agehpc.data.stream import Stream

SAMPLES = 60


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    base = tmp_path_factory.mktemp("elastic")
    for level in range(SAMPLES):
        (base / "images" / "ab"[level % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), level).save(base / "images" / "ab"[level % 2] / f"{level}.png")
    flags = ["--size", "8", "--image-format", "png", "--samples-per-shard", "7"]
    flags += ["--validation-fraction", "0.4"]
    assert main(["pack", str(base / "images"), str(base / "shards"), *flags]) == 0
    made = DataConfig(kind="image", shards=str(base / "shards"), size=8, frames=1, interleave=5)
    return check(made, read_shards(made))


start = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 4))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(start, min_size=1, max_size=6), st.sampled_from([False, True]))
def test_exactly_once_under_any_sequence_of_starts(
    data: DataConfig, starts: list[tuple[int, int, int, int]], balance: bool
):
    """World size, micro-batch, accumulation, and so the global batch, differ in every start.

    Workers take whole micro-batches in turn, so that they share out the same positions.
    """
    data = data.model_copy(update={"balance": balance})
    cursor = 0
    seen: dict[int, int] = {}
    for world, micro, accumulation, steps in starts:
        for rank in range(world):
            stream = train_batches(
                data,
                3,
                start=cursor,
                global_batch=world * micro * accumulation,
                micro_batch=micro,
                accumulation=accumulation,
                rank=rank,
                world_size=world,
            )
            for batch in itertools.islice(stream, steps * accumulation):
                levels = batch.pixels[:, 0, 0, 0].tolist()
                for position, level in zip(batch.positions.tolist(), levels, strict=True):
                    assert position not in seen
                    seen[position] = level
        cursor += steps * world * micro * accumulation
    assert sorted(seen) == list(range(cursor))
    found = [seen[position] for position in range(cursor)]
    streams = [found]
    if balance:
        streams = [[level for level in found if level % 2 == odd] for odd in range(2)]
        assert max(map(len, streams)) - min(map(len, streams)) <= 1
    stream = Stream(data, read_shards(data), "train", 3)
    sizes = [len(stream)] if not balance else [sum(pool.sizes) for pool in stream._pools]
    for levels, size in zip(streams, sizes, strict=True):
        for i in range(0, len(levels), size):
            epoch = levels[i : i + size]
            assert len(set(epoch)) == len(epoch)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("batch", "limit"), [(4, None), (3, 7), (50, None), (2, 1), (1, 3)])
def test_validation_over_ranks_is_exact(
    data: DataConfig, world: int, batch: int, limit: int | None
):
    """Together the ranks read what one does; their batches are equal in number and size."""
    whole = list(validation_batches(data, batch=batch, limit=limit))
    expected = {
        position: pixels
        for one in whole
        for position, pixels in zip(one.positions.tolist(), one.pixels, strict=True)
    }
    ranks = [
        list(validation_batches(data, batch=batch, limit=limit, rank=rank, world_size=world))
        for rank in range(world)
    ]
    assert len({tuple(one.pixels.shape for one in own) for own in ranks}) == 1
    assert len(ranks[0]) == -(-len(expected) // (batch * world))
    found = Counter()
    padding = 0
    for one in itertools.chain(*ranks):
        assert len(one.positions) == len(one.pixels) == len(one.labels) <= batch
        for position, pixels in zip(one.positions.tolist(), one.pixels, strict=True):
            if position < 0:
                padding += 1
            else:
                found[position] += 1
                assert torch.equal(pixels, expected[position])
    assert found == Counter(dict.fromkeys(range(len(expected)), 1))
    assert padding < world


def test_one_rank_is_not_padded(data: DataConfig):
    batches = list(validation_batches(data, batch=7, limit=None))
    total = read_shards(data).samples("validation")
    assert total % 7
    assert torch.cat([batch.positions for batch in batches]).tolist() == list(range(total))
    assert list(validation_batches(data, batch=7, limit=0)) == []


@pytest.mark.slow  # starts eleven processes
def test_workers_share_out_the_same_samples(demo_shards: Path):
    """1 x 0, 1 x 2, 2 x 1 and 4 x 2 ranks x workers: clips are of the same bits."""
    made = DataConfig(kind="video", shards=str(demo_shards), frames=4, shift=2, colour=0.2)
    data = check(made, read_shards(made))

    def read(world: int, workers: int) -> dict[int, bytes]:
        found = {}
        for rank in range(world):
            stream = train_batches(
                data.model_copy(update={"workers": workers}),
                7,
                start=5,
                global_batch=8,
                micro_batch=8 // world,
                accumulation=1,
                rank=rank,
                world_size=world,
            )
            for batch in itertools.islice(stream, 3):
                for position, pixels in zip(batch.positions.tolist(), batch.pixels, strict=True):
                    found[position] = pixels.numpy().tobytes()
            stream.close()
        return found

    alone = read(1, 0)
    assert sorted(alone) == list(range(5, 29))
    for world, workers in ((1, 2), (2, 1), (4, 2)):
        assert read(world, workers) == alone
