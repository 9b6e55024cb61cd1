"""Pairs of images, from packing to batches."""

import gc
import io
import json
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from agehpc.config.schema import DataConfig
from agehpc.data.check import check
from agehpc.data.commands import main
from agehpc.data.index import index_name, read_index, scan
from agehpc.data.loader import Batch, train_batches, validation_batches
from agehpc.data.shards import read_manifest
from agehpc.errors import ConfigError, DataError, UsageError
from tests.data.samples import folder_bytes

SIZE = 16


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twelve smooth RGB pictures of 16 x 16 in PNG, of middle levels: nothing clips."""
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number in range(12):
        coarse = Image.fromarray(rng.integers(60, 196, (5, 5, 3), dtype=np.uint8))
        coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(
            tmp_path / "pictures" / f"{number}.png"
        )
    return tmp_path / "pictures"


def pack(source: Path | list[Path], out: Path, *flags: str) -> Path:
    sources = [str(path) for path in (source if isinstance(source, list) else [source])]
    same = ["--size", str(SIZE), "--image-format", "png", "--samples-per-shard", "4"]
    assert main(["pack", *sources, str(out), *same, *flags]) == 0
    assert main(["verify", str(out)]) == 0
    return out


def members(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray, dict]]:
    """Target, input and description of every sample by the name of its source."""
    found = {}
    for path in folder.glob("*.tar"):
        with tarfile.open(path) as tar:
            files = {m.name: tar.extractfile(m).read() for m in tar}  # pyright: ignore
        for name, data in files.items():
            key, _, extension = name.partition(".")
            if extension == "json":
                about = json.loads(data)
                images = [files[f"{key}.png"], files[f"{key}.input.png"]]
                assert [zlib.crc32(i) for i in images] == [about["crc32"], about["input_crc32"]]
                target, given = (np.asarray(Image.open(io.BytesIO(i))) for i in images)
                found[about["source"]] = target, given, about
    return found


def config(folder: Path, **values: object) -> DataConfig:
    made = {"kind": "image", "shards": str(folder), "size": SIZE, "frames": 1}
    data = DataConfig.model_validate(made | {"pairing": "paired"} | values)
    return check(data, read_manifest(folder))


def batches(data: DataConfig, total: int = 11, start: int = 0) -> Iterator[Batch]:
    grouping = {"accumulation": 1, "rank": 0, "world_size": 1}
    return train_batches(data, 3, start=start, global_batch=total, micro_batch=total, **grouping)


def test_edges_are_the_laplacian_of_the_grey_target(pictures: Path, tmp_path: Path):
    out = pack(pictures, tmp_path / "out", "--pairs", "edges")
    manifest = read_manifest(out)
    assert (manifest.pairs, manifest.channels, manifest.input_channels) == ("edges", 3, 1)
    found = members(out)
    assert len(found) == 12
    for target, given, about in found.values():
        grey = np.pad(np.asarray(Image.fromarray(target).convert("L")).astype(int), 1, mode="edge")
        around = sum(
            grey[1 + i : SIZE + 1 + i, 1 + j : SIZE + 1 + j] for i in (-1, 0, 1) for j in (-1, 0, 1)
        )
        expected = (9 * grey[1:-1, 1:-1] - around).clip(0, 255)
        np.testing.assert_array_equal(given, expected)
        assert about["input_channels"] == 1


def test_grey_is_the_luminance_of_the_target(pictures: Path, tmp_path: Path):
    out = pack(pictures, tmp_path / "out", "--pairs", "grey")
    for target, given, _ in members(out).values():
        luma = target.astype(float) @ [0.299, 0.587, 0.114]
        assert np.abs(given - luma).max() <= 0.51
    for path in pictures.iterdir():
        Image.open(path).convert("L").save(path)
    with pytest.raises(UsageError, match="--pairs grey needs colour images"):
        pack(pictures, tmp_path / "again", "--pairs", "grey")


@pytest.mark.parametrize("factor", [2, 4])
def test_low_resolution_loses_detail_without_aliasing(pictures: Path, tmp_path: Path, factor: int):
    """Against torch's antialiased bicubic, an independent writing of the same filters."""
    flags = ["--pairs", "lowres", "--pairs-factor", str(factor)]
    out = pack(pictures, tmp_path / "out", *flags)
    assert read_manifest(out).pairs == f"lowres {factor}"
    assert read_manifest(out).input_channels == 3
    for target, given, _ in members(out).values():
        x = torch.from_numpy(target.copy()).permute(2, 0, 1)[None].double()
        for size in (SIZE // factor, SIZE):
            x = torch.nn.functional.interpolate(
                x, size=(size, size), mode="bicubic", antialias=True
            ).clamp(0, 255)
        error = np.abs(x[0].permute(1, 2, 0).numpy() - given)
        assert error.max() <= 2  # Pillow rounds to whole values between its passes


@pytest.mark.parametrize(("direction", "swap"), [("a2b", False), ("b2a", True)])
def test_side_by_side(pictures: Path, tmp_path: Path, direction: str, swap: bool):
    halves = {}
    (tmp_path / "wide").mkdir()
    for number in range(6):
        pair = [np.asarray(Image.open(pictures / f"{number + 6 * side}.png")) for side in (0, 1)]
        Image.fromarray(np.concatenate(pair, axis=1)).save(tmp_path / "wide" / f"{number}.png")
        halves[f"{number}.png"] = pair
    Image.new("RGB", (2 * SIZE + 1, SIZE)).save(tmp_path / "wide" / "odd.png")
    out = pack(
        tmp_path / "wide", tmp_path / "out", "--pairs", "side-by-side",
        "--pairs-direction", direction,
    )  # fmt: skip
    manifest = read_manifest(out)
    assert manifest.rejects == {"unsupported": 1}
    assert manifest.encoder["pairs_direction"] == direction
    for name, (target, given, _) in members(out).items():
        left, right = (target, given) if swap else (given, target)
        np.testing.assert_array_equal(left, halves[name][0])
        np.testing.assert_array_equal(right, halves[name][1])


@pytest.fixture
def two_folders(pictures: Path, tmp_path: Path) -> list[Path]:
    """Grey inputs in BMP and RGB targets in PNG, in sub-folders."""
    inputs, targets = tmp_path / "inputs", tmp_path / "targets"
    for number in range(12):
        for folder in (inputs, targets):
            (folder / f"s{number % 2}").mkdir(parents=True, exist_ok=True)
        image = Image.open(pictures / f"{number}.png")
        image.save(targets / f"s{number % 2}" / f"{number}.x.png")
        image.convert("L").rotate(90).save(inputs / f"s{number % 2}" / f"{number}.x.bmp")
    return [inputs, targets]


def test_folders_are_matched_by_name(two_folders: list[Path], tmp_path: Path):
    out = pack(two_folders, tmp_path / "out", "--pairs", "folders")
    manifest = read_manifest(out)
    assert (manifest.pairs, manifest.channels, manifest.input_channels) == ("folders", 3, 1)
    assert manifest.classes == ("s0", "s1")
    found = members(out)
    assert len(found) == 12
    for name, (target, given, about) in found.items():
        np.testing.assert_array_equal(target, np.asarray(Image.open(two_folders[1] / name)))
        assert about["input_source"] == name.replace(".png", ".bmp")
        expected = np.asarray(Image.open(two_folders[0] / about["input_source"]))
        np.testing.assert_array_equal(given, expected)
    many = pack(two_folders, tmp_path / "many", "--pairs", "folders", "--workers", "2")
    assert folder_bytes(many) == folder_bytes(out)


def test_a_broken_input_rejects_the_pair(two_folders: list[Path], tmp_path: Path):
    (two_folders[0] / "s1" / "3.x.bmp").write_bytes(b"")
    (two_folders[0] / "s1" / "5.x.bmp").write_bytes(b"nonsense")
    out = pack(two_folders, tmp_path / "out", "--pairs", "folders")
    assert read_manifest(out).rejects == {"empty": 1, "undecodable": 1}


def test_pairs_that_cannot_be_made(two_folders: list[Path], people: Path, tmp_path: Path):
    def refused(message: str, *words: object) -> None:
        with pytest.raises(UsageError, match=message):
            main(["pack", *map(str, words)])

    inputs, targets = two_folders
    out = tmp_path / "out"
    refused("takes INPUTS TARGETS OUT, got 1", inputs, out, "--pairs", "folders")
    refused("makes pairs of images", people, out, "--pairs", "edges")
    refused("must be 2 or 4 and divide --size 64: got 3", inputs, out, "--pairs", "lowres",
            "--pairs-factor", "3")  # fmt: skip
    refused("divide --size 18: got 4", inputs, out, "--pairs", "lowres", "--size", "18")
    (inputs / "s0" / "0.x.bmp").rename(inputs / "s0" / "zero.bmp")
    refused(r"1 of 12 images have no target in .*targets: s0/zero\.bmp", inputs, targets, out,
            "--pairs", "folders")  # fmt: skip
    (inputs / "s0" / "zero.bmp").unlink()
    refused(r"have no input in .*inputs: s0/0\.x\.png", inputs, targets, out, "--pairs", "folders")
    shutil.copy(inputs / "s0" / "2.x.bmp", inputs / "s0" / "2.x.webp")
    refused("more than one suffix", inputs, targets, out, "--pairs", "folders")
    assert not out.exists()


# webdataset leaves its files to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_stock_webdataset_reads_the_pairs(pictures: Path, tmp_path: Path):
    out = pack(pictures, tmp_path / "out", "--pairs", "edges")
    dataset = webdataset.WebDataset(
        str(out / "train-000000.tar"), shardshuffle=False, empty_check=True
    )
    samples = list(dataset)
    gc.collect()
    found = members(out)
    assert len(samples) == 4
    for sample in samples:
        target, given, _ = found[json.loads(sample["json"])["source"]]
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(sample["png"]))), target)
        decoded = np.asarray(Image.open(io.BytesIO(sample["input.png"])))
        np.testing.assert_array_equal(decoded, given)


def test_damage_to_an_input_is_found(pictures: Path, tmp_path: Path, capsys):
    out = pack(pictures, tmp_path / "out", "--pairs", "edges")
    path = out / "train-000000.tar"
    assert scan(path) == read_index(out, path.name)
    member = read_index(out, path.name).samples[1].input
    assert member is not None
    data = bytearray(path.read_bytes())
    data[member.offset + 50] ^= 1
    path.write_bytes(data)
    capsys.readouterr()
    assert main(["verify", str(out)]) == 1
    message = "train-000000-000001: the bytes of its input image do not match their checksum"
    assert message in capsys.readouterr().out
    with pytest.raises(DataError, match=r"sample train-000000-000001 is damaged: .*input image"):
        list(islice(batches(config(out)), 1))
    (out / index_name(path.name)).unlink()  # the json member still knows the right checksum
    with pytest.raises(DataError, match=r"sample train-000000-000001 is damaged: .*input image"):
        list(islice(batches(config(out)), 1))


def test_a_pair_without_its_input_is_incomplete(pictures: Path, tmp_path: Path):
    out = pack(pictures, tmp_path / "out", "--pairs", "edges")
    with (
        tarfile.open(out / "train-000000.tar") as tar,
        tarfile.open(tmp_path / "cut.tar", "w") as cut,
    ):
        for member in tar:
            if member.name != "train-000000-000002.input.png":
                cut.addfile(member, tar.extractfile(member))
    with pytest.raises(DataError, match="sample train-000000-000002 lacks its input member"):
        scan(tmp_path / "cut.tar")


def test_input_and_target_are_moved_alike(pictures: Path, tmp_path: Path):
    """Edges made again of the augmented target are the augmented edges, but for the border."""
    out = pack(pictures, tmp_path / "out", "--pairs", "grey")
    data = config(out, shift=3)
    assert (data.channels, data.input_channels) == (3, 1)
    plain = config(out, shift=0, flip=False)
    moved = 0
    for batch, still in zip(islice(batches(data), 4), batches(plain), strict=False):
        assert batch.second is not None
        assert still.second is not None
        assert batch.second.shape == (11, 1, SIZE, SIZE)
        assert batch.second.dtype == torch.uint8
        for target, given in zip(batch.pixels.numpy(), batch.second.numpy(), strict=True):
            luma = np.asarray(Image.fromarray(target.transpose(1, 2, 0)).convert("L"))
            np.testing.assert_array_equal(given[0], luma)
        moved += int((batch.second != still.second).flatten(1).any(1).sum())
    assert moved > 40


def test_colour_changes_both_by_the_targets_own_change(pictures: Path, tmp_path: Path):
    out = pack(pictures, tmp_path / "out", "--pairs", "lowres")
    plain = next(batches(config(out, flip=False)))
    made = next(batches(config(out, flip=False, colour=0.3)))
    assert plain.second is not None
    assert made.second is not None
    for before, after, given, changed in zip(
        plain.pixels, made.pixels, plain.second, made.second, strict=True
    ):
        both = torch.cat([before, given]).flatten().numpy()
        new = torch.cat([after, changed]).flatten().numpy()
        table = {int(old): int(value) for old, value in zip(both, new, strict=True)}
        assert [table[int(old)] for old in both] == new.tolist()  # one table for the two
    assert not torch.equal(plain.second, made.second)


def test_validation_gives_pairs_as_packed(pictures: Path, tmp_path: Path):
    out = pack(pictures, tmp_path / "out", "--pairs", "edges", "--validation-fraction", "0.5")
    found = {target.tobytes(): given for target, given, _ in members(out).values()}
    seen = 0
    for batch in validation_batches(config(out, shift=3), batch=4, limit=None):
        assert batch.second is not None
        for target, given in zip(batch.pixels.numpy(), batch.second.numpy(), strict=True):
            key = np.ascontiguousarray(target.transpose(1, 2, 0)).tobytes()
            np.testing.assert_array_equal(given[0], found[key])
            seen += 1
    assert seen == 6


def test_configurations_of_pairs(pictures: Path, tmp_path: Path):
    paired = pack(pictures, tmp_path / "paired", "--pairs", "edges")
    single = pack(pictures, tmp_path / "single")
    with pytest.raises(ConfigError, match=re.escape(f"{single} holds no pairs: pack with --pairs")):
        config(single)
    with pytest.raises(ConfigError, match=r"--data\.colour 0\.2 cannot be applied to pairs of edg"):
        config(paired, colour=0.2)
    with pytest.raises(ConfigError, match=r"--data\.input-channels must be 1"):
        config(paired, input_channels=2)
    alone = config(paired, pairing="none", colour=0.2)
    assert alone.input_channels is None
    batch = next(batches(alone))
    assert batch.second is None
    assert config(paired, input_channels=3).input_channels == 3
    data = config(paired)
    assert check(data, read_manifest(paired)) == data
    rgb = next(batches(config(paired, input_channels=3))).second
    assert rgb is not None
    assert rgb.shape == (11, 3, SIZE, SIZE)


def test_faces_and_their_edges(shared_data: Path, tmp_path: Path):
    """Real files, from the command line."""
    small = tmp_path / "faces"
    with tarfile.open(shared_data / "faces64.tar") as tar:
        tar.extractall(small, [m for m in tar if m.isfile()][:40], filter="data")
    out = tmp_path / "out"
    flags = ["--pairs", "edges", "--validation-fraction", "0.25"]
    assert main(["pack", str(small), str(out), *flags]) == 0
    data = check(
        DataConfig(kind="image", shards=str(out), frames=1, pairing="paired"), read_manifest(out)
    )
    (batch,) = validation_batches(data, batch=64, limit=None)
    assert batch.second is not None
    assert batch.pixels.shape == batch.second.shape == (10, 1, 64, 64)
    assert batch.second.float().mean() < batch.pixels.float().mean() / 3
