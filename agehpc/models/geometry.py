"""How resolution falls from a sample to the base of a network, stage by stage.

Shared by encoder, generator and discriminator, in two dimensions (images) and three (clips).
"""

from dataclasses import dataclass

from agehpc.config.schema import Config
from agehpc.errors import ConfigError

BASE_SIZE = 7  # halving stops at or below this many pixels: 64 -> 4, 28 -> 7


@dataclass(frozen=True)
class Geometry:
    """Shape of a sample and of the stages below it.

    Attributes:
        channels: colour channels of a sample.
        shapes: (T, H, W) or (H, W), from the sample's own to the base's.
    """

    channels: int
    shapes: tuple[tuple[int, ...], ...]

    @property
    def ndim(self) -> int:
        """2 for images, 3 for clips."""
        return len(self.shapes[0])

    @property
    def stages(self) -> int:
        """Number of halvings."""
        return len(self.shapes) - 1

    @property
    def base(self) -> tuple[int, ...]:
        """Shape at the bottom."""
        return self.shapes[-1]

    def strides(self, stage: int) -> tuple[int, ...]:
        """Downsampling factor of each dimension in a stage, 1 or 2."""
        above, below = self.shapes[stage], self.shapes[stage + 1]
        return tuple(a // b for a, b in zip(above, below, strict=True))


def geometry(config: Config) -> Geometry:
    """Stages of the networks of a configuration whose channels are known.

    Raises:
        ConfigError: a size or a number of frames that cannot be halved evenly.
    """
    data = config.data
    assert data.channels is not None, "channels come from the shards' manifest"
    size, frames, base_frames = data.size, data.frames, config.model.base_frames
    shapes = [_shape(data.kind, frames, size)]
    while size > BASE_SIZE:
        if size % 2:
            raise ConfigError(
                f"--data.size {data.size} cannot be halved down to {BASE_SIZE} pixels or fewer "
                f"({size} is odd); use 28, 32, 64, 128 or 256"
            )
        size //= 2
        if frames > base_frames:
            if frames % 2:
                raise ConfigError(
                    f"--data.frames {data.frames} cannot be halved down to {base_frames} frames "
                    f"({frames} is odd); use 8, 16 or 32"
                )
            frames //= 2
        shapes.append(_shape(data.kind, frames, size))
    return Geometry(data.channels, tuple(shapes))


def full_geometry(config: Config, channels: int) -> Geometry:
    """Stages that halve every dimension while it is even: to one pixel, for a power of two."""
    data = config.data
    shapes = [_shape(data.kind, data.frames, data.size)]
    while any(length % 2 == 0 for length in shapes[-1]):
        shapes.append(tuple(n // 2 if n % 2 == 0 else n for n in shapes[-1]))
    return Geometry(channels, tuple(shapes))


def _shape(kind: str, frames: int, size: int) -> tuple[int, ...]:
    return (frames, size, size) if kind == "video" else (size, size)
