"""Positions to batches: which samples, decoded, augmented and stacked.

B samples of a batch, C channels, T frames, H height, W width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from agehpc.config.schema import DataConfig
from agehpc.data.augment import augment, augment_pair
from agehpc.data.clips import clip_indices
from agehpc.data.decode import Reader, decode_image, decode_video, to_channels
from agehpc.data.shards import Manifest, Split
from agehpc.data.stream import Stream
from agehpc.errors import DataError

SECOND = " second"  # the purpose of the second domain's draws: they are its own


@dataclass
class Batch:
    """Samples and where they come from."""

    pixels: torch.Tensor
    """uint8, BCTHW for video, BCHW for images."""
    labels: torch.Tensor
    """int64 [B]: index into the manifest's classes, -1 without a class."""
    positions: torch.Tensor
    """int64 [B]: global sample position in training, index in the split otherwise."""
    second: torch.Tensor | None = None
    """uint8 like `pixels`: of pairs the input image, with its own number of channels; of unpaired
    data a sample of the second domain (`pixels` is then of the first); else None."""

    def pin_memory(self) -> "Batch":
        """Return the batch in page-locked memory (called by DataLoader)."""
        return Batch(
            self.pixels.pin_memory(),
            self.labels.pin_memory(),
            self.positions.pin_memory(),
            None if self.second is None else self.second.pin_memory(),
        )


class Samples(Dataset):
    """Maps a list of positions to a Batch, or to the DataError that it met.

    `data` comes from :func:`agehpc.data.check.check`. Without a seed: in the split's own order,
    first stride, centred clip, no augmentation.
    """

    def __init__(
        self, data: DataConfig, manifest: Manifest, split: Split, seed: int | None
    ) -> None:
        self.data = data
        self.manifest = manifest
        self.split: Split = split
        self.seed = seed
        domains: tuple[str | None, ...] = (None,)
        if data.pairing == "unpaired":
            assert data.domains is not None, "check fills them in"
            domains = data.domains
        self.streams = [Stream(data, manifest, split, seed, domain) for domain in domains]
        self._reader: Reader | None = None

    def __len__(self) -> int:
        """Return the samples that can be had without repeating one: of the smaller domain."""
        return min(map(len, self.streams))

    @property
    def reader(self) -> Reader:
        """The open shards of this process."""
        # Made in the process that uses it: open files do not travel to workers.
        if self._reader is None:
            self._reader = Reader(self.data.shards, self.manifest, self.split)
        return self._reader

    def __getitem__(self, positions: Sequence[int]) -> Batch | DataError:
        try:
            loaded = [self._load(position) for position in positions]
        except DataError as error:
            return error
        firsts, seconds, labels = zip(*loaded, strict=True)
        return Batch(
            self._stack(firsts),
            torch.tensor(labels, dtype=torch.int64),
            torch.tensor(list(positions), dtype=torch.int64),
            None if self.data.pairing == "none" else self._stack(seconds),
        )

    def _stack(self, samples_THWC: Sequence[np.ndarray]) -> torch.Tensor:
        x_BCTHW = np.ascontiguousarray(np.stack(samples_THWC).transpose(0, 4, 1, 2, 3))
        return torch.from_numpy(x_BCTHW if self.data.kind == "video" else x_BCTHW[:, :, 0])

    def _load(self, position: int) -> tuple[np.ndarray, np.ndarray | None, int]:
        shard, index = self.streams[0].place(position)
        label = self.reader.sample(shard, index).label
        x_THWC = self._decode(shard, index, position, "")
        if self.data.pairing == "paired":
            input_THWC = self._decode_input(shard, index)
            if self.seed is not None:
                x_THWC, input_THWC = augment_pair(
                    x_THWC, input_THWC, self.data, self.seed, position
                )
            return x_THWC, input_THWC, label
        x_THWC = self._augment(x_THWC, position, "")
        if self.data.pairing == "none":
            return x_THWC, None, label
        other_THWC = self._decode(*self.streams[1].place(position), position, SECOND)
        return x_THWC, self._augment(other_THWC, position, SECOND), label

    def _decode(self, shard: int, index: int, position: int, domain: str) -> np.ndarray:
        media = self.reader.read(shard, index)
        where = self.reader.where(shard, index)
        if self.data.kind == "video":
            frames = self.reader.sample(shard, index).frames
            indices = clip_indices(self.data, frames, self.seed, position, domain)
            x_THWC = decode_video(media, indices, frames, where, self.data.size, self.data.decoder)
        else:
            x_THWC = decode_image(media, where, self.data.size)
        return to_channels(x_THWC, self.data.channels or self.manifest.channels)

    def _decode_input(self, shard: int, index: int) -> np.ndarray:
        media = self.reader.read_input(shard, index)
        x_THWC = decode_image(media, self.reader.where(shard, index), self.data.size)
        assert self.data.input_channels is not None, "check fills it in"
        return to_channels(x_THWC, self.data.input_channels)

    def _augment(self, x_THWC: np.ndarray, position: int, domain: str) -> np.ndarray:
        if self.seed is None:
            return x_THWC
        return augment(x_THWC, self.data, self.seed, position, domain)
