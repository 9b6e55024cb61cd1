"""Several folders of shards as one, with weights, and classes drawn equally often.

Every picture is of one level, which is its name.
"""

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agehpc.config.load import resolve
from agehpc.config.schema import DataConfig, identity_hash
from agehpc.config.text import dump, read_yaml
from agehpc.data.check import check, check_labelled
from agehpc.data.commands import main
from agehpc.data.loader import Batch, samples_at, train_batches, validation_batches
from agehpc.data.mixture import read_shards
from agehpc.data.readers import open_reader
from agehpc.data.stream import Stream
from agehpc.errors import ConfigError, DataError

FIRST = {"cat": range(0, 9), "dog": range(10, 15)}
SECOND = {"dog": range(20, 24), "eel": range(30, 36)}


def pack(base: Path, classes: dict[str, range], *flags: str, size: int = 8) -> str:
    for name, levels in classes.items():
        (base / name).mkdir(parents=True)
        for level in levels:
            Image.new("L", (8, 8), level).save(base / name / f"{base.name}{level}.png")
    made = ["--size", str(size), "--image-format", "png", "--samples-per-shard", "4"]
    if "--validation-fraction" not in flags:
        flags = (*flags, "--validation-fraction", "0")
    assert main(["pack", str(base), f"{base}-shards", *made, *flags]) == 0
    return f"{base}-shards"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    base = tmp_path_factory.mktemp("mixture")
    return pack(base / "one", FIRST), pack(base / "two", SECOND)


def config(shards: str | Sequence[str], **values: object) -> DataConfig:
    made = {"kind": "image", "size": 8, "frames": 1, "flip": False, "shards": shards}
    data = DataConfig.model_validate(made | values)
    return check(data, read_shards(data))


def read(data: DataConfig, count: int, start: int = 0) -> list[tuple[int, str]]:
    """Level and class of the samples from a position on."""
    stream = train_batches(
        data,
        7,
        start=start,
        global_batch=1,
        micro_batch=1,
        accumulation=1,
        rank=0,
        world_size=1,
    )
    return [named(data, batch)[0] for batch in itertools.islice(stream, count)]


def named(data: DataConfig, batch: Batch) -> list[tuple[int, str]]:
    levels, classes = batch.pixels[:, 0, 0, 0].tolist(), data.classes
    assert classes is not None
    return list(zip(levels, [classes[label] for label in batch.labels.tolist()], strict=True))


def truth(*folders: dict[str, range]) -> Counter[tuple[int, str]]:
    return Counter(
        (level, name) for folder in folders for name, levels in folder.items() for level in levels
    )


def test_without_weights_an_epoch_holds_every_sample_of_all_folders_once(folders: tuple[str, str]):
    data = config(folders)
    assert data.classes == ("cat", "dog", "eel")
    for epoch in range(2):
        assert Counter(read(data, 24, start=24 * epoch)) == truth(FIRST, SECOND)
    assert config(folders[:1]) == config(folders[0])
    swapped = config(folders[::-1])
    assert swapped.classes == ("dog", "eel", "cat")
    assert Counter(read(swapped, 24)) == truth(FIRST, SECOND)


def test_weights_are_exact_and_each_folder_has_epochs_of_its_own(folders: tuple[str, str]):
    data = config(folders, weights=(3, 1))
    found = read(data, 4 * 40)
    own = [[level for level, _ in found if (level >= 20) == bool(second)] for second in range(2)]
    for begin in range(0, len(found), 4):
        assert sum(level >= 20 for level, _ in found[begin : begin + 4]) == 1
    for levels, folder in zip(own, (FIRST, SECOND), strict=True):
        size = sum(map(len, folder.values()))
        epochs = [levels[i : i + size] for i in range(0, len(levels) // size * size, size)]
        assert len(epochs) >= 4
        assert all(sorted(epoch) == sorted(level for level, _ in truth(folder)) for epoch in epochs)
        assert len(set(map(tuple, epochs))) == len(epochs)
    assert read(data, 20, start=77) == found[77:97]
    assert {pair for pair in found} == set(truth(FIRST, SECOND))


def test_classes_in_balance(folders: tuple[str, str]):
    """Over folders: dogs of both are one class."""
    data = config(folders, balance=True)
    found = read(data, 3 * 40)
    for begin in range(0, len(found), 3):
        assert {name for _, name in found[begin : begin + 3]} == {"cat", "dog", "eel"}
    for name in ("cat", "dog", "eel"):
        expected = sorted(level for level, label in truth(FIRST, SECOND) if label == name)
        own = [level for level, label in found if label == name]
        for i in range(0, len(own) - len(expected), len(expected)):
            assert sorted(own[i : i + len(expected)]) == expected
    assert read(data, 20, start=55) == found[55:75]


def test_a_class_held_out_of_training_is_not_balanced(tmp_path: Path):
    shards = pack(tmp_path / "one", FIRST | SECOND, "--hold-out", "eel")
    found = read(config(shards, balance=True), 40)
    assert Counter(name for _, name in found) == {"cat": 20, "dog": 20}


@pytest.mark.parametrize("values", [{"weights": (2, 1)}, {"balance": True}, {}])
def test_batches_do_not_depend_on_who_reads_them(folders: tuple[str, str], values: dict):
    data = config(folders, shift=2, **values)

    def steps(world: int, micro: int, accumulation: int) -> dict[int, tuple[bytes, int]]:
        found = {}
        for rank in range(world):
            stream = train_batches(
                data,
                7,
                start=5,
                global_batch=12,
                micro_batch=micro,
                accumulation=accumulation,
                rank=rank,
                world_size=world,
            )
            for batch in itertools.islice(stream, 4 * accumulation):
                for i, position in enumerate(batch.positions.tolist()):
                    found[position] = batch.pixels[i].numpy().tobytes(), int(batch.labels[i])
        return found

    alone = steps(1, 12, 1)
    assert sorted(alone) == list(range(5, 53))
    assert steps(2, 6, 1) == steps(3, 2, 2) == alone


@pytest.mark.parametrize("values", [{"weights": (2, 1)}, {"balance": True}, {}])
def test_shards_read_side_by_side_are_shared_among_the_orders(
    folders: tuple[str, str], values: dict
):
    data = config(folders, interleave=3, **values)
    stream = Stream(data, read_shards(data), "train", 0)
    assert sum(order.interleave for order in stream._orders) == 3


def test_validation_reads_all_folders_in_turn(tmp_path: Path):
    half = ("--validation-fraction", "0.5")
    folders = [pack(tmp_path / name, made, *half) for name, made in (("a", FIRST), ("b", SECOND))]
    data = config(folders, weights=(5, 1))
    apart = [config(folder) for folder in folders]
    together = [
        pair for b in validation_batches(data, batch=4, limit=None) for pair in named(data, b)
    ]
    one_by_one = [
        pair
        for own in apart
        for batch in validation_batches(own, batch=3, limit=None)
        for pair in named(own, batch)
    ]
    assert together == one_by_one
    assert 0 < len(together) < 24
    last = samples_at(data, split="validation", positions=[len(together) - 1])
    assert named(data, last) == together[-1:]


def test_domains_may_lie_in_different_folders(folders: tuple[str, str]):
    data = config(folders, pairing="unpaired", domains=("dog", "eel"))
    stream = train_batches(
        data, 0, start=0, global_batch=18, micro_batch=18, accumulation=1, rank=0, world_size=1
    )
    batch = next(stream)
    assert batch.second is not None
    assert Counter(level for level, _ in named(data, batch)) == dict.fromkeys(
        [*FIRST["dog"], *SECOND["dog"]], 2
    )
    assert Counter(batch.second[:, 0, 0, 0].tolist()) == dict.fromkeys(SECOND["eel"], 3)


@pytest.mark.parametrize("values", [{"weights": (2, 1)}, {"balance": True}, {}])
def test_what_may_stand_in_for_a_sample(folders: tuple[str, str], values: dict):
    """Its own shard first, then all others that are drawn as often: of its folder, or class."""
    data = config(folders, **values)
    manifest = read_shards(data)
    stream = Stream(data, manifest, "train", 7)
    kinds = [truth(FIRST, SECOND)] if not values else [truth(FIRST), truth(SECOND)]
    if "balance" in values:
        kinds = [Counter(p for p in truth(FIRST, SECOND) if p[1] == n) for n in data.classes or ()]
    reader = open_reader(data, manifest, "train")
    for position, own in enumerate(read(data, 12)):
        near = list(stream.near(position))
        assert near[0][0] == stream.place(position)[0]
        assert stream.place(position)[1] in near[0][1]
        found = Counter(reader.sample(s, int(i)).media.crc32 for s, part in near for i in part)
        (kind,) = [kind for kind in kinds if own in kind]
        assert sum(found.values()) == len(found) == len(kind)


def test_shards_of_a_mixture_have_names_of_their_own(folders: tuple[str, str]):
    manifest = read_shards(config(folders))
    names = [shard.name for shard in manifest.splits["train"]]
    assert (
        len(set(names))
        == len(names)
        == sum(len(read_shards(config(folder)).splits["train"]) for folder in folders)
    )
    assert manifest.samples("train") == 24


def test_the_run_is_that_of_its_folders_and_weights(folders: tuple[str, str], tmp_path: Path):
    def run(*shards: str, **flags: tuple[str, ...]) -> str:
        words = {"data.shards": shards, "data.size": ("8",)}
        words |= {f"data.{key}": value for key, value in flags.items()}
        made, _ = resolve("image_age_demo", None, words)
        made = made.model_copy(update={"data": check(made.data, read_shards(made.data))})
        (tmp_path / "config.yaml").write_text(dump(made))
        again = type(made).model_validate(read_yaml(tmp_path / "config.yaml"))
        assert again == made
        return identity_hash(made)

    hashes = [
        run(folders[0]),
        run(folders[1]),
        run(*folders),
        run(*folders[::-1]),
        run(*folders, weights=("3", "1")),
        run(*folders, weights=("1", "3")),
        run(*folders, balance=("true",)),
    ]
    assert len(set(hashes)) == len(hashes)


def test_choices_that_do_not_go_together(folders: tuple[str, str], tmp_path: Path):
    for values, message in (
        (
            {"weights": (1, 2, 3)},
            r"weights are one a directory: got 3 weights for 2 --data",
        ),
        ({"shards": ()}, r"--data\.shards names no directory"),
        ({"weights": (1, 0)}, "greater than or equal to 1"),
        ({"weights": (0.5, 0.5)}, "integer"),
        ({"weights": (1, 2), "balance": True}, r"balance true and --data\.weights each say how"),
        ({"balance": True, "pairing": "unpaired"}, r"balance true and --data\.pairing unpaired"),
        ({"weights": (1, 2), "pairing": "unpaired"}, r"weights and --data\.pairing unpaired each"),
    ):
        with pytest.raises(ValueError, match=message):
            DataConfig.model_validate(
                {"kind": "image", "size": 8, "frames": 1, "shards": folders} | values
            )
    with pytest.raises(ConfigError, match=r"one-shards and .*one-shards hold the same data \(data"):
        config((folders[0], folders[0]))
    other = pack(tmp_path / "large", {"cat": range(3)}, size=16)
    with pytest.raises(ConfigError, match=r"large-shards cannot be mixed: size 8 and 16"):
        config((folders[0], other))
    (tmp_path / "red").mkdir()
    Image.fromarray(np.full((8, 8, 3), (9, 0, 0), np.uint8)).save(tmp_path / "red" / "r.png")
    red = pack(tmp_path / "red", {})
    with pytest.raises(ConfigError, match=r"cannot be mixed: channels 1 and 3"):
        config((folders[0], red))


def test_nothing_to_draw(folders: tuple[str, str], tmp_path: Path):
    held_out = pack(tmp_path / "e", {"eel": range(40, 42)}, "--validation-fraction", "0.5")
    manifest = Path(held_out) / "manifest.json"
    about = json.loads(manifest.read_text())
    about["splits"]["train"] = []
    manifest.write_text(json.dumps(about))
    with pytest.raises(DataError, match=r"train split of .*e-shards is empty.*--data\.weights 2"):
        config((folders[0], held_out), weights=(1, 2))
    (tmp_path / "loose").mkdir()
    Image.new("L", (8, 8), 99).save(tmp_path / "loose" / "x.png")
    loose = pack(tmp_path / "loose", {})
    with pytest.raises(DataError, match=r"1 of the train samples in .* have no class and would"):
        config((folders[0], loose), balance=True)
    data = config((folders[0], loose))
    assert (
        sorted(
            label
            for b in validation_batches(data, split="train", batch=9, limit=None)
            for label in b.labels.tolist()
        )[0]
        == -1
    )
    with pytest.raises(DataError, match=r"1 of 15 samples in .* have no class"):
        check_labelled(data)
