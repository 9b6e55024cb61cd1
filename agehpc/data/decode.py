"""From shards to pixels: reading by index, decoding by decord and Pillow.

T frames, H height, W width, C channels; pixels are uint8. The only importer of decord.
"""

import io
import os
from functools import lru_cache
from pathlib import Path

import decord
import numpy as np
from PIL import Image

from agehpc.data.index import Index, Sample, read_index, read_member
from agehpc.data.shards import Manifest, Split
from agehpc.errors import DataError

# Damage is reported by exceptions; FFmpeg's own lines on stderr would only repeat it.
decord.logging.set_level(decord.logging.QUIET)

OPEN_SHARDS = 64
DECORD_ERRORS = (
    *(decord.DECORDError, decord.DECORDLimitReachedError),
    *(RuntimeError, IndexError, AssertionError, StopIteration),
)


class Reader:
    """The samples of one split by (shard, index); reads and checks their bytes.

    Use it in the process that made it. DataError names the shard, the sample and the reason.
    """

    def __init__(self, directory: str | Path, manifest: Manifest, split: Split) -> None:
        self.directory = Path(directory)
        self.shards = manifest.splits[split]
        self._open = lru_cache(maxsize=OPEN_SHARDS)(_Shard)

    def sample(self, shard: int, index: int) -> Sample:
        """Return what the index says of a sample."""
        return self._shard(shard).index.samples[index]

    def read(self, shard: int, index: int) -> bytes:
        """Return the media bytes of a sample, checked against the index."""
        sample = self.sample(shard, index)
        data = read_member(self._shard(shard).descriptor, sample.media)
        if data is None:
            raise damaged(self.where(shard, index), "its bytes do not match their checksum")
        return data

    def read_input(self, shard: int, index: int) -> bytes:
        """Return the media bytes of a sample's input image, checked against the index."""
        member = self.sample(shard, index).input
        if member is None:
            raise damaged(self.where(shard, index), "it has no input image")
        data = read_member(self._shard(shard).descriptor, member)
        if data is None:
            reason = "the bytes of its input image do not match their checksum"
            raise damaged(self.where(shard, index), reason)
        return data

    def where(self, shard: int, index: int) -> str:
        """Return a sample's name for messages."""
        path = self.directory / self.shards[shard].name
        return f"{path}: sample {self.sample(shard, index).key}"

    def _shard(self, shard: int) -> "_Shard":
        return self._open(self.directory, self.shards[shard].name, self.shards[shard].samples)


class _Shard:
    """An open shard and its index."""

    def __init__(self, directory: Path, name: str, samples: int) -> None:
        self.index: Index = read_index(directory, name)
        if len(self.index.samples) != samples:
            raise DataError(
                f"{directory / name}: the index has {len(self.index.samples)} samples, the "
                f"manifest {samples}; see `agehpc data verify {directory}`"
            )
        try:
            self.descriptor = os.open(directory / name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DataError(f"cannot read shard {directory / name}: {error.strerror}") from None

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


def damaged(where: str, reason: str) -> DataError:
    """Return the error for a sample that cannot be used."""
    return DataError(
        f"{where} is damaged: {reason}; `agehpc data verify` lists all damage in a folder of shards"
    )


def decode_video(
    media: bytes, indices: np.ndarray, frames: int, where: str, size: int | None = None
) -> np.ndarray:
    """Decode the frames `indices` of an mp4 that holds `frames`: uint8 THWC, RGB.

    `size` is its width where that is known: a multiple of 64 is decoded faster. DataError where
    the bytes cannot be decoded, or hold another number of frames.
    """
    if not _counts_are(media, frames):
        raise damaged(where, f"its header does not declare {frames} frames")
    # A memfd path, never BytesIO: decord's byte reader runs past its buffer on damaged files.
    descriptor = os.memfd_create("clip", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(media)
        # Raise on the first frame in 10,000 that could only be repeated, not decoded.
        reader = decord.VideoReader(
            f"/proc/self/fd/{descriptor}",
            num_threads=1,
            fault_tol=1e-4,  # pyright: ignore[reportArgumentType]  (a share, says its docstring)
        )
        if len(reader) != frames:
            raise damaged(where, f"it has {len(reader)} frames instead of {frames}")
        # One range, sliced: decord seeks afresh for every index in another group of pictures.
        low, high = int(indices.min()), int(indices.max())
        return _range(reader, low, high, size)[indices - low]
    except DECORD_ERRORS as error:
        reason = str(error).strip().splitlines()
        raise damaged(
            where, f"it cannot be decoded ({reason[-1] if reason else 'no reason'})"
        ) from None
    finally:
        os.close(descriptor)


def _counts_are(media: bytes, frames: int) -> bool:
    """Tell whether an mp4 declares `frames` in its tables of durations and sizes.

    decord reserves memory for as many as are declared: billions of them end the process.
    """
    durations, sizes = media.find(b"stts"), media.find(b"stsz")
    if min(durations, sizes) < 0 or len(media) < max(durations, sizes) + 16:
        return False
    runs = int.from_bytes(media[durations + 8 : durations + 12], "big")
    table = media[durations + 12 : durations + 12 + 8 * min(runs, frames)]
    declared = sum(int.from_bytes(table[i : i + 4], "big") for i in range(0, len(table), 8))
    return declared == int.from_bytes(media[sizes + 12 : sizes + 16], "big") == frames


def _range(reader: decord.VideoReader, low: int, high: int, size: int | None) -> np.ndarray:
    """Decode frames low..high: THWC."""
    if size is not None and size % 64 == 0:
        return reader.get_batch(range(low, high + 1)).asnumpy()
    reader.seek_accurate(low)
    return np.stack([_unpadded(reader.next().asnumpy()) for _ in range(low, high + 1)])


def _unpadded(x_HWC: np.ndarray) -> np.ndarray:
    """Cut off the padding of rows.

    FFmpeg aligns rows, to 64 pixels on some CPUs. Where that gives a multiple of the width (16, 32,
    48 or 96 pixels), decord 0.6 and decord2 3.4 return a frame with too many channels, and refuse
    to make a batch.
    """
    height, width, _ = x_HWC.shape
    return x_HWC.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)


def decode_image(media: bytes, where: str) -> np.ndarray:
    """Decode a jpg or png: uint8 THWC with T = 1 and C = 1 or 3. DataError where damaged."""
    try:
        with Image.open(io.BytesIO(media)) as image:
            pixels = np.asarray(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise damaged(where, f"it cannot be decoded ({error})") from None
    return pixels[None, :, :, None] if pixels.ndim == 2 else pixels[None]


def to_channels(x_THWC: np.ndarray, channels: int) -> np.ndarray:
    """Convert between grey (C = 1) and RGB (C = 3) by ITU-R 601 luma; uint8 in and out."""
    if x_THWC.shape[-1] == channels:
        return x_THWC
    if channels == 3:
        return np.repeat(x_THWC, 3, axis=-1)
    # The weights of Pillow's convert("L"), in 16-bit fixed point: equal channels stay exact.
    luma = x_THWC.astype(np.uint32) @ np.array([19595, 38470, 7471], dtype=np.uint32)
    return ((luma + 0x8000) >> 16).astype(np.uint8)[..., None]
