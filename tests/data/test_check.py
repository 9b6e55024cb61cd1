import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from agehpc.config.schema import DataConfig
from agehpc.data.check import check, check_labelled
from agehpc.data.commands import main
from agehpc.data.shards import Manifest, read_manifest
from agehpc.errors import ConfigError, DataError


@pytest.fixture
def copied(demo_shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo_shards, tmp_path / "shards"))


def config(folder: Path, **values: object) -> DataConfig:
    return DataConfig.model_validate({"kind": "video", "shards": str(folder)} | values)


def test_identity_and_channels_are_filled_in(demo_shards: Path):
    manifest = read_manifest(demo_shards)
    data = check(config(demo_shards), manifest)
    assert (data.dataset_id, data.channels) == (manifest.dataset_id, 3)
    assert check(data, manifest) == data
    assert check(config(demo_shards, channels=1), manifest).channels == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "image", "frames": 1}, "holds video shards but --data.kind is image"),
        ({"size": 32}, "packed at 64 pixels but --data.size is 32"),
        ({"dataset_id": "abc"}, "is not the data of this run.*the run's is abc"),
        ({"frames": 28}, r"1 of 8 train clips.*the 28 frames.*--data.short-clips loop"),
        ({"frames": 16, "strides": (1, 2)}, r"1 of 8 train clips.*the 31 frames.*shortest has 24"),
        ({"channels": 2}, r"--data.channels must be 1 \(grey\) or 3"),
    ],
)
def test_configurations_that_do_not_fit(demo_shards: Path, values: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        check(config(demo_shards, **values), read_manifest(demo_shards))


def test_short_clips_may_loop(demo_shards: Path):
    manifest = read_manifest(demo_shards)
    assert check(config(demo_shards, frames=24), manifest)
    assert check(config(demo_shards, frames=40, short_clips="loop"), manifest)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_missing_empty_and_cut_shards(copied: Path, split: str):
    manifest = read_manifest(copied)
    path = copied / f"{split}-000000.tar"
    os.truncate(path, 5000)
    with pytest.raises(DataError, match=re.escape(f"{path} is 5000 bytes long but should have")):
        check(config(copied), manifest)
    os.truncate(path, 0)
    with pytest.raises(DataError, match=re.escape(f"{path} is empty")):
        check(config(copied), manifest)
    path.unlink()
    with pytest.raises(DataError, match=re.escape(f"{path} is missing")):
        check(config(copied), manifest)


def test_no_training_samples(demo_shards: Path):
    manifest = read_manifest(demo_shards)
    empty = Manifest.model_validate(
        manifest.model_dump() | {"splits": {"train": (), "validation": ()}}
    )
    with pytest.raises(DataError, match=r"training split .* is empty"):
        check(config(demo_shards), empty)


def test_a_sample_without_a_class_is_seen(tmp_path: Path):
    for n, folder in enumerate(("a", "b", "b")):
        path = tmp_path / "source" / folder / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 16), n).save(path)
    out = tmp_path / "out"
    assert main(["pack", str(tmp_path / "source"), str(out), "--size", "16"]) == 0
    data = DataConfig(kind="image", size=16, frames=1, shards=str(out))
    check_labelled(data)
    index = next(out.glob("train-*.idx.json"))
    index.write_text(re.sub(r'"label":\s*\d', '"label":-1', index.read_text(), count=1))
    with pytest.raises(DataError, match=r"1 of 3 samples in .* have no class"):
        check_labelled(data)
