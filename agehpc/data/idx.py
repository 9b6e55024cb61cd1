"""IDX, the format of MNIST: bytes after a header of big-endian sizes.

Read here because no maintained library of a few kilobytes does (torchvision's reader comes with all
of torchvision). Format: LeCun, Cortes and Burges, "The MNIST database of handwritten digits".
"""

import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from agehpc.data.arrays import Row, rows_of
from agehpc.data.pieces import Reading
from agehpc.errors import DataError, UsageError

IMAGES = re.compile(r"idx3[-.]ubyte(\.gz)?$")
UNSIGNED_BYTES = 0x08


def holds_images(path: Path) -> bool:
    """Tell by MNIST's naming whether a file is IDX images."""
    return IMAGES.search(path.name) is not None


def rows(path: Path, name: str, reading: Reading) -> Iterator[Row]:
    """List the images of an IDX file with their labels, where a file of labels is found."""
    x_NHW = load_images(path, "")
    labels = _labels_of(path, reading)
    if labels is not None:
        found = _load(labels, 1)
        if len(found) != len(x_NHW):
            raise DataError(
                f"{labels} holds {len(found)} labels, {path} {len(x_NHW)} images: they do not "
                "belong together; see --idx-labels"
            )
    classes = None if labels is None else [str(label) for label in found]
    yield from rows_of(path, name, x_NHW, load=load_images, key="", layout="NHW", labels=classes)


def load_images(path: Path, key: str) -> np.ndarray:
    """Return the images of an IDX file: uint8 [N, H, W]. DataError where it is damaged."""
    x_NHW = _load(path, 3)
    if not x_NHW.size:
        raise DataError(f"{path} is empty: its sizes are {list(x_NHW.shape)}")
    return x_NHW


def _labels_of(path: Path, reading: Reading) -> Path | None:
    """Return the file of labels: the given one, or what MNIST calls it, beside the images."""
    if reading.idx_labels is not None:
        if not reading.idx_labels.is_file():
            raise UsageError(f"--idx-labels {reading.idx_labels}: there is no such file")
        return reading.idx_labels
    name = path.name.replace("images", "labels").replace("idx3", "idx1")
    plain = name.removesuffix(".gz")
    for candidate in (name, plain, f"{plain}.gz"):
        if (path.parent / candidate).is_file():
            return path.parent / candidate
    return None


def _load(path: Path, dimensions: int) -> np.ndarray:
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be decompressed ({error}); copy it again") from None
    magic = bytes([0, 0, UNSIGNED_BYTES, dimensions])
    start = 4 + 4 * dimensions
    if data[:4] != magic:
        what = {3: "images", 1: "labels"}[dimensions]
        raise DataError(
            f"{path} is not an IDX file of {what}: it begins with {data[:4].hex() or 'nothing'}, "
            f"not {magic.hex()} (unsigned bytes in {dimensions} dimensions)"
        )
    sizes = [int.from_bytes(data[i : i + 4], "big") for i in range(4, start, 4)]
    length = start + int(np.prod(sizes, dtype=object))
    if len(data) != length:
        raise DataError(
            f"{path} is damaged: {' x '.join(map(str, sizes))} bytes make a file of {length}, it "
            f"has {len(data)}; copy it again"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(sizes)
