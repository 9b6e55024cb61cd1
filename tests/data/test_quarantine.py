"""Bad samples: told once, replaced alike whoever reads them, and limited."""

import contextlib
import functools
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agehpc.config.schema import DataConfig
from agehpc.data import loader
from agehpc.data.index import read_index
from agehpc.data.quarantine import Fault, Places, Quarantine
from agehpc.data.samples import Samples
from agehpc.data.shards import read_manifest
from agehpc.errors import DataError
from tests.data.broken import BrokenSamples
from tests.data.levels import SEED, damage, levels_config, levels_shards, read, stream

EPOCH = 18
SHARDS = 5


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return levels_shards(tmp_path_factory.mktemp("levels"))


@pytest.fixture
def data(shards: Path) -> DataConfig:
    return levels_config(shards)


@pytest.fixture
def bad(shards: Path, tmp_path: Path) -> DataConfig:
    """The same with two damaged samples in one shard and one in another."""
    folder = Path(shutil.copytree(shards, tmp_path / "bad"))
    for shard, index in ((1, 0), (1, 3), (3, 2)):
        damage(folder, shard, index)
    return levels_config(folder)


def fault(index: int, position: int, shard: int = 0) -> Fault:
    return Fault(
        shard=f"train-{shard:06d}.tar",
        key=f"k{index}",
        index=index,
        kind="crc",
        message="no",
        position=position,
    )


def places(data: DataConfig, quarantine: Quarantine | None = None) -> Places:
    return Places(Samples(data, read_manifest(data.shards), "train", SEED), quarantine)


def test_damaged_samples_are_told_once_and_replaced(data: DataConfig, bad: DataConfig):
    quarantine = Quarantine(bad)
    wanted, found = read(data, 6, 9), read(bad, 6, 9, quarantine=quarantine)
    told = quarantine.agree(quarantine.take())
    names = [(f.shard, f.index, f.kind, f.message) for f in told]
    crc = "crc", "its bytes do not match their checksum"
    assert sorted(names) == [
        ("train-000001.tar", 0, *crc),
        ("train-000001.tar", 3, *crc),
        ("train-000003.tar", 2, *crc),
    ]
    for f in told:
        keys = [s.key for s in read_index(bad.shards, f.shard).samples]
        assert f.key == keys[f.index]
    order, lost = places(data), {(1, 0), (1, 3), (3, 2)}
    level_of = {tuple(order.unit(p, 0)[2:]): wanted[p] for p in range(EPOCH)}
    first_met = {}
    for position in range(3 * EPOCH):
        place = tuple(order.unit(position, 0)[2:])
        if place not in lost:
            assert found[position] == wanted[position]
            continue
        first_met.setdefault(place, position)
        shard = place[0]
        same_shard = {level_of[shard, i] for i in range(4) if (shard, i) in level_of}
        assert found[position] in same_shard - {level_of[p] for p in lost if p in level_of}
    # A lost sample is told of where it is due first, or earlier in the place of another one.
    for f in told:
        place = (int(f.shard[6:12]), f.index)
        due = tuple(order.unit(f.position, 0)[2:])
        assert f.position == first_met[place] or (f.position < first_met[place] and due in lost)


@pytest.mark.parametrize(("ranks", "workers"), [(1, 2), (2, 0), (2, 1), (3, 0)])
def test_substitutes_do_not_depend_on_ranks_and_workers(bad: DataConfig, ranks: int, workers: int):
    """Three epochs; each rank finds the bad samples for itself."""
    wanted = read(bad, 6, 9, quarantine=Quarantine(bad))
    found = {}
    shared = bad.model_copy(update={"workers": workers})
    for rank in range(ranks):
        told = Quarantine(bad)
        found |= read(shared, 6, 9, ranks=ranks, only=rank, quarantine=told)
        assert {f.kind for f in told.take()} <= {"crc"}
    assert found == wanted


def test_substitutes_are_drawn_by_position(data: DataConfig):
    """Not one sample for all: each position of a bad one has its own, all of its shard."""
    quarantine = Quarantine(data, [fault(0, 0)])
    order, replaced = places(data), places(data, quarantine)
    at = [p for p in range(40 * EPOCH) if order.unit(p, 0)[2:] == (0, 0)]
    assert len(at) == 40
    units = [replaced.unit(p, 0) for p in at]
    assert {unit.shard for unit in units} == {0}
    assert {unit.index for unit in units} == {1, 2, 3}
    assert replaced.unit(at[0] + 1, 0) == order.unit(at[0] + 1, 0)


def test_a_shard_without_a_good_sample_is_replaced_by_the_next(data: DataConfig):
    whole = [fault(i, 0, shard) for shard in range(SHARDS) for i in range(4)]
    order = places(data)
    at = next(p for p in range(EPOCH) if order.unit(p, 0).shard == 3)
    left = places(data, Quarantine(data, [f for f in whole if f.shard == "train-000003.tar"]))
    assert left.unit(at, 0).shard == 4
    with pytest.raises(DataError, match="no sample left"):
        places(data, Quarantine(data, whole)).unit(at, 0)


def test_a_sample_is_skipped_from_where_it_was_found(data: DataConfig):
    quarantine = Quarantine(data, [fault(0, 7)])
    assert [quarantine.skips("train-000000.tar", 0, p) for p in (0, 6, 7, 8)] == [
        *(False, False),
        *(True, True),
    ]
    assert not quarantine.skips("train-000001.tar", 0, 8)
    assert not quarantine.skips("train-000000.tar", 1, 8)
    assert quarantine.agree([fault(0, 5), fault(1, 9), fault(1, 8)]) == [fault(1, 8)]
    assert quarantine.skips("train-000000.tar", 0, 5)
    assert [quarantine.count(cursor) for cursor in (7, 8, 9)] == [0, 1, 2]


def test_what_was_found_is_replayed(
    data: DataConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """A run whose processes crashed, and its second half by one in which nothing happens."""
    crashing = data.model_copy(update={"workers": 1})
    quarantine = Quarantine(data)
    with monkeypatch.context() as patched:
        faults = {(2, 1): "exit", (4, 0): "exit"}
        patched.setattr(loader, "Samples", functools.partial(BrokenSamples, faults))
        through = read(crashing, 6, 6, quarantine=quarantine)
    told = quarantine.take()
    assert {f.kind for f in told} == {"crash"}
    assert read(data, 6, 6) != through
    for start in (0, 12, 24):
        again = read(data, 6, 6 - start // 6, start=start, quarantine=Quarantine(data, told))
        assert again == {p: v for p, v in through.items() if p >= start}


def test_the_limit_is_a_share_of_what_was_read(data: DataConfig):
    lax = data.model_copy(update={"max_bad_fraction": 0.4, "bad_allowance": 1})
    quarantine = Quarantine(lax)
    # Of 18 samples; that epochs repeat does not make it laxer.
    assert [quarantine.allowed(cursor) for cursor in (1, 5, 10, 18, 1000)] == [1, 2, 4, 7, 7]
    quarantine.agree([fault(0, 0), fault(1, 1), fault(2, 9)])
    quarantine.check(1)
    with pytest.raises(DataError) as caught:
        quarantine.check(4)
    for part in ("2 of the 4 samples", "train-000000.tar: sample k1 (crc: no)", "lets 1 pass"):
        assert part in str(caught.value)
    assert "k2" not in str(caught.value)
    quarantine.check(9)


def test_a_rank_stops_at_too_many_of_its_own(bad: DataConfig):
    strict = bad.model_copy(update={"bad_allowance": 2})
    quarantine = Quarantine(strict)
    with pytest.raises(DataError, match=r"3 of the .* samples read .* lets 2 pass: "):
        read(strict, 6, 9, quarantine=quarantine)
    assert len(quarantine.take()) == 3  # for the file


def test_labels_go_with_the_substitute(bad: DataConfig):
    found = read(bad, 6, 3, quarantine=Quarantine(bad))
    assert {(pixels[0] >= 100) == bool(label) for pixels, label in found.values()} == {True}


def test_a_sample_is_tried_by_its_own_input_too(tmp_path: Path):
    """Of pairs, a damaged input image makes the whole pair bad."""
    folder = levels_shards(tmp_path, "--pairs", "lowres", "--pairs-factor", "2")
    paired = levels_config(folder, pairing="paired", shift=0)
    member = read_index(folder, "train-000000.tar").samples[1].input
    assert member is not None
    damage(folder, 0, 1, member)
    quarantine = Quarantine(paired)
    read(paired, 6, 3, quarantine=quarantine)
    (told,) = quarantine.take()
    assert (told.index, told.kind) == (1, "crc")
    assert "input image" in told.message


def test_each_domain_has_its_own_substitutes(shards: Path, tmp_path: Path):
    folder = Path(shutil.copytree(shards, tmp_path / "bad"))
    labels = [s.label for s in read_index(folder, "train-000000.tar").samples]
    damage(folder, 0, 0)
    unpaired = levels_config(folder, pairing="unpaired")
    quarantine = Quarantine(unpaired)
    batches = list(_pixels(unpaired, quarantine))
    (told,) = quarantine.agree(quarantine.take())
    assert told.index == 0
    assert labels[0] == 0
    assert all(first < 100 <= second for pair in batches for first, second in pair)


def _pixels(data: DataConfig, quarantine: Quarantine) -> Iterator[list[tuple[int, int]]]:
    with contextlib.closing(stream(data, 6, quarantine=quarantine)) as opened:
        for batch in itertools.islice(opened, 4):
            assert batch.second is not None
            first_B, second_B = batch.pixels[:, 0, 0, 0], batch.second[:, 0, 0, 0]
            yield list(zip(first_B.tolist(), second_B.tolist(), strict=True))
