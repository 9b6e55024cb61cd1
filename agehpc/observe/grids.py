"""Sample grids: pictures as PNG, clips as film strips and as MP4 that browsers play.

Letters of shapes: N clips or pictures, C channels (1 or 3), T frames, H height, W width. All
arrays are uint8.
"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agehpc.files import atomic_path

if TYPE_CHECKING:
    from torch import Tensor

Array = np.ndarray

_GAP = 2
_BACKGROUND = 255
_CLIP_SECONDS = 4.0  # a clip is played again until its file lasts this long


def to_uint8(x: "Tensor") -> Array:
    """Turn a float tensor in [-1, 1], any shape, into uint8 in [0, 255]; NaN becomes 0."""
    scaled = x.detach().float().nan_to_num(nan=-1.0).clamp(-1, 1).add(1).mul(127.5)
    return scaled.round().byte().cpu().numpy()


def image_grid(rows: Sequence[Array], zoom: int = 1) -> Array:
    """Tile rows of pictures NCHW into one picture HWC; short rows end in background.

    All pictures are of one size and channel count; each pixel is drawn zoom x zoom.
    """
    return _tile([list(row_NCHW) for row_NCHW in rows], zoom)


def video_grid(rows: Sequence[Array], zoom: int = 1) -> Array:
    """Tile rows of clips NCTHW of one length into frames THWC."""
    frames = rows[0].shape[2]
    assert all(row.shape[2] == frames for row in rows), [row.shape for row in rows]
    return np.stack([image_grid([row[:, :, t] for row in rows], zoom) for t in range(frames)])


def film_strip(rows: Sequence[Array], frames: int = 8, zoom: int = 1) -> Array:
    """Show clips NCTHW as lines of evenly spaced frames, in one picture HWC.

    The n-th clip of every row comes together (real above its reconstruction), then the next.
    """
    lines = []
    for n in range(max(len(row) for row in rows)):
        for row_NCTHW in rows:
            if n < len(row_NCTHW):
                clip_TCHW = row_NCTHW[n].transpose(1, 0, 2, 3)
                picks = np.linspace(0, len(clip_TCHW) - 1, min(frames, len(clip_TCHW)))
                lines.append(list(clip_TCHW[picks.round().astype(int)]))
    return _tile(lines, zoom)


def _tile(lines: list[list[Array]], zoom: int) -> Array:
    """Paste pictures CHW on a background, a list a line."""
    channels, height, width = lines[0][0].shape
    height, width = height * zoom, width * zoom
    columns = max(len(line) for line in lines)
    shape = (len(lines) * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, channels)
    canvas_HWC = np.full(shape, _BACKGROUND, dtype=np.uint8)
    for row, line in enumerate(lines):
        for column, picture_CHW in enumerate(line):
            large = picture_CHW.transpose(1, 2, 0).repeat(zoom, axis=0).repeat(zoom, axis=1)
            top, left = row * (height + _GAP), column * (width + _GAP)
            canvas_HWC[top : top + height, left : left + width] = large
    return canvas_HWC


def save_png(path: str | Path, picture_HWC: Array) -> None:
    """Write a picture, grey or RGB, atomically."""
    from PIL import Image

    grey = picture_HWC.shape[2] == 1
    image = Image.fromarray(picture_HWC[:, :, 0] if grey else picture_HWC)
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", optimize=True)


def save_mp4(path: str | Path, frames_THWC: Array, fps: float, seconds: float = 0.0) -> None:
    """Write frames as H.264 in MP4 (yuv420p, streamable), grey or RGB, atomically.

    The clip is played over whole times until it lasts `seconds`. Odd sizes, which yuv420p
    cannot hold, gain a line of background.
    """
    import av

    loops = max(1, int(np.ceil(seconds * fps / len(frames_THWC))))
    frames_THWC = _even_rgb(frames_THWC)
    with (
        atomic_path(path) as temporary,
        av.open(str(temporary), "w", format="mp4", options={"movflags": "faststart"}) as file,
    ):
        stream = file.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = frames_THWC.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "16", "preset": "veryfast"}
        for _ in range(loops):
            for frame_HWC in frames_THWC:
                frame = av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")
                file.mux(stream.encode(frame))
        file.mux(stream.encode())


def save_grid(stem: Path, rows: Sequence[Array], fps: float) -> list[Path]:
    """Write rows of uint8 pictures NCHW as PNG, or of clips NCTHW as film strip and MP4."""
    png = stem.with_suffix(".png")
    if rows[0].ndim == 4:
        save_png(png, image_grid(rows))
        return [png]
    mp4 = stem.with_suffix(".mp4")
    save_png(png, film_strip(rows))
    save_mp4(mp4, video_grid(rows, zoom=2), fps, _CLIP_SECONDS)
    return [mp4, png]


def _even_rgb(frames_THWC: Array) -> Array:
    _, height, width, channels = frames_THWC.shape
    pad = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    padded = np.pad(frames_THWC, pad, constant_values=_BACKGROUND)
    return np.ascontiguousarray(padded.repeat(3, axis=3) if channels == 1 else padded)
