"""Two domains without pairs: each in its own order."""

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from agehpc.config.schema import DataConfig
from agehpc.data.check import check
from agehpc.data.commands import main
from agehpc.data.loader import Batch, train_batches, validation_batches
from agehpc.data.shards import read_manifest
from agehpc.data.stream import Stream
from agehpc.errors import ConfigError, DataError

COUNTS = {"horse": 27, "zebra": 18}


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """27 horses of even and 18 zebras of odd levels, packed from two folders; 2 of each held out
    or so (by the hash of their names).
    """
    base = tmp_path_factory.mktemp("animals")
    for odd, (name, count) in enumerate(COUNTS.items()):
        (base / name).mkdir()
        for number in range(count):
            image = np.full((8, 8), 2 * number + odd, np.uint8)
            image[:, :2] = 200  # a side, to see mirroring
            Image.fromarray(image).save(base / name / f"{name}{number}.png")
    flags = ["--size", "8", "--image-format", "png", "--samples-per-shard", "7"]
    sources = [f"{base / 'horse'}/", str(base / "zebra")]
    assert main(["pack", *sources, str(base / "shards"), *flags]) == 0
    return base / "shards"


def config(folder: Path, **values: object) -> DataConfig:
    made = {"kind": "image", "shards": str(folder), "size": 8, "frames": 1, "pairing": "unpaired"}
    return check(DataConfig.model_validate(made | values), read_manifest(folder))


def batches(
    data: DataConfig, rank: int = 0, world: int = 1, accumulation: int = 1, total: int = 12
) -> Iterator[Batch]:
    return train_batches(
        data,
        7,
        start=5,
        global_batch=total,
        micro_batch=total // world // accumulation,
        accumulation=accumulation,
        rank=rank,
        world_size=world,
    )


def steps(data: DataConfig, count: int, **grouping: int) -> dict[int, tuple[bytes, bytes, int]]:
    """Both samples and the label by global position, over `count` optimizer steps of all ranks."""
    found: dict[int, tuple[bytes, bytes, int]] = {}
    for rank in range(grouping.get("world", 1)):
        stream = batches(data, rank, **grouping)
        for batch in itertools.islice(stream, count * grouping.get("accumulation", 1)):
            assert batch.second is not None
            for i, position in enumerate(batch.positions.tolist()):
                assert position not in found
                both = (batch.pixels[i].numpy().tobytes(), batch.second[i].numpy().tobytes())
                found[position] = *both, int(batch.labels[i])
        stream.close()  # pyright: ignore[reportAttributeAccessIssue]
    return found


def levels(x: torch.Tensor) -> list[int]:
    return x[:, 0, 0, 4].tolist()


def test_source_folders_are_the_domains(animals: Path):
    manifest = read_manifest(animals)
    assert manifest.classes == ("horse", "zebra")
    assert manifest.samples("train") + manifest.samples("validation") == 45
    assert len(manifest.splits["train"]) > 1
    data = config(animals)
    assert data.domains == data.classes == ("horse", "zebra")
    assert check(data, manifest) == data
    assert config(animals, domains=("zebra", "horse")).domains == ("zebra", "horse")


def test_batches_do_not_depend_on_who_reads_them(animals: Path):
    data = config(animals, shift=1, colour=0.2)
    alone = steps(data, 4)
    assert sorted(alone) == list(range(5, 53))
    assert steps(data, 4, world=2) == alone
    assert steps(data, 4, world=3, accumulation=2) == alone
    assert steps(data.model_copy(update={"workers": 1}), 4) == alone
    assert steps(data.model_copy(update={"interleave": 5}), 4) != alone


def test_each_domain_has_epochs_of_its_own(animals: Path):
    data = config(animals)
    manifest = read_manifest(animals)
    sizes = [len(Stream(data, manifest, "train", 7, name)) for name in ("horse", "zebra")]
    assert sizes[0] > sizes[1]
    assert sum(sizes) == manifest.samples("train")
    stream = train_batches(
        data, 7, start=0, global_batch=1, micro_batch=1, accumulation=1, rank=0, world_size=1
    )
    seen = list(itertools.islice(stream, 3 * sizes[0]))
    firsts = [levels(batch.pixels)[0] for batch in seen]
    seconds = [levels(batch.second)[0] for batch in seen if batch.second is not None]
    assert {int(batch.labels) for batch in seen} == {0}
    for found, size, odd in ((firsts, sizes[0], 0), (seconds, sizes[1], 1)):
        epochs = [found[i : i + size] for i in range(0, len(found) // size * size, size)]
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs) >= 3
        assert all(len(set(epoch)) == size for epoch in epochs)
        assert len({frozenset(epoch) for epoch in epochs}) == 1
        assert all(level % 2 == odd for level in found)


def test_domains_of_one_size_are_not_in_step(tmp_path: Path):
    """Two copies of one folder: over many positions every sample meets every other as often."""
    for name in ("left", "right"):
        (tmp_path / name).mkdir()
        for number in range(6):
            Image.new("L", (8, 8), number).save(tmp_path / name / f"{number}.png")
    flags = ["--size", "8", "--image-format", "png", "--validation-fraction", "0"]
    sources = [str(tmp_path / name) for name in ("left", "right")]
    assert main(["pack", *sources, str(tmp_path / "shards"), *flags]) == 0
    data = config(tmp_path / "shards")
    manifest = read_manifest(tmp_path / "shards")
    one, two = (Stream(data, manifest, "train", 0, name) for name in ("left", "right"))
    rank = {place: i for s in (one, two) for i, place in enumerate(sorted(map(s.place, range(6))))}
    met = Counter((rank[one.place(p)], rank[two.place(p)]) for p in range(6 * 600))
    assert set(met) == set(itertools.product(range(6), repeat=2))
    assert all(abs(count - 100) < 5 * 100**0.5 for count in met.values())


def test_the_second_domain_is_augmented_on_its_own(animals: Path):
    """Mirrored by draws that are independent of the first's."""
    table = Counter()
    for batch in itertools.islice(batches(config(animals)), 50):
        assert batch.second is not None
        one = (batch.pixels[:, 0, 0, 0] != 200).tolist()
        two = (batch.second[:, 0, 0, 0] != 200).tolist()
        table.update(zip(one, two, strict=True))
    assert all(abs(table[cell] - 150) < 50 for cell in itertools.product((False, True), repeat=2))


def test_validation_ends_with_the_smaller_domain(animals: Path):
    data = config(animals)
    manifest = read_manifest(animals)
    sizes = [len(Stream(data, manifest, "train", None, name)) for name in ("horse", "zebra")]
    found = list(validation_batches(data, split="train", batch=4, limit=None))
    positions = torch.cat([batch.positions for batch in found])
    assert positions.tolist() == list(range(min(sizes)))
    for which in ("pixels", "second"):
        values = [level for batch in found for level in levels(getattr(batch, which))]
        assert len(set(values)) == min(sizes)
        assert {level % 2 for level in values} == {int(which == "second")}
    assert sum(len(b.labels) for b in validation_batches(data, batch=4, limit=1)) <= 1


def test_domains_that_are_not_there(animals: Path, people: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"--data\.domains horse cow: .*no class cow; it has hor"):
        config(animals, domains=("horse", "cow"))
    assert main(["pack", str(people), str(tmp_path / "none"), "--labels", "none"]) == 0
    with pytest.raises(ConfigError, match=r"needs two domains but .* has 0 classes \(none\).*A B"):
        config(tmp_path / "none", kind="video", size=64)
    three = tmp_path / "three"
    for name in ("a", "b", "c"):
        (three / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(three / name / f"{name}.png")
    flags = ["--size", "8", "--validation-fraction", "0.3"]
    assert main(["pack", str(three), str(tmp_path / "shards"), *flags]) == 0
    with pytest.raises(ConfigError, match=r"has 3 classes \(a, b, c\): choose two of them with"):
        config(tmp_path / "shards")
    held_out = {"a": ("b", "c"), "b": ("a", "c"), "c": ("a", "b")}
    missing = [n for n in held_out if _is_held_out(tmp_path / "shards", n)]
    with pytest.raises(DataError, match=f"has no sample of class {missing[0]}"):
        config(tmp_path / "shards", domains=(missing[0], held_out[missing[0]][0]))


def _is_held_out(folder: Path, name: str) -> bool:
    data = DataConfig(kind="image", shards=str(folder), size=8, frames=1)
    return len(Stream(data, read_manifest(folder), "train", None, name)) == 0


def test_domains_without_unpaired_and_twice_the_same():
    for values in ({"domains": ("a", "b")}, {"domains": ("a", "a"), "pairing": "unpaired"}):
        with pytest.raises(ValueError, match=r"set --data\.pairing unpaired and two different"):
            DataConfig.model_validate({"kind": "image", "frames": 1} | values)
