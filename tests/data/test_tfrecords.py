"""TFRecord files of encoded images, written by the tfrecord library itself."""

import gzip
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agehpc.config.schema import DataConfig
from agehpc.data.check import check
from agehpc.data.commands import main
from agehpc.data.loader import validation_batches
from agehpc.data.shards import Manifest, read_manifest
from agehpc.errors import DataError, UsageError
from tests.data.samples import folder_bytes

COUNT = 10
RGB = np.random.default_rng(0).integers(0, 256, (COUNT, 16, 16, 3), dtype=np.uint8)


def write(path: Path, records: list[dict[str, tuple[Any, str]]]) -> Path:
    writer = pytest.importorskip("tfrecord").TFRecordWriter(str(path))
    for record in records:
        writer.write(record)
    writer.close()
    return path


def encoded(number: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(RGB[number]).save(out, "PNG")
    return out.getvalue()


def pack(source: Path, out: Path, *flags: str) -> Manifest:
    same = ["--size", "16", "--image-format", "png"]
    assert main(["pack", str(source), str(out), *same, *flags]) == 0
    assert main(["verify", str(out)]) == 0
    return read_manifest(out)


def by_pixels(folder: Path) -> dict[bytes, int]:
    manifest = read_manifest(folder)
    data = check(DataConfig(kind="image", shards=str(folder), size=16, frames=1), manifest)
    return {
        np.ascontiguousarray(x.permute(1, 2, 0).numpy()).tobytes(): int(label)
        for split in manifest.splits
        for batch in validation_batches(data, split=split, batch=10, limit=None)
        for x, label in zip(batch.pixels, batch.labels, strict=True)
    }


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Ten records in two files, named as TensorFlow's tools do."""
    folder = tmp_path / "in"
    folder.mkdir()
    made: list[dict[str, tuple[Any, str]]] = [
        {"image/encoded": (encoded(n), "byte"), "image/class/label": (n % 3, "int")}
        for n in range(COUNT)
    ]
    write(folder / "few.tfrecord-00000-of-00002", made[:6])
    write(folder / "few.tfrecord-00001-of-00002", made[6:])
    return folder


def test_images_and_labels(records: Path, tmp_path: Path):
    manifest = pack(records, tmp_path / "out")
    assert (manifest.classes, manifest.sources) == (("0", "1", "2"), COUNT)
    expected = {x.tobytes(): n % 3 for n, x in enumerate(RGB)}
    assert by_pixels(tmp_path / "out") == expected
    pack(records, tmp_path / "two", "--workers", "2")
    assert folder_bytes(tmp_path / "out") == folder_bytes(tmp_path / "two")


def test_other_names(tmp_path: Path):
    made: list[dict[str, tuple[Any, str]]] = [
        {"picture": (encoded(n), "byte"), "animal": (b"cat" if n % 2 else b"dog", "byte")}
        for n in range(4)
    ]
    path = write(tmp_path / "in.tfrec", made)
    with pytest.raises(UsageError, match=r"no feature image/encoded or image \(it has animal, pic"):
        pack(path, tmp_path / "out")
    with pytest.raises(UsageError, match=r"no feature fur \(it has animal, picture\): see --label"):
        pack(path, tmp_path / "out", "--image-key", "picture", "--label-key", "fur")
    assert pack(path, tmp_path / "plain", "--image-key", "picture").classes == ()
    flags = ["--image-key", "picture", "--label-key", "animal"]
    assert pack(path, tmp_path / "out", *flags).classes == ("cat", "dog")
    assert by_pixels(tmp_path / "out") == {x.tobytes(): (n + 1) % 2 for n, x in enumerate(RGB[:4])}


def test_records_without_an_image_are_rejected(tmp_path: Path):
    path = write(
        tmp_path / "in.tfrecord",
        [
            {"image": (encoded(0), "byte"), "label": (0, "int")},
            {"label": (1, "int")},
            {"image": (7, "int"), "label": (1, "int")},
            {"image": (b"no image", "byte"), "label": (2, "int")},
        ],
    )
    manifest = pack(path, tmp_path / "out")
    assert manifest.rejects == {"unsupported": 2, "undecodable": 1}


def test_a_damaged_record_is_rejected(records: Path, tmp_path: Path):
    path = records / "few.tfrecord-00000-of-00002"
    data = bytearray(path.read_bytes())
    data[100] ^= 1  # in the first record
    path.write_bytes(data)
    manifest = pack(records, tmp_path / "out")
    assert (manifest.rejects, manifest.classes) == ({"damaged": 1}, ("0", "1", "2"))
    assert by_pixels(tmp_path / "out") == {x.tobytes(): n % 3 for n, x in enumerate(RGB) if n}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda x: x[:-3], r"is truncated: it ends at byte \d+, inside a record of \d+ bytes"),
        (lambda x: x[: len(x) // 3], "is truncated"),
        (lambda x: b"\x01" + x[1:], "is damaged at byte 0: the length of a record"),
        (lambda x: x + b"abc", r"is damaged at byte \d+: the length of a record"),
        (lambda x: b"no record" * 20, "is damaged at byte 0"),
    ],
)
def test_a_damaged_frame_ends_the_packing(records: Path, tmp_path: Path, damage, message: str):
    path = records / "few.tfrecord-00001-of-00002"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=message):
        pack(records, tmp_path / "out")


def test_compressed_files(records: Path, tmp_path: Path):
    data = gzip.compress((records / "few.tfrecord-00001-of-00002").read_bytes())
    for name in ("x.tfrecord.gz", "x.tfrecord"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UsageError, match=r"compressed.*gunzip"):
            pack(tmp_path / name, tmp_path / "out")


def test_more_than_one_label(tmp_path: Path):
    made: list[dict[str, tuple[Any, str]]] = [
        {"image": (encoded(0), "byte"), "label": ([1, 2], "int")}
    ]
    path = write(tmp_path / "in.tfrecord", made)
    with pytest.raises(DataError, match="record 0 has 2 values of label: one class is wanted"):
        pack(path, tmp_path / "out")


@pytest.mark.parametrize("module", ["crc32c", "tfrecord.example_pb2"])
def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str):
    (tmp_path / "in.tfrecord").write_bytes(b"x" * 100)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=r"pip install 'agehpc\[tfrecord\]'"):
        pack(tmp_path / "in.tfrecord", tmp_path / "out")
