"""Between the uint8 that shards hold and the floats that networks see."""

from torch import Tensor


def to_float(pixels: Tensor) -> Tensor:
    """Turn uint8 [0, 255] into float32 [-1, 1], on the same device."""
    return pixels.float().div_(127.5).sub_(1.0)
