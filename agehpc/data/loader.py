"""Batches of samples for training and validation.

What a batch holds is a pure function of (dataset id, seed, global position): workers and world
size only share out the work. Unpaired data has an order for each of its domains: a position's two
samples have nothing to do with each other, and each domain begins its next epoch on its own.
"""

import atexit
import itertools
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader

from agehpc.config.schema import DataConfig
from agehpc.data.samples import Batch, Samples
from agehpc.data.shards import Split, read_manifest
from agehpc.data.workers import immune
from agehpc.errors import DataError

# A training process answers them by saving, for which its workers must live.
_JOB_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}


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
        Samples(data, read_manifest(data.shards), "train", seed),
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

    Deterministic: first stride, centred clip, no augmentation. Decodes in this process. Unpaired
    data ends with its smaller domain: no sample comes twice. Raises DataError at the first damaged
    sample.
    """
    samples = Samples(data, read_manifest(data.shards), split, None)
    total = len(samples) if limit is None else min(len(samples), limit)
    for first in range(0, total, batch):
        loaded = samples[range(first, min(first + batch, total))]
        if isinstance(loaded, DataError):
            raise loaded
        yield loaded


def samples_at(data: DataConfig, *, split: Split, positions: Sequence[int]) -> Batch:
    """Read samples by their index in a split, as :func:`validation_batches` gives them.

    Raises DataError at the first damaged sample.
    """
    loaded = Samples(data, read_manifest(data.shards), split, None)[positions]
    if isinstance(loaded, DataError):
        raise loaded
    return loaded


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
