"""What is compared: shards, folders of pictures, arrays, and what a run generates.

Shapes: C channels, S (H, W) or (T, H, W).
"""

import hashlib
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from agehpc.config.schema import DataConfig
from agehpc.data.decode import decode_video, to_channels
from agehpc.data.mixture import read_shards
from agehpc.data.pictures import colour, has_one_channel, upright
from agehpc.data.pieces import UnusableError
from agehpc.data.readers import open_reader
from agehpc.data.shards import MANIFEST, Manifest, Split, url_of
from agehpc.data.walk import files_under
from agehpc.errors import DataError, UsageError
from agehpc.evaluate.protocols import EVERY_FRAME
from agehpc.observe.grids import to_uint8
from agehpc.trained import Model

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")
CLIP = 16
"""Frames of a clip, as FVD takes them."""
Identity = dict[str, str | int]


@dataclass(frozen=True)
class Videos:
    """Whole clips, of which a metric may take other frames than a source's samples have."""

    lengths: Callable[[], list[int]]
    """Frames of each; shards read their indexes for it."""
    frames: Callable[[int, np.ndarray], Tensor]
    """Frames of one by their numbers, as uint8 [C, T, H, W]."""


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
    frames: int = 1
    """Of a sample."""
    strides: tuple[int, ...] = (1,)
    """What a clip's frames lie apart in the data; of several, what a run was trained at."""
    videos: Videos | None = None
    """The whole clips behind the samples, all of them whatever the part."""
    more: "Callable[[int], Source] | None" = None
    """So many samples, of what makes any number."""

    @property
    def pictures(self) -> int:
        """Samples, or the frames of clips that metrics of frames take."""
        return self.count * len(range(0, self.frames, EVERY_FRAME))

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

        identity = {**self.identity, "of": total}
        return replace(self, count=count, identity=identity, read=read)


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
    data = DataConfig(kind="image", shards=place, frames=1, allow_pipe=allow_pipe)
    manifest = read_shards(data)
    own = {"kind": manifest.kind, "size": manifest.size}
    own["frames"] = CLIP if manifest.kind == "video" else 1
    return of_data(DataConfig.model_validate(data.model_dump() | own), split)


def of_data(given: Any, split: Split) -> Source:
    """The split that a DataConfig reads, without augmentation: the side that a translation makes.

    That is the target of paired data and the second domain of unpaired data, which end with the
    smaller one.
    """
    from agehpc.data.check import check
    from agehpc.data.loader import samples_at
    from agehpc.data.quarantine import Places
    from agehpc.data.samples import Samples

    manifest = read_shards(given)
    data = check(given, manifest)
    unpaired = data.pairing == "unpaired"
    places = Places(Samples(data, manifest, split, None)) if unpaired else None
    count = manifest.samples(split) if places is None else len(places)
    if not count:
        raise DataError(f"the {split} split of {data.where} is empty; choose another with --split")

    def read(numbers: Sequence[int]) -> list[Tensor]:
        batch = samples_at(data, split=split, positions=numbers)
        made = batch.second if unpaired else batch.pixels
        assert made is not None
        return list(made)

    identity: Identity = {"dataset": str(data.dataset_id), "split": split, "size": data.size}
    identity["channels"] = int(data.channels or 0)
    videos = None
    if data.kind == "video":
        identity |= {"frames": data.frames, "stride": data.strides[0]}
        if data.pairing == "none":
            videos = _videos(data, manifest, split)
    where, strides = f"the {split} split of {data.where}", data.strides[:1]
    return Source(where, data.kind, count, identity, read, data.frames, strides, videos)


def _videos(data: DataConfig, manifest: Manifest, split: Split) -> Videos:
    reader = open_reader(data, manifest, split)
    shards = manifest.splits[split]
    places = [(n, i) for n, shard in enumerate(shards) for i in range(shard.samples)]
    assert data.channels is not None, "check fills it in"
    channels = data.channels

    def frames(number: int, indices: np.ndarray) -> Tensor:
        place = places[number]
        media, length = reader.read(*place), reader.sample(*place).frames
        where = reader.where(*place)
        x_THWC = decode_video(media, indices, length, where, data.size, data.decoder)
        return torch.from_numpy(to_channels(x_THWC, channels)).movedim(-1, 0).contiguous()

    return Videos(lambda: [reader.sample(*place).frames for place in places], frames)


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
    low, high = (
        float(f(x)) if x.size and x.dtype.kind in "biuf" else 0.0 for f in (np.min, np.max)
    )
    if x.dtype != np.uint8 or (x.size and high <= 1):
        raise DataError(
            f"{file} holds {x.dtype} from {low:.4g} to {high:.4g}; samples are uint8 in 0..255: "
            f"{_mapping(low, high, whole=x.dtype == np.uint8)}"
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
    identity: Identity = {"file": digest[:32]}
    if x.ndim == 4:
        return Source(str(file), "image", len(x), identity, read)
    length = x.shape[1 if layout == "last" else 2]

    def frames(number: int, indices: np.ndarray) -> Tensor:
        (clip_CTHW,) = read([number])
        return clip_CTHW[:, torch.from_numpy(indices)]

    videos = Videos(lambda: [length] * len(x), frames)
    return Source(str(file), "video", len(x), identity, read, length, videos=videos)


def _mapping(low: float, high: float, *, whole: bool) -> str:
    """How values come to 0..255."""
    if whole:
        return "these are of another range, or all black"
    if low < 0:
        return "map [-1, 1] to them by (x * 127.5 + 128).clip(0, 255).astype(uint8)"
    if high <= 1:
        return "map [0, 1] to them by (x * 255).round().astype(uint8)"
    return "write them as x.round().clip(0, 255).astype(uint8)"


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

    data = model.config.data
    return Source(
        where,
        data.kind,
        count,
        {"run": where, "seed": seed},
        read,
        data.frames,
        data.strides,
        more=lambda count: of_run(model, count, seed, where),
    )
