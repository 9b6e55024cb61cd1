import os
import pickle
import shutil
import sys
import tarfile
from fractions import Fraction
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from agehpc.data import decode, video
from agehpc.data.commands import main
from agehpc.data.damage import DamagedError, damaged
from agehpc.data.decode import Decoder, Reader, decode_video, to_channels
from agehpc.data.index import index_name, read_index, scan
from agehpc.data.shards import read_manifest
from agehpc.errors import ConfigError, DataError
from tests.data.samples import decode_pyav, ramp

DECODERS = get_args(Decoder)


@pytest.fixture
def copied(demo_shards: Path, tmp_path: Path) -> Path:
    """A copy of the demo's shards that a test may damage."""
    return Path(shutil.copytree(demo_shards, tmp_path / "shards"))


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("decoder", DECODERS)
def test_pixels_equal_a_sequential_decode_bit_for_bit(demo_shards: Path, decoder: Decoder):
    """On every packed clip, for ranges and strides, with and without decord's fast path."""
    reader = Reader(demo_shards, read_manifest(demo_shards), "train")
    for index in range(8):
        media = reader.read(0, index)
        whole = decode_pyav(media)
        frames = reader.sample(0, index).frames
        assert len(whole) == frames
        for indices in (np.arange(frames), np.array([3, 5, 7, 9]), np.array([17, 18]), [20, 2, 2]):
            for size in (64, None):
                got = decode_video(media, np.asarray(indices), frames, "x", size, decoder)
                np.testing.assert_array_equal(got, whole[indices])


def test_pixels_of_the_shared_data_are_equal_across_decoders(shared_data: Path, tmp_path: Path):
    with tarfile.open(shared_data / "actions64.tar") as tar:
        clips = [member for member in tar if member.name.endswith((".mp4", ".avi"))][::20]
        tar.extractall(tmp_path / "clips", clips, filter="data")
    assert main(["pack", str(tmp_path / "clips"), str(tmp_path / "shards")]) == 0
    manifest = read_manifest(tmp_path / "shards")
    reader = Reader(tmp_path / "shards", manifest, "train")
    for index in range(manifest.splits["train"][0].samples):
        media, frames = reader.read(0, index), reader.sample(0, index).frames
        one, other = (
            decode_video(media, np.arange(5, frames), frames, "x", 64, d) for d in DECODERS
        )
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("size", [8, 16, 28, 32, 48, 96, 128])
def test_every_width_is_read(size: int, decoder: Decoder):
    """decord mistakes the padding of rows for channels at 16, 32, 48 and 96 pixels."""
    rng = np.random.default_rng(0)
    frames = list(rng.integers(0, 256, (6, size, size, 3), dtype=np.uint8))
    media = video.encode(frames, Fraction(25), gop=4, crf=18)
    got = decode_video(media, np.array([5, 1, 2]), 6, "x", size, decoder)
    np.testing.assert_array_equal(got, decode_pyav(media)[[5, 1, 2]])


@pytest.mark.parametrize("decoder", DECODERS)
def test_another_number_or_size_of_frames_is_damage(decoder: Decoder):
    media = video.encode(ramp(6, 16, 16), Fraction(25), gop=4, crf=18)
    with pytest.raises(
        DamagedError, match="here is damaged: its header does not declare 9 frames"
    ) as short:
        decode_video(media, np.arange(3), 9, "here", decoder=decoder)
    assert short.value.kind == "short"
    with pytest.raises(DamagedError, match="16x16 pixels instead of 32x32") as other:
        decode_video(media, np.arange(3), 6, "here", 32, decoder)
    assert other.value.kind == "open"
    with pytest.raises(DamagedError):  # by the fast path of decord, which sees it by itself
        decode_video(media, np.arange(3), 6, "here", 64, decoder)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    "media", [b"", bytes(4000), b"<html>404</html>" * 99, b"stts" + bytes(9) + b"stsz" + bytes(12)]
)
def test_what_is_no_clip(media: bytes, decoder: Decoder):
    with pytest.raises(DamagedError) as caught:
        decode_video(media, np.arange(3), 6, "here", 64, decoder)
    assert caught.value.kind in ("open", "short")


def test_a_decoder_that_is_not_installed(monkeypatch: pytest.MonkeyPatch):
    decode.load_decoder.cache_clear()
    monkeypatch.delattr("agehpc.data.by_decord")
    monkeypatch.setitem(sys.modules, "agehpc.data.by_decord", None)
    media = video.encode(ramp(6, 16, 16), Fraction(25), 4, 18)
    with pytest.raises(ConfigError, match=r"decord cannot be loaded .*decord2.*--data\.decoder"):
        decode_video(media, np.arange(3), 6, "here", decoder="decord")


def test_damage_travels_between_processes():
    error = pickle.loads(pickle.dumps(damaged("here", "why", "short")))
    assert (str(error), error.kind) == (str(damaged("here", "why", "short")), "short")


def test_a_flipped_byte_is_found_by_its_checksum(copied: Path):
    manifest = read_manifest(copied)
    member = read_index(copied, "train-000000.tar").samples[2].media
    flip(copied / "train-000000.tar", member.offset + member.size // 2)
    reader = Reader(copied, manifest, "train")
    reader.read(0, 1)
    with pytest.raises(
        DataError, match=r"train-000000\.tar: sample train-000000-000002 .*checksum.*verify"
    ):
        reader.read(0, 2)


def test_without_an_index_the_tar_is_scanned(copied: Path):
    with_index = read_index(copied, "train-000000.tar")
    member = with_index.samples[6].media
    flip(copied / "train-000000.tar", member.offset + member.size // 2)
    (copied / index_name("train-000000.tar")).unlink()
    assert read_index(copied, "train-000000.tar") == with_index
    reader = Reader(copied, read_manifest(copied), "train")
    reader.read(0, 3)
    with pytest.raises(DataError, match="checksum"):
        reader.read(0, 6)


def test_offsets_agree_with_tarfile(demo_shards: Path):
    path = demo_shards / "validation-000000.tar"
    raw = path.read_bytes()
    with tarfile.open(path) as tar:
        contents = {m.name: tar.extractfile(m).read() for m in tar}  # pyright: ignore
    samples = read_index(demo_shards, path.name).samples
    found = {
        m.name: raw[m.offset : m.offset + m.size] for s in samples for m in (s.media, s.json_member)
    }
    assert found == contents


@pytest.mark.parametrize("where", ["member", "header", "between", "start"])
def test_a_truncated_tar_is_an_error_with_its_offset(copied: Path, where: str):
    path = copied / "train-000000.tar"
    third = read_index(copied, path.name).samples[3].json_member
    length = {
        "member": third.offset + third.size // 2,
        "header": third.offset - 256,
        "between": third.offset - 512,
        "start": 100,
    }[where]
    os.truncate(path, length)
    message = "not a readable tar" if where == "start" else rf"ends at byte {length}.*byte \d+"
    with pytest.raises(DataError, match=message):
        scan(path)


def test_an_index_without_its_tar_and_a_broken_index(copied: Path):
    manifest = read_manifest(copied)
    (copied / "train-000000.tar").unlink()
    with pytest.raises(DataError, match=r"cannot read shard .*train-000000\.tar"):
        Reader(copied, manifest, "train").read(0, 0)
    (copied / index_name("validation-000000.tar")).write_text("{")
    with pytest.raises(DataError, match=r"validation-000000\.idx\.json is damaged"):
        Reader(copied, manifest, "validation").read(0, 0)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_files_are_closed_with_the_reader(demo_shards: Path):
    before = open_files()
    reader = Reader(demo_shards, read_manifest(demo_shards), "train")
    reader.read(0, 0)
    assert open_files() == before + 1
    del reader
    assert open_files() == before


def test_grey_is_pillows():
    rgb_HWC = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    grey = np.asarray(Image.fromarray(rgb_HWC).convert("L"))
    np.testing.assert_array_equal(to_channels(rgb_HWC[None], 1), grey[None, ..., None])
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    np.testing.assert_array_equal(to_channels(to_channels(levels, 3), 1), levels)
