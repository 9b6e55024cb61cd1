"""A contact sheet of shards: clips as rows of frames, images as a grid, each with its class.

T frames, H height, W width, C channels; pixels are uint8.
"""

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from agehpc.data.decode import Reader, decode_image, decode_video, to_channels
from agehpc.data.shards import Manifest, Split, Where
from agehpc.errors import DataError

LEAST_CELL = 64  # pixels: smaller samples are enlarged by a whole factor
COLUMNS = 8  # of a grid of images
TEXT = 14  # pixels of a line of text
GAP = 2


def sheet(where: Where, manifest: Manifest, split: Split, samples: int, frames: int) -> Image.Image:
    """Draw samples of a split, evenly spaced over all of it; of clips `frames` each.

    A sample that cannot be decoded is an empty cell that says so.
    """
    cells = list(_cells(where, manifest, split, samples, frames))
    columns = 1 if manifest.kind == "video" else min(COLUMNS, len(cells))
    width = max((image.width for image, _ in cells), default=1) + GAP
    height = max((image.height for image, _ in cells), default=1) + TEXT + GAP
    rows = -(-len(cells) // max(columns, 1))
    canvas = Image.new("RGB", (max(columns * width, 1), max(rows * height, 1)), "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(TEXT - 4)
    for number, (image, text) in enumerate(cells):
        left, top = number % columns * width, number // columns * height
        draw.text((left, top), _fitting(draw, font, text, width), "black", font)
        canvas.paste(image, (left, top + TEXT))
    return canvas


def _fitting(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    text: str,
    width: int,
) -> str:
    """Return as much of a text as is not wider than its cell."""
    text = text.encode("ascii", "replace").decode()  # what Pillow's own font holds
    while text and draw.textlength(text, font) > width:
        text = text[:-1]
    return text


def _cells(
    where: Where, manifest: Manifest, split: Split, samples: int, frames: int
) -> Iterator[tuple[Image.Image, str]]:
    reader = Reader(where, manifest, split)
    ends = np.cumsum([shard.samples for shard in manifest.splits[split]])
    total = int(ends[-1]) if len(ends) else 0
    for position in (i * total // min(samples, total) for i in range(min(samples, total))):
        shard = int(np.searchsorted(ends, position, side="right"))
        index = position - int(ends[shard]) + manifest.splits[split][shard].samples
        sample = reader.sample(shard, index)
        text = manifest.classes[sample.label] if sample.label >= 0 else ""
        if manifest.kind == "video":
            text = f"{text}  {sample.key}  {sample.frames} frames".strip()
        try:
            x_THWC = _pixels(reader, manifest, shard, index, frames)
        except DataError:
            x_THWC, text = np.full((1, manifest.size, manifest.size, 3), 128, np.uint8), "damaged"
        yield _row(x_THWC), text


def _pixels(reader: Reader, manifest: Manifest, shard: int, index: int, frames: int) -> np.ndarray:
    """Decode what is shown of a sample: THWC; of a pair the input image and the target."""
    media, where = reader.read(shard, index), reader.where(shard, index)
    if manifest.kind == "video":
        count = reader.sample(shard, index).frames
        shown = np.linspace(0, count - 1, min(frames, count)).round().astype(int)
        return decode_video(media, shown, count, where, manifest.size)
    x_THWC = to_channels(decode_image(media, where), 3)
    if manifest.pairs is None:
        return x_THWC
    given_THWC = to_channels(decode_image(reader.read_input(shard, index), where), 3)
    return np.concatenate([given_THWC, x_THWC])


def _row(x_THWC: np.ndarray) -> Image.Image:
    """Lay frames side by side."""
    factor = -(-LEAST_CELL // x_THWC.shape[1])
    row_HWC = np.concatenate(list(x_THWC), axis=1)
    return Image.fromarray(row_HWC.repeat(factor, axis=0).repeat(factor, axis=1))
