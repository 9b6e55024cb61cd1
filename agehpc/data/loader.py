"""Batches of samples for training and validation.

B samples of a batch, C channels, T frames, H height, W width. What a batch holds is a pure
function of (dataset id, seed, global position): workers and world size only share out the work.
"""

import atexit
import itertools
import os
import signal
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from agehpc.config.schema import DataConfig
from agehpc.data.augment import augment
from agehpc.data.clips import clip_indices
from agehpc.data.decode import Reader, decode_image, decode_video, to_channels
from agehpc.data.order import Order
from agehpc.data.shards import Manifest, Split, read_manifest
from agehpc.data.workers import immune
from agehpc.errors import DataError

# A training process answers them by saving, for which its workers must live.
_JOB_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}


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

    def pin_memory(self) -> "Batch":
        """Return the batch in page-locked memory (called by DataLoader)."""
        return Batch(*(x.pin_memory() for x in (self.pixels, self.labels, self.positions)))


def train_batches(
    data: DataConfig,
    seed: int,
    *,
    start: int,
    global_batch: int,
    micro_batch: int,
    accumulation: int,
    rank: int,
    world_size: int,
) -> Generator[Batch, None, None]:
    """Yield this rank's micro-batches of M samples without end, `accumulation` an optimizer step.

    The step whose first global position is c (start, start + G, ...) gives micro-batch k of rank r
    the positions c + k*M*W + r*M + [0, M) with W ranks and G = M*W*accumulation. `data` comes from
    :func:`agehpc.data.check.check`. Close the iterator to end its workers. Raises DataError at the
    batch that holds a damaged sample.
    """
    assert global_batch == micro_batch * world_size * accumulation
    assert 0 <= rank < world_size
    # Micro-batches follow each other a world's width apart, within a step and across steps.
    positions = _Positions(start + rank * micro_batch, micro_batch, world_size * micro_batch)
    loader = DataLoader(
        _Samples(data, read_manifest(data.shards), "train", seed),
        batch_size=None,
        sampler=positions,
        collate_fn=_as_it_is,
        num_workers=data.workers,
        prefetch_factor=data.prefetch if data.workers else None,
        multiprocessing_context="spawn" if data.workers else None,
        worker_init_fn=_worker_start if data.workers else None,
        pin_memory=torch.cuda.is_available(),
        # DataLoader draws a seed that nothing here uses: not from the run's own generator.
        generator=torch.Generator(),
    )
    with immune(_JOB_SIGNALS):
        batches = iter(loader)
    for batch in batches:
        # An exception from a worker would arrive wrapped in its traceback: errors travel as values.
        if isinstance(batch, DataError):
            raise batch
        yield batch


def validation_batches(
    data: DataConfig, *, split: Split = "validation", batch: int, limit: int | None
) -> Iterator[Batch]:
    """Yield a split once, in its own order, at most `limit` samples; the last batch may be short.

    Deterministic: first stride, centred clip, no augmentation. Decodes in this process.
    Raises DataError at the first damaged sample.
    """
    manifest = read_manifest(data.shards)
    samples = _Samples(data, manifest, split, None)
    total = manifest.samples(split)
    total = total if limit is None else min(total, limit)
    for first in range(0, total, batch):
        loaded = samples[range(first, min(first + batch, total))]
        if isinstance(loaded, DataError):
            raise loaded
        yield loaded


class _Samples(Dataset):
    """Maps a list of positions to a Batch, or to the DataError that it met."""

    def __init__(
        self, data: DataConfig, manifest: Manifest, split: Split, seed: int | None
    ) -> None:
        self.data = data
        self.manifest = manifest
        self.split: Split = split
        self.seed = seed
        sizes = tuple(shard.samples for shard in manifest.splits[split])
        self.order = Order(manifest.dataset_id, seed or 0, sizes, data.shuffle_block)
        self.ends = np.cumsum(sizes)
        self.channels = data.channels or manifest.channels
        self._reader: Reader | None = None

    @property
    def reader(self) -> Reader:
        # Made in the process that uses it: open files do not travel to workers.
        if self._reader is None:
            self._reader = Reader(self.data.shards, self.manifest, self.split)
        return self._reader

    def __getitem__(self, positions: range) -> Batch | DataError:
        try:
            loaded = [self._load(position) for position in positions]
        except DataError as error:
            return error
        x_BTHWC = np.stack([pixels for pixels, _ in loaded])
        x_BCTHW = np.ascontiguousarray(x_BTHWC.transpose(0, 4, 1, 2, 3))
        pixels = torch.from_numpy(x_BCTHW if self.data.kind == "video" else x_BCTHW[:, :, 0])
        labels = torch.tensor([label for _, label in loaded], dtype=torch.int64)
        return Batch(pixels, labels, torch.tensor(list(positions), dtype=torch.int64))

    def _load(self, position: int) -> tuple[np.ndarray, int]:
        shard, index = self._place(position)
        media = self.reader.read(shard, index)
        sample = self.reader.sample(shard, index)
        where = self.reader.where(shard, index)
        if self.data.kind == "video":
            indices = clip_indices(self.data, sample.frames, self.seed, position)
            x_THWC = decode_video(media, indices, sample.frames, where, self.data.size)
        else:
            x_THWC = decode_image(media, where)
        x_THWC = to_channels(x_THWC, self.channels)
        if self.seed is not None:
            x_THWC = augment(x_THWC, self.data, self.seed, position)
        return x_THWC, sample.label

    def _place(self, position: int) -> tuple[int, int]:
        if self.seed is not None:
            place = self.order.place(position)
            return place.shard, place.index
        shard = int(np.searchsorted(self.ends, position, side="right"))
        return shard, position - int(self.ends[shard]) + self.order.samples[shard]


@dataclass(frozen=True)
class _Positions:
    """Ranges of `length` global positions, `step` apart, without end."""

    first: int
    length: int
    step: int

    def __iter__(self) -> Iterator[range]:
        for first in itertools.count(self.first, self.step):
            yield range(first, first + self.length)


def _as_it_is(batch: Any) -> Any:
    return batch


def _worker_start(worker: int) -> None:
    # Batches are sent by a thread: where it is inside torch when the interpreter ends, C++ aborts.
    atexit.register(os._exit, 0)
    threading.Thread(target=_obey_parent, daemon=True).start()


def _obey_parent() -> None:
    """End the worker when SIGTERM comes from its parent, not from the job's launcher."""
    parent = os.getppid()
    while True:
        if signal.sigwaitinfo({signal.SIGTERM}).si_pid == parent:
            os._exit(0)
