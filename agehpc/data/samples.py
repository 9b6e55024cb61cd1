"""One sample at a time: read, decoded, augmented, and laid out as batches hold it.

C channels, T frames, H height, W width, N bytes. Decoding processes import this: no torch here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from agehpc.config.schema import DataConfig
from agehpc.data.augment import augment, augment_pair
from agehpc.data.clips import clip_indices
from agehpc.data.damage import damaged
from agehpc.data.decode import decode_image, decode_video, load_decoder, to_channels
from agehpc.data.readers import AnyReader, open_reader
from agehpc.data.shards import Manifest, Split

DOMAINS = ("", " second")  # purposes of a domain's draws: the second has its own


class Unit(NamedTuple):
    """One sample to load: for which position and domain (0, of unpaired data 1 too), from where."""

    position: int
    domain: int
    shard: int
    index: int


class Samples:
    """Loads the samples of a split.

    `data` comes from :func:`agehpc.data.check.check`. Without a seed: first stride, centred clip,
    no augmentation. It may be sent to other processes.
    """

    def __init__(
        self, data: DataConfig, manifest: Manifest, split: Split, seed: int | None
    ) -> None:
        self.data = data
        self.manifest = manifest
        self.split: Split = split
        self.seed = seed
        self.channels = data.channels or manifest.channels
        self._reader: AnyReader | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Open files do not travel: the process that loads opens the shards itself.
        return self.__dict__ | {"_reader": None}

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """CTHW of a sample."""
        return self.channels, self.data.frames, self.data.size, self.data.size

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """CTHW of the input image of a pair."""
        assert self.data.input_channels is not None, "check fills it in"
        return self.data.input_channels, 1, self.data.size, self.data.size

    @property
    def nbytes(self) -> int:
        """The bytes N of what `load` writes: of pairs the target, then the input image."""
        paired = self.data.pairing == "paired"
        return int(np.prod(self.shape)) + (int(np.prod(self.input_shape)) if paired else 0)

    @property
    def reader(self) -> AnyReader:
        """The open shards of this process."""
        if self._reader is None:
            self._reader = open_reader(self.data, self.manifest, self.split)
        return self._reader

    def prepare(self) -> None:
        """Load the decoder, which takes a while; ConfigError where it is missing."""
        if self.data.kind == "video":
            load_decoder(self.data.decoder)

    def load(self, unit: Unit, out_N: np.ndarray, begin: Callable[[], None] | None = None) -> int:
        """Write the pixels of a sample, CTHW uint8, into `out_N` and return its label.

        `begin` is called between reading and decoding. DamagedError for a sample that cannot be
        used, DataError for a shard.
        """
        media = self._read(self.reader.read, unit)
        paired = self.data.pairing == "paired"
        input_media = self._read(self.reader.read_input, unit) if paired else b""
        if begin is not None:
            begin()
        x_THWC = self._decode(media, unit)
        length = x_THWC.size
        if paired:
            input_THWC = self._decode_input(input_media, unit)
            if self.seed is not None:
                x_THWC, input_THWC = augment_pair(
                    x_THWC, input_THWC, self.data, self.seed, unit.position
                )
            _write(out_N[length:], input_THWC)
        elif self.seed is not None:
            x_THWC = augment(x_THWC, self.data, self.seed, unit.position, DOMAINS[unit.domain])
        _write(out_N[:length], x_THWC)
        return self.reader.sample(unit.shard, unit.index).label

    def where(self, unit: Unit) -> str:
        """Return a sample's name for messages."""
        return self.reader.where(unit.shard, unit.index)

    def _read(self, read: Callable[[int, int], bytes], unit: Unit) -> bytes:
        try:
            return read(unit.shard, unit.index)
        except OSError as error:
            reason = f"it cannot be read ({error.strerror or error})"
            raise damaged(self.where(unit), reason, "open") from None

    def _decode(self, media: bytes, unit: Unit) -> np.ndarray:
        data, where = self.data, self.where(unit)
        if data.kind == "video":
            frames = self.reader.sample(unit.shard, unit.index).frames
            indices = clip_indices(data, frames, self.seed, unit.position, DOMAINS[unit.domain])
            x_THWC = decode_video(media, indices, frames, where, data.size, data.decoder)
        else:
            x_THWC = decode_image(media, where, data.size)
        return to_channels(x_THWC, self.channels)

    def _decode_input(self, media: bytes, unit: Unit) -> np.ndarray:
        x_THWC = decode_image(media, self.where(unit), self.data.size)
        return to_channels(x_THWC, self.input_shape[0])


def _write(out_N: np.ndarray, x_THWC: np.ndarray) -> None:
    x_CTHW = x_THWC.transpose(3, 0, 1, 2)
    out_N.reshape(x_CTHW.shape)[...] = x_CTHW
