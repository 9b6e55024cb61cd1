"""Single pictures: decoded upright, in the wanted colours, fitted to a square, and stored."""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

import numpy as np
from PIL import Image, ImageOps

from agehpc.data import jpeg
from agehpc.data.pieces import Settings, UnusableError

EXIF_ORIENTATION = 0x0112
# Pillow's decoders meet damage with whatever goes wrong in them: AVIF with RuntimeError, TIFF with
# TypeError, others with struct.error, IndexError, KeyError or OverflowError.
DECODE_ERRORS = (
    *(OSError, ValueError, SyntaxError, TypeError, RuntimeError, LookupError, ArithmeticError),
    *(EOFError, MemoryError, struct.error, Image.DecompressionBombError),
)


def picture(data: bytes, settings: Settings, channels: int) -> bytes:
    """Return what to store for an image file: its own bytes where they are as wanted."""
    with _opened(data) as image:
        if _as_wanted(image, settings, channels):
            return data
        return store(_upright(image), settings, channels)


def upright(data: bytes) -> Image.Image:
    """Decode an image file, turned as its camera was held; UnusableError where it is damaged."""
    with _opened(data) as image:
        return _upright(image)


def store(image: Image.Image, settings: Settings, channels: int) -> bytes:
    """Fit a picture to the square and encode it in the wanted format."""
    fitted = fit(colour(image, channels), settings, Fraction(1))
    if settings.image_format == "png":
        return png(fitted)
    out = io.BytesIO()
    if settings.image_format == "webp":
        fitted.save(out, "WEBP", lossless=True)
        return out.getvalue()
    fitted.save(out, "JPEG", quality=95, subsampling=0)
    return out.getvalue()


def png(image: Image.Image) -> bytes:
    """Encode a picture without loss."""
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format == "JPEG":
                jpeg.check(data)
            yield image
    except DECODE_ERRORS as error:
        raise UnusableError("undecodable", str(error)) from None


def _upright(image: Image.Image) -> Image.Image:
    return _eight_bits(ImageOps.exif_transpose(image))


def _as_wanted(image: Image.Image, settings: Settings, channels: int) -> bool:
    """Tell whether the source's own bytes can be stored; decodes it to be sure of them."""
    wanted = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[settings.image_format]
    if image.format != wanted or image.size != (settings.size, settings.size):
        return False
    if image.mode != ("L" if channels == 1 else "RGB") or "transparency" in image.info:
        return False
    if getattr(image, "n_frames", 1) > 1:
        return False
    image.load()
    return image.getexif().get(EXIF_ORIENTATION, 1) == 1


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint32) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UnusableError("unsupported", f"pixels of 32 bits (mode {image.mode})")
    return image


def colour(image: Image.Image, channels: int) -> Image.Image:
    """Convert to grey or RGB; transparent pixels are laid over white."""
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


def has_one_channel(data: bytes) -> bool | None:
    """Tell from the header whether an image has a single channel; None where it is unreadable."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            bands = [band for band in image.getbands() if band not in "Aa"]
            return len(bands) == 1 and image.mode not in ("P", "PA")
    except DECODE_ERRORS:
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
    if not settings.enlarge:
        scale = min(scale, Fraction(1))
    inner = (max(round(shown * scale), 1), max(round(height * scale), 1))
    canvas = Image.new(image.mode, (size, size))
    offset = ((size - inner[0]) // 2, (size - inner[1]) // 2)
    canvas.paste(image.resize(inner, Image.Resampling.BICUBIC), offset)
    return canvas
