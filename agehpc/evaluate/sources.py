"""What is compared: shards, folders of pictures, arrays, and what a run generates.

Shapes: C channels, S (H, W) or (T, H, W).
"""

import hashlib
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from agehpc.data.pictures import colour, has_one_channel, upright
from agehpc.data.pieces import UnusableError
from agehpc.data.shards import MANIFEST, Split, url_of
from agehpc.data.walk import files_under
from agehpc.errors import DataError, UsageError
from agehpc.observe.grids import to_uint8
from agehpc.trained import Model

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")
CLIP = 16
"""Frames of a clip, as FVD takes them."""
Identity = dict[str, str | int]


@dataclass(frozen=True)
class Source:
    """Samples in an order of their own, read by their numbers."""

    where: str
    """For messages."""
    kind: Literal["image", "video"]
    count: int
    identity: Identity
    """What tells these samples from others, wherever they lie."""
    read: Callable[[Sequence[int]], list[Tensor]]
    """Samples by number, as uint8 [C, S] in 0..255; C is 1 or 3, sizes may differ."""

    def part(self, count: int | None) -> "Source":
        """`count` of the samples, evenly spaced, for their order may be by class; None is all.

        UsageError where there are fewer.
        """
        total = self.count
        if count is None or count == total:
            return self
        if count > total:
            raise UsageError(f"{self.where} has {total} samples, fewer than the {count} wanted")

        def read(numbers: Sequence[int]) -> list[Tensor]:
            return self.read([number * total // count for number in numbers])

        return Source(self.where, self.kind, count, {**self.identity, "of": total}, read)


def open_source(place: str, split: Split, *, allow_pipe: bool = False) -> Source:
    """Samples at a place: shards (a folder or URL), a folder of pictures, a .npy or .npz file.

    Raises:
        DataError: nothing there, no samples, another form or range than uint8 in 0..255.
    """
    path = Path(place)
    if url_of(place) or (path / MANIFEST).is_file():
        return of_shards(place, split, allow_pipe=allow_pipe)
    if path.is_dir():
        return of_folder(path)
    if path.suffix in (".npy", ".npz") and path.is_file():
        return of_array(path)
    if not path.exists():
        raise DataError(f"{place} does not exist; give a folder, shards, or a .npy or .npz file")
    raise DataError(
        f"{place} is neither a folder of pictures, nor shards with {MANIFEST}, nor a .npy or .npz "
        "file; `agehpc data pack` makes shards of other things"
    )


def of_shards(place: str, split: Split, *, allow_pipe: bool = False) -> Source:
    """A split of shards: images, or of every source its centred clip of CLIP frames at stride 1."""
    from agehpc.config.schema import DataConfig
    from agehpc.data.mixture import read_shards

    data = DataConfig(kind="image", shards=place, frames=1, allow_pipe=allow_pipe)
    manifest = read_shards(data)
    own = {"kind": manifest.kind, "size": manifest.size}
    own["frames"] = CLIP if manifest.kind == "video" else 1
    return of_data(DataConfig.model_validate(data.model_dump() | own), split)


def of_data(given: Any, split: Split) -> Source:
    """The split that a DataConfig reads, without augmentation; of unpaired data its second domain.

    That is the side that a translation makes.
    """
    from agehpc.data.check import check
    from agehpc.data.loader import samples_at
    from agehpc.data.mixture import read_shards

    manifest = read_shards(given)
    data = check(given, manifest)
    count = manifest.samples(split)
    if not count:
        raise DataError(f"the {split} split of {data.where} is empty; choose another with --split")

    def read(numbers: Sequence[int]) -> list[Tensor]:
        batch = samples_at(data, split=split, positions=numbers)
        return list(batch.pixels if batch.second is None else batch.second)

    identity: Identity = {"dataset": str(data.dataset_id), "split": split, "size": data.size}
    identity["channels"] = int(data.channels or 0)
    if data.kind == "video":
        identity |= {"frames": data.frames, "stride": data.strides[0]}
    return Source(f"the {split} split of {data.where}", data.kind, count, identity, read)


def of_folder(folder: Path) -> Source:
    """The pictures under a folder at any depth, by name; grey where all of them are."""
    files = list(files_under(folder))
    pictures = [file for file in files if file.suffix.lower() in PICTURES]
    if not pictures:
        videos = sum(file.suffix.lower() in VIDEOS for file in files)
        told = f"{videos} videos: make shards of them with `agehpc data pack`" if videos else "none"
        raise DataError(f"{folder} holds no pictures ({', '.join(PICTURES)}): it has {told}")
    digest = hashlib.sha256()
    grey = True
    for file in pictures:
        data = file.read_bytes()
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(data).digest())
        grey = grey and has_one_channel(data) is True

    def read(numbers: Sequence[int]) -> list[Tensor]:
        return [_picture(pictures[number], 1 if grey else 3) for number in numbers]

    identity: Identity = {"folder": digest.hexdigest()[:32]}
    return Source(str(folder), "image", len(pictures), identity, read)


def _picture(file: Path, channels: int) -> Tensor:
    try:
        x = np.asarray(colour(upright(file.read_bytes()), channels))
    except UnusableError as error:
        raise DataError(f"{file} cannot be used: {error}; remove it, or mend it") from None
    return torch.from_numpy(x.reshape(*x.shape[:2], channels).copy()).movedim(-1, 0)


def of_array(file: Path) -> Source:
    """uint8 samples of a .npy or .npz file: N H W C, N C H W, N T H W C or N C T H W."""
    x = _array(file)
    layout = _layout(x.shape)
    if x.dtype != np.uint8:
        low, high = (f(x) if x.size else 0 for f in (np.min, np.max))
        raise DataError(
            f"{file} holds {x.dtype} from {low:.4g} to {high:.4g}; samples are uint8 in 0..255: "
            "map [-1, 1] to them by (x * 127.5 + 128).clip(0, 255).astype(uint8)"
        )
    if layout is None or not len(x):
        raise DataError(
            f"{file} holds {list(x.shape)}, not samples [N, H, W, C], [N, C, H, W], "
            "[N, T, H, W, C] or [N, C, T, H, W] of 1 or 3 channels"
        )

    def read(numbers: Sequence[int]) -> list[Tensor]:
        part = torch.from_numpy(np.array(x[list(numbers)]))
        return list(part.movedim(-1, 1) if layout == "last" else part)

    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    kind = "image" if x.ndim == 4 else "video"
    return Source(str(file), kind, len(x), {"file": digest[:32]}, read)


def _array(file: Path) -> np.ndarray:
    try:
        if file.suffix == ".npy":
            return np.load(file, mmap_mode="r", allow_pickle=False)
        # Opened here: numpy leaves a damaged archive open.
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as found:
            names = found.files
            if len(names) != 1 and "arr_0" not in names:
                raise DataError(
                    f"{file} holds {len(names)} arrays ({', '.join(names)}): keep the samples "
                    "alone, or name them arr_0"
                )
            return found["arr_0" if "arr_0" in names else names[0]]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file} cannot be read as an array: {error}") from None


def _layout(shape: tuple[int, ...]) -> Literal["first", "last"] | None:
    if len(shape) not in (4, 5):
        return None
    first, last = shape[1] in (1, 3), shape[-1] in (1, 3)
    return None if first == last else "first" if first else "last"


def of_run(model: Model, count: int, seed: int, where: str) -> Source:
    """What a run generates from the prior: the n-th sample depends on (seed, n) alone.

    A conditional run generates its classes in turn.
    """
    if not model.can("sample"):
        raise model.system.lacks("sample")

    def read(numbers: Sequence[int]) -> list[Tensor]:
        assert isinstance(numbers, range), "draws are made in a row"
        made = model.sample(len(numbers), seed, numbers.start)
        return list(torch.from_numpy(to_uint8(made)))

    return Source(where, model.config.data.kind, count, {"run": where, "seed": seed}, read)
