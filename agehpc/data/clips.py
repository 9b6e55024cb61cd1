"""Which frames of a source make a clip."""

import numpy as np

from agehpc.config.schema import DataConfig
from agehpc.data.keyed import philox


def clip_indices(
    data: DataConfig,
    source_frames: int,
    seed: int | None = None,
    position: int = 0,
    domain: str = "",
) -> np.ndarray:
    """Choose the frames of a clip: int64 [data.frames], indices into the source.

    With a seed, stride and start are drawn by (seed, "clip" + domain, position); without one the
    first stride and the centred start are taken. A source that is too short is looped (whether
    that is allowed is checked before training).
    """
    rng = None if seed is None else philox(seed, f"clip{domain}", position)
    stride = data.strides[0 if rng is None else int(rng.integers(len(data.strides)))]
    room = source_frames - span(data.frames, stride)
    if room < 0:
        start = 0 if rng is None else int(rng.integers(source_frames))
    else:
        start = room // 2 if rng is None else int(rng.integers(room + 1))
    return (start + stride * np.arange(data.frames)) % source_frames


def span(frames: int, stride: int) -> int:
    """Return the source frames that a clip covers."""
    return (frames - 1) * stride + 1
