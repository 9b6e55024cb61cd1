"""Batches of samples for training and validation.

What a batch holds is a pure function of (dataset id, seed, global position): workers and world
size only share out the work. Unpaired data has an order for each of its domains: a position's two
samples have nothing to do with each other, and each domain begins its next epoch on its own.

B samples of a batch, C channels, T frames, H height, W width.
"""

import itertools
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch

from agehpc.config.schema import DataConfig
from agehpc.data.feed import Ahead, Feed, Here
from agehpc.data.mixture import read_shards
from agehpc.data.pool import Figures
from agehpc.data.prefetch import fetched_ahead
from agehpc.data.quarantine import Places, Quarantine
from agehpc.data.samples import Samples
from agehpc.data.shards import Split


@dataclass
class Batch:
    """Samples and where they come from."""

    pixels: torch.Tensor
    """uint8, BCTHW for video, BCHW for images; page-locked where there is a GPU."""
    labels: torch.Tensor
    """int64 [B]: index into the manifest's classes, -1 without a class."""
    positions: torch.Tensor
    """int64 [B]: global sample position in training, index in the split otherwise."""
    second: torch.Tensor | None = None
    """uint8 like `pixels`: of pairs the input image, with its own number of channels; of unpaired
    data a sample of the second domain (`pixels` is then of the first); else None."""


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
    quarantine: Quarantine | None = None,
    figures: Figures | None = None,
) -> Generator[Batch, None, None]:
    """Yield this rank's micro-batches of M samples without end, `accumulation` an optimizer step.

    The step whose first global position is c (start, start + G, ...) gives micro-batch k of rank r
    the positions c + k*M*W + r*M + [0, M) with W ranks and G = M*W*accumulation. `data` comes from
    :func:`agehpc.data.check.check`. Close the iterator to end its workers.

    With a quarantine a damaged sample is told to it and replaced: by another of its shard, drawn
    by its position; DataError once there are too many. Without one: DamagedError at its batch.
    `figures` count what decoding does.
    """
    assert global_batch == micro_batch * world_size * accumulation
    assert 0 <= rank < world_size
    # Micro-batches follow each other a world's width apart, within a step and across steps.
    positions = _Positions(start + rank * micro_batch, micro_batch, world_size * micro_batch)
    samples = Samples(data, read_shards(data), "train", seed)
    samples.prepare()
    places = Places(samples, quarantine)
    figures = Figures() if figures is None else figures
    with fetched_ahead(samples, places, positions) as reached:
        feed: Feed
        if data.workers:
            keys = ((p, d) for batch in positions for p in batch for d in range(places.domains))
            feed = Ahead(samples, places, keys, micro_batch * places.domains, figures)
        else:
            feed = Here(samples, places, figures)
        with closing(feed):
            for number, batch in enumerate(positions):
                loaded = _load(feed, samples, batch)
                reached(number)
                feed.refill()
                yield loaded


def validation_batches(
    data: DataConfig,
    *,
    split: Split = "validation",
    batch: int,
    limit: int | None,
    quarantine: Quarantine | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """Yield a split once, in its own order, at most `limit` samples; the last batch may be short.

    Deterministic: first stride, centred clip, no augmentation. Decodes in this process. Unpaired
    data ends with its smaller domain: no sample comes twice. DamagedError at the first damaged
    sample: figures of fewer or other samples would not compare. With a quarantine, for pictures,
    it is replaced.

    With several ranks each yields its own part, in batches equal in number and size on all of them:
    the last ones are filled up, with fewer samples than there are ranks, by repeating the last
    sample at position -1. Leave these out of every figure.
    """
    samples = Samples(data, read_shards(data), split, None)
    places = Places(samples, quarantine)
    feed = Here(samples, places, Figures())
    total = len(places) if limit is None else min(len(places), limit)
    for first in range(0, total, batch * world_size):
        own = min(batch, -(-(total - first) // world_size))
        positions = first + rank * own + torch.arange(own)
        loaded = _load(feed, samples, positions.clamp(max=total - 1).tolist())
        loaded.positions[positions >= total] = -1
        yield loaded


def samples_at(data: DataConfig, *, split: Split, positions: Sequence[int]) -> Batch:
    """Read samples by their index in a split, as :func:`validation_batches` gives them.

    DamagedError at the first damaged sample.
    """
    samples = Samples(data, read_shards(data), split, None)
    return _load(Here(samples, Places(samples), Figures()), samples, positions)


def _load(feed: Feed, samples: Samples, positions: Sequence[int]) -> Batch:
    data = samples.data
    x_BCTHW = _empty((len(positions), *samples.shape))
    second_BCTHW = None
    if data.pairing != "none":
        shape = samples.input_shape if data.pairing == "paired" else samples.shape
        second_BCTHW = _empty((len(positions), *shape))
    x_BN = x_BCTHW.numpy().reshape(len(positions), -1)
    second_BN = None if second_BCTHW is None else second_BCTHW.numpy().reshape(len(positions), -1)
    labels = torch.empty(len(positions), dtype=torch.int64)
    for i, position in enumerate(positions):
        pixels_N, labels[i] = feed.sample(position, 0)
        x_BN[i] = pixels_N[: x_BN.shape[1]]
        if second_BN is not None:
            if data.pairing == "paired":
                second_BN[i] = pixels_N[x_BN.shape[1] :]
            else:
                second_BN[i] = feed.sample(position, 1).pixels_N
    return Batch(
        _without_time(x_BCTHW, data),
        labels,
        torch.tensor(list(positions), dtype=torch.int64),
        None if second_BCTHW is None else _without_time(second_BCTHW, data),
    )


def _empty(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.uint8, pin_memory=torch.cuda.is_available())


def _without_time(x_BCTHW: torch.Tensor, data: DataConfig) -> torch.Tensor:
    return x_BCTHW if data.kind == "video" else x_BCTHW[:, :, 0]


@dataclass(frozen=True)
class _Positions:
    """Ranges of `length` global positions, `step` apart, without end."""

    first: int
    length: int
    step: int

    def __iter__(self) -> Iterator[range]:
        for first in itertools.count(self.first, self.step):
            yield range(first, first + self.length)
