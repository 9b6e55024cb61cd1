"""From one source to the media and description of its samples.

H height, W width, C channels. Runs in worker processes; the bytes depend on the source and the
settings alone: one encoder thread, no time stamps.
"""

import hashlib
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

from agehpc.data import video
from agehpc.data.shards import Kind
from agehpc.data.sources import Source

Fit = Literal["crop", "pad"]
LEAST_FRAMES = 16  # of the last, shorter segment of a source
EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Settings:
    """How samples are made."""

    kind: Kind
    size: int
    fit: Fit
    channels: Literal[1, 3]
    fps: Fraction | None
    clip_len: int
    gop: int
    crf: int
    image_format: Literal["jpg", "png"]


@dataclass(frozen=True)
class Piece:
    """One sample: media bytes, their extension, and what the json member says."""

    media: bytes
    extension: str
    about: dict[str, Any]


@dataclass(frozen=True)
class Reject:
    """A source that gives no samples, and why."""

    reason: str
    detail: str


class UnusableError(Exception):
    """Raised for a source that cannot be packed."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reject = Reject(reason, detail)


def encode(source: Source, settings: Settings) -> list[Piece] | Reject:
    """Make the samples of one source."""
    try:
        data = source.read()
    except OSError as error:
        return Reject("unreadable", str(error.strerror))
    if not data:
        return Reject("empty", "0 bytes")
    try:
        if settings.kind == "image":
            pieces = [_image(data, settings)]
        else:
            pieces = list(_video(data, settings))
    except UnusableError as error:
        return error.reject
    digest = hashlib.sha256(data).hexdigest()
    shared = {"source": source.name, "source_sha256": digest, "size": settings.size}
    for piece in pieces:
        piece.about.update(shared, channels=settings.channels, crc32=zlib.crc32(piece.media))
    return pieces


def encode_many(sources: Sequence[Source], settings: Settings) -> list[list[Piece] | Reject]:
    """Make the samples of several sources: one task of a pool."""
    return [encode(source, settings) for source in sources]


def _video(data: bytes, settings: Settings) -> Iterator[Piece]:
    try:
        rate, frames = video.decode(data, settings.fps)
        segments = _segments(
            (fit(Image.fromarray(f.rgb_HWC), settings, f.aspect) for f in frames), settings
        )
        for number, segment in enumerate(segments):
            media = video.encode(segment, rate, settings.gop, settings.crf)
            about = {
                "frames": video.count_frames(media),
                "fps": str(rate),
                "segment": number,
                "first_frame": number * settings.clip_len,
            }
            yield Piece(media, "mp4", about)
    except video.VideoError as error:
        raise UnusableError("undecodable", str(error)) from None


def _segments(frames: Iterator[Image.Image], settings: Settings) -> Iterator[list[np.ndarray]]:
    """Cut into `clip_len` frames; a shorter end is kept from 16 frames on, or when it is all."""
    segment: list[np.ndarray] = []
    whole = 0
    for image in frames:
        segment.append(np.asarray(_colour(image, settings.channels).convert("RGB")))
        if len(segment) == settings.clip_len:
            yield segment
            segment = []
            whole += 1
    if segment and (len(segment) >= LEAST_FRAMES or not whole):
        yield segment


def _image(data: bytes, settings: Settings) -> Piece:
    try:
        with Image.open(io.BytesIO(data)) as image:
            about = {"frames": 1}
            if _as_wanted(image, settings):
                return Piece(data, settings.image_format, about)
            upright = _eight_bits(ImageOps.exif_transpose(image))
        fitted = fit(_colour(upright, settings.channels), settings, Fraction(1))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnusableError("undecodable", str(error)) from None
    out = io.BytesIO()
    if settings.image_format == "jpg":
        fitted.save(out, "JPEG", quality=95, subsampling=0)
    else:
        fitted.save(out, "PNG")
    return Piece(out.getvalue(), settings.image_format, about)


def _as_wanted(image: Image.Image, settings: Settings) -> bool:
    """Tell whether the source's own bytes can be stored; decodes it to be sure of them."""
    wanted = {"jpg": "JPEG", "png": "PNG"}[settings.image_format]
    if image.format != wanted or image.size != (settings.size, settings.size):
        return False
    if image.mode != ("L" if settings.channels == 1 else "RGB") or "transparency" in image.info:
        return False
    image.load()
    return image.getexif().get(EXIF_ORIENTATION, 1) == 1


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint32) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UnusableError("unsupported", f"pixels of 32 bits (mode {image.mode})")
    return image


def _colour(image: Image.Image, channels: int) -> Image.Image:
    """Convert to grey or RGB; transparent pixels are laid over white."""
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


def is_grey(source: Source) -> bool | None:
    """Tell from the header whether an image has a single channel; None where it is unreadable."""
    try:
        with Image.open(io.BytesIO(source.read())) as image:
            bands = [band for band in image.getbands() if band not in "Aa"]
            return len(bands) == 1 and image.mode not in ("P", "PA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def fit(image: Image.Image, settings: Settings, aspect: Fraction) -> Image.Image:
    """Scale to size x size: the centred square cropped, or all of it on black.

    `aspect` is the width of a source pixel over its height.
    """
    width, height, size = image.width, image.height, settings.size
    if (width, height, aspect) == (size, size, 1):
        return image
    shown = width * aspect
    if settings.fit == "crop":
        side = min(shown, Fraction(height))
        left, top = (width - side / aspect) / 2, (height - side) / 2
        box = (float(left), float(top), float(width - left), float(height - top))
        return image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    scale = size / max(shown, Fraction(height))
    inner = (max(round(shown * scale), 1), max(round(height * scale), 1))
    canvas = Image.new(image.mode, (size, size))
    offset = ((size - inner[0]) // 2, (size - inner[1]) // 2)
    canvas.paste(image.resize(inner, Image.Resampling.BICUBIC), offset)
    return canvas
