"""From shards to pixels: reading by index, decoding clips and pictures.

T frames, H height, W width, C channels; pixels are uint8.
"""

import io
import os
from collections.abc import Callable, Container, Sequence
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from agehpc.data import jpeg
from agehpc.data.damage import MediaError, damaged, other_size
from agehpc.data.index import Member, Sample, read_index, read_member
from agehpc.data.lean import LeanSamples
from agehpc.data.remote import RemoteShard, RemoteShards, remote_folder
from agehpc.data.shards import Manifest, ShardInfo, Split, Where, path_of, url_of
from agehpc.errors import ConfigError, DataError

# More than data.interleave asks for: a shard that is opened again costs milliseconds.
OPEN_SHARDS = 640

Decoder = Literal["pyav", "decord"]
PICTURE_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


class Reader:
    """The samples of one split by (shard, index); reads and checks their bytes.

    Use it in the process that made it. DataError names the shard, the sample and the reason.
    """

    def __init__(self, folder: Where, manifest: Manifest, split: Split) -> None:
        self.shards = manifest.splits[split]
        if url_of(folder):
            self._folder = RemoteShards(remote_folder(folder))
        else:
            self._folder = _LocalShards(path_of(folder))
        # Not a method of this object: a cycle of references would keep the shards open.
        self._shard = lru_cache(maxsize=OPEN_SHARDS)(partial(_open, self._folder, self.shards))

    def sample(self, shard: int, index: int) -> Sample:
        """Return what the index says of a sample."""
        return self._shard(shard).samples[index]

    def read(self, shard: int, index: int) -> bytes:
        """Return the media bytes of a sample, checked against the index."""
        sample = self.sample(shard, index)
        data = self._shard(shard).read(sample.media)
        if data is None:
            raise damaged(self.where(shard, index), "its bytes do not match their checksum", "crc")
        return data

    def read_input(self, shard: int, index: int) -> bytes:
        """Return the media bytes of a sample's input image, checked against the index."""
        member = self.sample(shard, index).input
        if member is None:
            raise damaged(self.where(shard, index), "it has no input image", "open")
        data = self._shard(shard).read(member)
        if data is None:
            reason = "the bytes of its input image do not match their checksum"
            raise damaged(self.where(shard, index), reason, "crc")
        return data

    def where(self, shard: int, index: int) -> str:
        """Return a sample's name for messages."""
        place = self._folder.where(self.shards[shard].name)
        return f"{place}: sample {self.sample(shard, index).key}"


def _open(
    folder: "_LocalShards | RemoteShards", shards: Sequence[ShardInfo], number: int
) -> "_Shard | RemoteShard":
    return folder.open(shards[number])


class _LocalShards:
    """A folder of shards on this machine."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def where(self, shard: str) -> str:
        return str(self.directory / shard)

    def open(self, shard: ShardInfo) -> "_Shard":
        return _Shard(self.directory, shard.name, shard.samples)


class _Shard:
    """An open shard and its index."""

    def __init__(self, directory: Path, name: str, samples: int) -> None:
        self.samples = LeanSamples(read_index(directory, name).samples)
        if len(self.samples) != samples:
            raise DataError(
                f"{directory / name}: the index has {len(self.samples)} samples, the "
                f"manifest {samples}; see `agehpc data verify {directory}`"
            )
        try:
            self.descriptor = os.open(directory / name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DataError(f"cannot read shard {directory / name}: {error.strerror}") from None

    def read(self, member: Member) -> bytes | None:
        return read_member(self.descriptor, member)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


def decode_video(
    media: bytes,
    indices: np.ndarray,
    frames: int,
    where: str,
    size: int | None = None,
    decoder: Decoder = "pyav",
) -> np.ndarray:
    """Decode the frames `indices` of an mp4 that holds `frames`: uint8 THWC, RGB.

    `size` is its height and width where they are known. On packed clips the decoders give the same
    pixels. DamagedError where the bytes cannot be decoded, or hold frames of another number or
    size.
    """
    low, high = int(indices.min()), int(indices.max())
    try:
        _check_counts(media, frames)
        x_THWC = load_decoder(decoder)(media, low, high, frames, size)
        height, width = x_THWC.shape[1:3]
        if size is not None and (height, width) != (size, size):
            raise other_size(width, height, size)
    except MediaError as error:
        raise damaged(where, error.reason, error.kind) from None
    return x_THWC[indices - low]


@cache
def load_decoder(decoder: Decoder) -> Callable[[bytes, int, int, int, int | None], np.ndarray]:
    """Return `decode_range` of a decoder's module; ConfigError where its library is missing.

    Imported when first used: a machine may lack the library of the other one.
    """
    try:
        if decoder == "pyav":
            from agehpc.data import by_pyav as module
        else:
            from agehpc.data import by_decord as module
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"data.decoder {decoder} cannot be loaded ({error}): install "
            f"{'av' if decoder == 'pyav' else 'decord2'}, or choose another --data.decoder"
        ) from None
    return module.decode_range


def _check_counts(media: bytes, frames: int) -> None:
    """Raise MediaError unless an mp4 declares `frames` in its tables of durations and sizes.

    decord reserves memory for as many as are declared: billions of them end the process.
    """
    durations, sizes = media.find(b"stts"), media.find(b"stsz")
    if min(durations, sizes) < 0 or len(media) < max(durations, sizes) + 16:
        raise MediaError("open", "it is no mp4 with tables of its frames")
    runs = int.from_bytes(media[durations + 8 : durations + 12], "big")
    table = media[durations + 12 : durations + 12 + 8 * min(runs, frames)]
    declared = sum(int.from_bytes(table[i : i + 4], "big") for i in range(0, len(table), 8))
    if not declared == int.from_bytes(media[sizes + 12 : sizes + 16], "big") == frames:
        raise MediaError("short", f"its header does not declare {frames} frames")


def decode_image(media: bytes, where: str, size: int | None = None) -> np.ndarray:
    """Decode a jpg or png: uint8 THWC with T = 1 and C = 1 or 3.

    `size` is its height and width where they are known. DamagedError where the bytes cannot be
    decoded, or hold a picture of another size or other colours.
    """
    try:
        pixels = (_jpeg if media.startswith(jpeg.MAGIC) else _png)(media, size)
    except MediaError as error:
        raise damaged(where, error.reason, error.kind) from None
    except PICTURE_ERRORS as error:
        reason = f"it cannot be decoded ({error})"
        kind = "open" if isinstance(error, UnidentifiedImageError) else "decode"
        raise damaged(where, reason, kind) from None
    return pixels[None, :, :, None] if pixels.ndim == 2 else pixels[None]


def _jpeg(media: bytes, size: int | None) -> np.ndarray:
    height, width, space = jpeg.header(media)
    _check_form((width, height), size, space, jpeg.COLOUR_SPACES)
    return jpeg.decode(media, space)


def _png(media: bytes, size: int | None) -> np.ndarray:
    with Image.open(io.BytesIO(media), formats=("PNG", "WEBP")) as image:
        _check_form(image.size, size, image.mode, ("L", "RGB"))
        return np.asarray(image)


def _check_form(form: tuple[int, int], size: int | None, mode: str, modes: Container[str]) -> None:
    """Raise MediaError for a header that is not as packed: a damaged one may claim gigabytes."""
    if size is not None and form != (size, size):
        raise other_size(*form, size)
    if mode not in modes:
        raise MediaError("open", f"its pixels are {mode}, neither grey nor RGB")


def to_channels(x_THWC: np.ndarray, channels: int) -> np.ndarray:
    """Convert between grey (C = 1) and RGB (C = 3) by ITU-R 601 luma; uint8 in and out."""
    if x_THWC.shape[-1] == channels:
        return x_THWC
    if channels == 3:
        return np.repeat(x_THWC, 3, axis=-1)
    # The weights of Pillow's convert("L"), in 16-bit fixed point: equal channels stay exact.
    luma = x_THWC.astype(np.uint32) @ np.array([19595, 38470, 7471], dtype=np.uint32)
    return ((luma + 0x8000) >> 16).astype(np.uint8)[..., None]
