import tracemalloc

import pytest

from agehpc.config.schema import DataConfig
from agehpc.data.decode import OPEN_SHARDS
from agehpc.data.index import Member, Sample
from agehpc.data.lean import LeanSamples


def sample(number: int, pair: bool = False) -> Sample:
    def member(suffix: str) -> Member:
        name = f"train-000000-{number:06d}.{suffix}"
        return Member(
            name=name, offset=number * 20_000, size=18_000 + number, crc32=number * 77_777
        )

    return Sample(
        key=f"train-000000-{number:06d}",
        frames=64,
        label=-1 if number % 3 else number % 7,
        media=member("mp4"),
        json_member=member("json"),
        input=member("input.png") if pair else None,
    )


def test_samples_come_back_as_they_were():
    samples = [sample(number, pair=number % 2 == 0) for number in range(20)]
    lean = LeanSamples(samples)
    assert [lean[i] for i in range(len(lean))] == samples
    with pytest.raises(IndexError):
        lean[20]


def test_an_open_shard_takes_little_memory():
    def used(make: type) -> int:
        tracemalloc.start()
        kept = make(sample(number) for number in range(1000))
        assert len(kept) == 1000
        now, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return now

    assert used(LeanSamples) < 0.2 * used(tuple)


def test_shards_read_side_by_side_stay_open():
    assert DataConfig(kind="image", frames=1).interleave < OPEN_SHARDS
