"""The order of samples: a pure function of (dataset id, seed, epoch).

Position p counts samples over all epochs and ranks. Every epoch permutes the shards and the samples
inside each, lays them end to end, and cuts that sequence into `interleave` columns of one length,
which are read side by side: p goes along the rows. So a batch holds about one sample of each of
many shards, while the column p % interleave stays in one shard for many rows: where the global
batch is a multiple of `interleave`, or divides it, a rank returns to the same columns. Where a run
stands is one cursor: nothing is replayed, and the order does not depend on world size, batch size
or workers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from agehpc.data.keyed import philox


class Place(NamedTuple):
    """The sample of one position: its epoch, its shard in the manifest, its index in the shard."""

    epoch: int
    shard: int
    index: int


@dataclass(frozen=True, eq=False)
class Order:
    """Order of the samples of one split, for `samples` per shard, in `interleave` columns.

    Remembers a permutation of the shards and one of the samples of each shard in use.
    """

    dataset_id: str
    seed: int
    samples: Sequence[int]
    interleave: int

    def place(self, position: int) -> Place:
        """Return the sample at a global position (from 0, without end)."""
        epoch, offset = divmod(position, total(self))
        shards, ends, starts = _plan(self, epoch)
        row, column = divmod(offset, len(starts))
        at = int(starts[column]) + row
        turn = int(np.searchsorted(ends, at, side="right"))
        shard = int(shards[turn])
        within = at - int(ends[turn]) + self.samples[shard]
        return Place(epoch, shard, int(_inside(self, epoch, shard)[within]))


@lru_cache(maxsize=1024)
def total(order: Order) -> int:
    """Return the samples of an epoch."""
    return sum(order.samples)


# Neighbouring positions share an epoch, and a column stays in its shard: what they need is kept.
@lru_cache(maxsize=1024)
def _plan(order: Order, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the shards as they follow each other, where each ends, and where columns start."""
    rng = philox(order.seed, f"shards {order.dataset_id}", epoch)
    shards = rng.permutation(len(order.samples))
    ends = np.cumsum(np.asarray(order.samples)[shards])
    rows, rest = divmod(total(order), min(order.interleave, total(order)))
    # Neighbouring pieces of the sequence often share a shard: they become columns far apart.
    columns = rng.permutation(min(order.interleave, total(order)))
    lengths = rows + (columns < rest)  # the last row holds the first `rest` columns alone
    starts = np.empty_like(columns)
    starts[columns] = np.cumsum(lengths) - lengths
    return shards, ends, starts


@lru_cache(maxsize=4096)
def _inside(order: Order, epoch: int, shard: int) -> np.ndarray:
    rng = philox(order.seed, f"samples {order.dataset_id} {shard}", epoch)
    return rng.permutation(order.samples[shard]).astype(np.uint32)


@dataclass(frozen=True, eq=False)
class Mix:
    """Which of several orders a position falls to: each so often as its weight, in every round.

    A round is as many positions as the weights' sum, in an order of its own.
    """

    key: str
    seed: int
    weights: tuple[int, ...]

    def place(self, position: int) -> tuple[int, int]:
        """Return which order, and the position in it: each counts its own without gaps."""
        number, within = divmod(position, sum(self.weights))
        which, before = _round(self, number)
        chosen = int(which[within])
        return chosen, number * self.weights[chosen] + int(before[within])


@lru_cache(maxsize=256)
def _round(mix: Mix, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the order at every place of a round, and how often it came before in the round."""
    weights = np.asarray(mix.weights)
    rng = philox(mix.seed, f"mix {mix.key}", number)
    which = rng.permutation(np.repeat(np.arange(len(weights)), weights))
    before = np.empty_like(which)
    firsts = np.repeat(np.cumsum(weights) - weights, weights)
    before[np.argsort(which, kind="stable")] = np.arange(len(which)) - firsts
    return which, before
