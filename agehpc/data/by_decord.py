"""Decoding packed clips by decord (decord2 has the same import name). The only importer of it.

T frames, H height, W width, C channels; pixels are uint8 RGB.
"""

import os

import decord
import numpy as np

from agehpc.data.damage import undecodable, wrong_count

# Damage is reported by exceptions; FFmpeg's own lines on stderr would only repeat it.
decord.logging.set_level(decord.logging.QUIET)

ERRORS = (
    *(decord.DECORDError, decord.DECORDLimitReachedError),
    *(RuntimeError, IndexError, AssertionError, StopIteration),
)


def decode_range(media: bytes, low: int, high: int, frames: int, size: int | None) -> np.ndarray:
    """Decode frames low..high of a clip of `frames`: THWC. MediaError where it is damaged.

    `size` is its width where that is known: a multiple of 64 is decoded faster.
    """
    # A memfd path, never BytesIO: decord's byte reader runs past its buffer on damaged files.
    descriptor = os.memfd_create("clip", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(media)
        reader = _open(f"/proc/self/fd/{descriptor}")
        if len(reader) != frames:
            raise wrong_count(len(reader), frames)
        try:
            return _range(reader, low, high, size)
        except ERRORS as error:
            raise undecodable("decode", error) from None
    finally:
        os.close(descriptor)


def _open(path: str) -> decord.VideoReader:
    try:
        # Raise on the first frame in 10,000 that could only be repeated, not decoded.
        return decord.VideoReader(
            path,
            num_threads=1,
            fault_tol=1e-4,  # pyright: ignore[reportArgumentType]  (a share, says its docstring)
        )
    except ERRORS as error:
        raise undecodable("open", error) from None


def _range(reader: decord.VideoReader, low: int, high: int, size: int | None) -> np.ndarray:
    # One range, sliced by the caller: decord seeks afresh for every index in another group of
    # pictures.
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
