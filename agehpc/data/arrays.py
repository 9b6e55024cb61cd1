"""Samples out of arrays: pictures and clips that are the rows of a NumPy file.

N samples, T frames, H height, W width, C channels.
"""

import io
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image

from agehpc.data.pictures import png
from agehpc.data.pieces import Layout, Reading
from agehpc.data.shards import Kind
from agehpc.data.sources import Source
from agehpc.data.video import Frame
from agehpc.data.walk import folder_name
from agehpc.errors import DataError, UsageError

SUFFIXES = (".npy", ".npz")
LABELS = ("labels", "y")  # of an .npz
CLIP_RATE = Fraction(25)  # arrays tell none
UNREADABLE = (ValueError, OSError, EOFError, zipfile.BadZipFile)
CHUNK = 1 << 24  # values looked at together

Load = Callable[[Path, str], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Row(Source):
    """One row of an array: a picture, read as PNG, or a clip, read as an .npy file."""

    load: Load
    """Reads the array from a path and a key."""
    key: str
    layout: Layout
    row: int

    @property
    def kind(self) -> Kind:
        """Kind by layout."""
        return "video" if self.layout == "NTHWC" else "image"

    def read(self) -> bytes:
        """Return the bytes of the row."""
        made = self.path.stat().st_mtime_ns
        x = _array(self.load, self.path, self.key, made)[self.row]
        if x.dtype != np.uint8:
            x = np.rint(x.astype(np.float64) * 255).astype(np.uint8)
        if self.kind == "video":
            out = io.BytesIO()
            np.save(out, x, allow_pickle=False)
            return out.getvalue()
        if self.layout == "NCHW":
            x = x.transpose(1, 2, 0)
        return png(Image.fromarray(np.ascontiguousarray(x[:, :, 0] if x.shape[2:] == (1,) else x)))


# Rows of one file are packed together, shuffled: it is opened (or decompressed) once a process.
@lru_cache(maxsize=4)
def _array(load: Load, path: Path, key: str, made: int) -> np.ndarray:
    return load(path, key)


def decode_clip(data: bytes, fps: Fraction | None) -> tuple[Fraction, Iterator[Frame]]:
    """Return the rate and the frames of a clip out of an array; `fps` says at which it plays."""
    rate = fps or CLIP_RATE
    x_THWC = np.load(io.BytesIO(data), allow_pickle=False)
    rgb_THWC = np.repeat(x_THWC, 3, axis=3) if x_THWC.shape[3] == 1 else x_THWC
    frames = (Frame(x_HWC, Fraction(1), t / rate) for t, x_HWC in enumerate(rgb_THWC))
    return rate, frames


def rows(path: Path, name: str, reading: Reading) -> Iterator[Row]:
    """List the rows of an .npy or .npz; UsageError or DataError where they are no samples."""
    if path.suffix.lower() == ".npy":
        if reading.label_key or reading.image_key:
            raise UsageError(
                f"{path} holds one array without a name: --image-key and --label-key are for .npz"
            )
        load, key, labels = load_npy, "", None
    else:
        load = load_npz
        key, labels = _keys(path, reading)
    x = load(path, key)
    where = f"{path}[{key}]" if key else str(path)
    layout = _layout(where, x, reading.layout)
    _check_values(where, x, layout)
    yield from rows_of(path, name, x, load=load, key=key, layout=layout, labels=labels)


def rows_of(
    path: Path,
    name: str,
    x: np.ndarray,
    *,
    load: Load,
    key: str,
    layout: Layout,
    labels: list[str] | None,
) -> Iterator[Row]:
    """Yield the rows of an array, which `load` reads again where they are packed."""
    folder = folder_name(path)
    digits = len(str(len(x) - 1))
    channels = 1 if layout == "NHW" else x.shape[1 if layout == "NCHW" else -1]
    for row in range(len(x)):
        yield Row(
            path=path,
            name=f"{name}/{row:0{digits}d}",
            folder=folder,
            offset=row,
            label=labels[row] if labels is not None else None,
            channels=1 if channels == 1 else 3,
            load=load,
            key=key,
            layout=layout,
            row=row,
        )


def load_npy(path: Path, key: str) -> np.ndarray:
    """Map the array of an .npy file."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except UNREADABLE as error:
        raise _unreadable(path, error) from None


def load_npz(path: Path, key: str) -> np.ndarray:
    """Read an array of an .npz file."""
    return _archive(path, [key])[key]


def _archive(path: Path, keys: list[str] | None = None) -> dict[str, np.ndarray]:
    """Read arrays of an .npz file by name; default all."""
    try:
        # Given a file, np.load would guess its kind by the content.
        with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in (archive.files if keys is None else keys)}
    except UNREADABLE as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} cannot be read as arrays of numbers ({error}); write it again with np.save or "
        "np.savez (pickled objects are refused: loading them runs their code)"
    )


def _keys(path: Path, reading: Reading) -> tuple[str, list[str] | None]:
    """Return the name of an .npz's images, and its labels."""
    arrays = _archive(path)
    held = ", ".join(f"{key} {list(x.shape)}" for key, x in arrays.items())
    candidates = [key for key, x in arrays.items() if x.ndim >= 3]
    image_key = reading.image_key or (candidates[0] if len(candidates) == 1 else None)
    if image_key not in arrays:
        asked = f"has no array {image_key}" if image_key else "does not say which array is images"
        raise UsageError(f"{path} {asked} (it holds {held}): choose one with --image-key")
    named = [key for key in LABELS if key in arrays]
    label_key = reading.label_key or (named[0] if named else None)
    if label_key is None:
        return image_key, None
    if label_key not in arrays:
        raise UsageError(f"{path} has no array {label_key} (it holds {held}): see --label-key")
    return image_key, _labels(f"{path}[{label_key}]", arrays[label_key], len(arrays[image_key]))


def _labels(where: str, labels: np.ndarray, count: int) -> list[str]:
    if labels.shape not in ((count,), (count, 1)):
        raise DataError(f"{where} has the shape {list(labels.shape)}: {count} images need {count}")
    if labels.dtype.kind not in "iubUS":
        raise DataError(f"{where} holds {labels.dtype}: labels are whole numbers or text")
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8")
    if labels.dtype.kind == "b":
        labels = labels.astype(np.uint8)
    return [str(label) for label in labels.reshape(-1).tolist()]


def _layout(where: str, x: np.ndarray, asked: Layout | None) -> Layout:
    """Return the order of an array's dimensions; UsageError where it cannot be told."""
    if asked is not None:
        if len(asked) != x.ndim or _channels(x, asked) not in (1, 3, 4):
            raise UsageError(
                f"{where} has the shape {list(x.shape)}, which is not --layout {asked}: one size a "
                "letter, and 1, 3 or 4 channels"
            )
        fitting: list[Layout] = [asked]
    else:
        fitting = [layout for layout in get_args(Layout) if _may_be(x, layout)]
    if len(fitting) != 1:
        may_be = " or ".join(fitting) or "none of " + ", ".join(get_args(Layout))
        raise UsageError(
            f"{where} has the shape {list(x.shape)}, which may be {may_be} (N samples, T frames, "
            "H height, W width, C channels): say it with --layout"
        )
    if 0 in x.shape:
        raise DataError(f"{where} is empty: its shape is {list(x.shape)}")
    return fitting[0]


def _may_be(x: np.ndarray, layout: Layout) -> bool:
    if len(layout) != x.ndim:
        return False
    if layout == "NHW":
        # Three sizes that end in 3 are far more often one picture than many thin ones.
        return x.shape[-1] not in (1, 3, 4)
    return _channels(x, layout) in (1, 3, 4)


def _channels(x: np.ndarray, layout: Layout) -> int:
    return x.shape[layout.index("C")] if "C" in layout else 1


def _check_values(where: str, x: np.ndarray, layout: Layout) -> None:
    if x.dtype == np.uint8:
        if layout == "NTHWC" and x.shape[-1] == 4:
            raise DataError(f"{where}: clips have 1 or 3 channels, these have 4")
        return
    fix = "make it uint8 from 0 to 255" + (" or float from 0 to 1" if layout != "NTHWC" else "")
    if x.dtype.kind != "f" or layout == "NTHWC":
        raise DataError(f"{where} holds {x.dtype}: {fix}")
    step = max(CHUNK // int(np.prod(x.shape[1:])), 1)
    parts = [x[i : i + step] for i in range(0, len(x), step)]
    low, high = min(float(p.min()) for p in parts), max(float(p.max()) for p in parts)
    if not (low >= 0 and high <= 1):
        raise DataError(f"{where} holds {x.dtype} from {low:g} to {high:g}: {fix}")
