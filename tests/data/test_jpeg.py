"""Pictures of shards: Pillow's pixels, and no damage unseen."""

import io
import random
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from agehpc.data import jpeg
from agehpc.data.damage import DamagedError
from agehpc.data.decode import decode_image

rng = np.random.default_rng(0)
SMOOTH = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))


def encoded(image: Image.Image, form: str = "JPEG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def picture(mode: str = "RGB", width: int = 24, height: int = 24) -> Image.Image:
    return SMOOTH.resize((width, height)).convert(mode)


@given(
    mode=st.sampled_from(["L", "RGB"]),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    quality=st.integers(1, 100),
    subsampling=st.sampled_from([0, 1, 2]),
    progressive=st.booleans(),
)
def test_jpegs_have_pillows_pixels(mode, width, height, quality, subsampling, progressive):
    options = {"subsampling": subsampling} if mode == "RGB" else {}
    media = encoded(
        picture(mode, width, height), quality=quality, progressive=progressive, **options
    )
    wanted = np.asarray(Image.open(io.BytesIO(media)))
    jpeg.check(media)
    got = decode_image(media, "x")
    np.testing.assert_array_equal(got, wanted.reshape(1, height, width, -1))


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_pngs(mode: str):
    image = picture(mode, 7, 9)
    got = decode_image(encoded(image, "PNG"), "x")
    np.testing.assert_array_equal(got, np.asarray(image).reshape(1, 9, 7, -1))


def huge_png() -> bytes:
    """A header that claims 60,000 x 60,000 pixels."""
    media = bytearray(encoded(picture(), "PNG"))
    media[16:24] = (60_000).to_bytes(4, "big") * 2
    media[29:33] = zlib.crc32(media[12:29]).to_bytes(4, "big")
    return bytes(media)


@pytest.mark.parametrize(
    ("media", "kind", "message"),
    [
        (b"", "open", "cannot be decoded"),
        (b"<html>404</html>", "open", "cannot be decoded"),
        (encoded(picture(), "PNG")[:90], "decode", "cannot be decoded"),
        (encoded(picture())[:-90], "decode", "Premature end"),
        (encoded(picture())[:40], "decode", "cannot be decoded"),
        (encoded(picture("RGB", 24, 20)), "open", "24x20 pixels instead of 24x24"),
        (encoded(picture("RGB", 24, 20), "PNG"), "open", "24x20 pixels instead of 24x24"),
        (encoded(picture("CMYK")), "open", "its pixels are CMYK"),
        (encoded(picture("RGBA"), "PNG"), "open", "its pixels are RGBA"),
        (encoded(picture("P"), "PNG"), "open", "its pixels are P"),
        (huge_png(), "decode", "exceeds limit"),
    ],
)
def test_what_is_no_packed_picture(media: bytes, kind: str, message: str):
    with pytest.raises(DamagedError, match=f"here is damaged: .*{message}") as caught:
        decode_image(media, "here", 24)
    assert caught.value.kind == kind


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_mutated_pictures_are_errors_or_pictures(form: str):
    """Unlike Pillow's, its JPEGs hide next to no damage."""
    media, generator = encoded(picture(), form), random.Random(0)
    refused = 0
    for number in range(200):
        data = bytearray(media)
        if number % 2:
            data = data[: generator.randrange(len(data))]
        for _ in range(generator.randint(1, 9) if len(data) == len(media) else 0):
            data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        try:
            assert decode_image(bytes(data), "x", 24).shape in [(1, 24, 24, 3), (1, 24, 24, 1)]
        except DamagedError:
            refused += 1
    assert refused > 150
