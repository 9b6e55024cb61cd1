"""Whether an image or a clip can be trained on as it is, without packing.

H height, W width, C channels.
"""

import io
import itertools
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from PIL import Image

from agehpc.data import video
from agehpc.data.decode import decode_video
from agehpc.data.pictures import DECODE_ERRORS, EXIF_ORIENTATION
from agehpc.data.pieces import UnusableError
from agehpc.data.shards import Kind
from agehpc.errors import DataError

DAMAGE = frozenset({"empty", "undecodable", "incomplete"})  # what packing could not mend either
FORMATS = ("JPEG", "PNG", "WEBP")
WINDOW = 16  # frames that are compared at the head, in the middle and at the end
TOLERANCE = 4.0  # mean grey levels: decoders may round, but not show another frame


class Look(NamedTuple):
    """What a file of media is: square, upright, of a constant rate."""

    size: int
    channels: int
    frames: int = 1
    rate: Fraction | None = None
    gop: int | None = None
    """Most frames between two keyframes."""


def look(data: bytes, kind: Kind) -> Look:
    """Decode a file of media from end to end and say what it is.

    UnusableError with a reason: one of DAMAGE, or what packing would have to change.
    """
    if not data:
        raise UnusableError("empty", "0 bytes")
    try:
        return _clip(data) if kind == "video" else _image(data)
    except video.VideoError as error:
        raise UnusableError("undecodable", str(error)) from None


def _image(data: bytes) -> Look:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            orientation = image.getexif().get(EXIF_ORIENTATION, 1)
            frames = getattr(image, "n_frames", 1)
    except DECODE_ERRORS as error:
        raise UnusableError("undecodable", str(error)) from None
    if image.format not in FORMATS:
        raise UnusableError("format", f"it is stored as {image.format}")
    if image.mode not in ("L", "RGB") or "transparency" in image.info:
        raise UnusableError("colours", f"its pixels are neither grey nor RGB (mode {image.mode})")
    if orientation != 1:
        raise UnusableError("rotated", f"its EXIF orientation is {orientation}")
    if frames > 1:
        raise UnusableError("animated", f"it has {frames} pictures")
    return Look(_square(image.width, image.height), 1 if image.mode == "L" else 3)


def _clip(data: bytes) -> Look:
    facts = video.facts(data)
    frames = video.count_frames(data)
    if facts.rotation:
        raise UnusableError("rotated", f"it is shown turned by {facts.rotation} degrees")
    if facts.aspect != 1:
        raise UnusableError("aspect", f"its pixels are {facts.aspect} as wide as high")
    if not facts.constant:
        raise UnusableError("rate", "its frames are not evenly spaced in time")
    size = _square(facts.width, facts.height)
    if facts.container != "mp4":
        raise UnusableError("format", f"its container is {facts.container}, not mp4")
    _check_frames(data, frames)
    return Look(size, 3, frames, facts.rate, facts.gop)


def _square(width: int, height: int) -> int:
    if width != height:
        raise UnusableError("size", f"{width}x{height} pixels are not square")
    return width


def _check_frames(data: bytes, count: int) -> None:
    """Compare what training would see, by seeking, with decoding from the first frame on."""
    length = min(WINDOW, count)
    for start in sorted({0, (count - length) // 2, count - length}):
        indices = np.arange(start, start + length)
        try:
            seen_THWC = decode_video(data, indices, count, "it")
        except DataError as error:
            raise UnusableError("seeking", str(error)) from None
        truth = _window(data, start, length)
        for index, seen_HWC, true_HWC in zip(indices, seen_THWC, truth, strict=True):
            error = np.abs(seen_HWC.astype(np.int16) - true_HWC).mean()
            if error > TOLERANCE:
                raise UnusableError("seeking", f"frame {index} is another one when sought")


def _window(data: bytes, start: int, length: int) -> Iterator[np.ndarray]:
    yield from itertools.islice(video.plain_frames(data), start, start + length)
