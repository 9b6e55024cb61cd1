"""Which sample stands at a position: of a whole split, or of the samples of one class."""

import numpy as np

from agehpc.config.schema import DataConfig
from agehpc.data.index import read_index
from agehpc.data.order import Order
from agehpc.data.shards import Manifest, Split


class Stream:
    """The samples of one split by position: for training in shuffled epochs without end.

    With a domain (the name of a class) they are the samples of that class alone, in an order of
    its own. Reads the index of every shard then, once; a position costs the same in any case.
    """

    def __init__(
        self,
        data: DataConfig,
        manifest: Manifest,
        split: Split,
        seed: int | None,
        domain: str | None = None,
    ) -> None:
        self._shuffled = seed is not None
        self._kept = None if domain is None else _of_class(data.shards, manifest, split, domain)
        if self._kept is None:
            sizes = tuple(shard.samples for shard in manifest.splits[split])
        else:
            sizes = tuple(len(indices) for indices in self._kept)
        # The key of the draws: domains of the same sizes must not be in step.
        key = manifest.dataset_id if domain is None else f"{manifest.dataset_id} {domain}"
        self._order = Order(key, seed or 0, sizes, data.interleave)
        self._ends = np.cumsum(sizes)

    def __len__(self) -> int:
        """Return the samples of an epoch."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def place(self, position: int) -> tuple[int, int]:
        """Return shard and index of a position: a global one in training, else in the split."""
        if self._shuffled:
            _, shard, index = self._order.place(position)
        else:
            shard = int(np.searchsorted(self._ends, position, side="right"))
            index = position - int(self._ends[shard]) + self._order.samples[shard]
        return shard, index if self._kept is None else int(self._kept[shard][index])

    @property
    def shards(self) -> int:
        """How many shards it reads from."""
        return len(self._order.samples)

    def inside(self, shard: int) -> np.ndarray:
        """Return the indices of its samples in a shard."""
        return np.arange(self._order.samples[shard]) if self._kept is None else self._kept[shard]


def _of_class(directory: str, manifest: Manifest, split: Split, name: str) -> list[np.ndarray]:
    """Return the indices of the samples of a class in each shard."""
    label = manifest.classes.index(name)
    labels = (
        np.array([sample.label for sample in read_index(directory, shard.name).samples])
        for shard in manifest.splits[split]
    )
    return [np.flatnonzero(of_shard == label).astype(np.int32) for of_shard in labels]
