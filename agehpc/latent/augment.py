"""Generated samples as shards, to train on beside or instead of real ones.

Shapes: N samples, C channels, T frames, H height, W width.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Literal

import av
import numpy as np
from PIL import Image

from agehpc.config.schema import DataConfig
from agehpc.data.encode import Settings
from agehpc.data.pack import Plan, Workers, pack
from agehpc.data.shards import Manifest
from agehpc.data.sources import Source

Make = Callable[[int, int], np.ndarray]
"""(first number, count) to generated samples: uint8 [count, C, H, W] or [count, C, T, H, W]."""


@dataclass(frozen=True)
class Generated(Source):
    """One generated sample, made when it is packed, in batches."""

    number: int = 0
    make: Callable[[int], np.ndarray] = np.zeros
    """Number to sample: uint8 CHW or CTHW."""
    rate: Fraction = Fraction(1)
    """Frames per second of a clip."""

    def read(self) -> bytes:
        """Return the sample as PNG, or as a lossless video."""
        x = self.make(self.number)
        return png(x) if x.ndim == 3 else lossless(x, self.rate)


def write_shards(
    out: Path,
    make: Make,
    labels: Sequence[str | None],
    data: DataConfig,
    *,
    fps: float,
    batch: int,
    image_format: Literal["jpg", "png"] = "png",
    validation_fraction: float = 0.1,
    samples_per_shard: int = 1000,
    overwrite: bool = False,
) -> Manifest:
    """Pack generated samples into the folder `out`, whole or not at all; return its manifest.

    Args:
        out: folder of shards to make.
        make: makes samples by number.
        labels: class of each sample, None without; as many as there shall be.
        data: of the run: kind, size, frames and channels of a sample.
        fps: frames per second of clips.
        batch: samples made at once.
        image_format: of pictures; clips are H.264, as all packed ones.
        validation_fraction: share that is held out.
        samples_per_shard: samples of a shard.
        overwrite: replace shards that `out` holds.

    Raises:
        UsageError: `out` exists. DataError: the disk is full.
    """
    total = len(labels)

    @lru_cache(maxsize=1)
    def part(index: int) -> np.ndarray:
        first = index * batch
        return make(first, min(batch, total - first))

    suffix = ".png" if data.kind == "image" else ".mkv"
    sources = [
        Generated(
            path=Path("generated"),
            name=f"{n:08d}{suffix}",
            folder=labels[n] or "",
            number=n,
            make=lambda n: part(n // batch)[n % batch],
            rate=Fraction(fps).limit_denominator(1001),
        )
        for n in range(total)
    ]
    settings = Settings(
        kind=data.kind,
        size=data.size,
        fit="crop",
        channels=1 if data.channels == 1 else 3,
        fps=None,
        clip_len=data.frames,
        gop=16,
        crf=18,
        image_format=image_format,
    )
    names = [source.name for source in sources]
    plan = Plan(sources, names, labels, settings, validation_fraction, samples_per_shard)
    # In this process: the sources are what the model generates.
    return pack(plan, out, overwrite=overwrite, workers=Workers(), progress=lambda done, of: None)


def png(x_CHW: np.ndarray) -> bytes:
    """A picture, grey or RGB, as PNG."""
    out = io.BytesIO()
    Image.fromarray(x_CHW[0] if len(x_CHW) == 1 else x_CHW.transpose(1, 2, 0)).save(out, "PNG")
    return out.getvalue()


def lossless(x_CTHW: np.ndarray, rate: Fraction) -> bytes:
    """A clip, grey or RGB, as FFV1 in Matroska: every pixel kept."""
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as file:
        stream = file.add_stream("ffv1", rate=rate)
        stream.height, stream.width = x_CTHW.shape[2:]
        stream.pix_fmt = "bgr0"
        for x_HWC in x_CTHW.transpose(1, 2, 3, 0):
            rgb_HWC = x_HWC.repeat(3, axis=2) if x_HWC.shape[2] == 1 else x_HWC
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb_HWC), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()
