"""The order of samples: a pure function of (dataset id, seed, epoch).

Position p counts samples over all epochs and ranks. Every epoch permutes the shards, lays their
samples end to end, and shuffles inside blocks of that sequence. Where a run stands is one cursor:
nothing is replayed, and the order does not depend on the world size, batch size or workers.
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
    """Order of the samples of one split, for `samples` per shard and a shuffle of `block`."""

    dataset_id: str
    seed: int
    samples: Sequence[int]
    block: int

    def place(self, position: int) -> Place:
        """Return the sample at a global position (from 0, without end)."""
        epoch, offset = divmod(position, _total(self))
        block, within = divmod(offset, self.block)
        offset = block * self.block + int(_block(self, epoch, block)[within])
        shards, ends = _shards(self, epoch)
        rank = int(np.searchsorted(ends, offset, side="right"))
        shard = int(shards[rank])
        return Place(epoch, shard, offset - int(ends[rank]) + self.samples[shard])


@lru_cache(maxsize=8)
def _total(order: Order) -> int:
    return sum(order.samples)


# Neighbouring positions share an epoch and a block: both are made once and kept a while.
@lru_cache(maxsize=4)
def _shards(order: Order, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    rng = philox(order.seed, f"shards {order.dataset_id}", epoch)
    shards = rng.permutation(len(order.samples))
    return shards, np.cumsum(np.asarray(order.samples)[shards])


@lru_cache(maxsize=8)
def _block(order: Order, epoch: int, block: int) -> np.ndarray:
    total = _total(order)
    length = min(order.block, total - block * order.block)
    blocks = -(-total // order.block)
    rng = philox(order.seed, f"block {order.dataset_id}", epoch * blocks + block)
    return rng.permutation(length)
