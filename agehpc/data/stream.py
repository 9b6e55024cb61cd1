"""Which sample stands at a position: of a whole split, of one class, or of a mixture."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from agehpc.config.schema import DataConfig
from agehpc.data.index import read_index
from agehpc.data.mixture import Part, parts_of
from agehpc.data.order import Mix, Order
from agehpc.data.shards import Manifest, Split
from agehpc.errors import DataError


class Stream:
    """The samples of one split by position: for training in shuffled epochs without end.

    Shards count through all folders of a mixture. With a domain (the name of a class) they are the
    samples of that class alone. In training, folders with weights and balanced classes have an
    order and epochs of their own each. Domains and balance read the index of every shard, once; a
    position costs the same in any case.
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
        parts = parts_of(data, manifest)
        if domain is not None:
            pools = [_of_classes(parts, split, manifest.classes)[domain]]
        elif self._shuffled and data.balance:
            pools = _balanced(data, parts, split, manifest.classes)
        elif self._shuffled and data.weights is not None:
            pools = _by_part(data, parts, split)
        else:
            sizes = _sizes(parts, split)
            pools = [_Pool("", 1, range(len(sizes)), sizes)]
        weights = tuple(pool.weight for pool in pools)
        self._pools = pools
        self._mix = Mix(manifest.dataset_id, seed or 0, weights)
        # As many shards are read side by side in all, however many orders share them.
        columns = data.interleave // (1 if domain is None else 2)
        self._orders = [
            Order(
                # The key of the draws: orders of the same sizes must not be in step.
                f"{manifest.dataset_id} {pool.name}".rstrip(),
                seed or 0,
                pool.sizes,
                max(1, columns * pool.weight // sum(weights)),
            )
            for pool in pools
        ]
        self._ends = np.cumsum(pools[0].sizes)

    def __len__(self) -> int:
        """Return how many samples there are."""
        return sum(sum(pool.sizes) for pool in self._pools)

    def place(self, position: int) -> tuple[int, int]:
        """Return shard and index of a position: a global one in training, else in the split."""
        if not self._shuffled:
            shard = int(np.searchsorted(self._ends, position, side="right"))
            begin = int(self._ends[shard]) - self._pools[0].sizes[shard]
            return self._pools[0].place(shard, position - begin)
        which, within = self._which(position)
        _, shard, index = self._orders[which].place(within)
        return self._pools[which].place(shard, index)

    def near(self, position: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield what may stand in for a position's sample: shards, and indices in each.

        Its own shard first; in training, samples that are drawn as often as it is.
        """
        pool = self._pools[self._which(position)[0]]
        own, _ = self.place(position)
        first = pool.numbers.index(own)
        for at in itertools.chain(range(first, len(pool.numbers)), range(first)):
            yield pool.numbers[at], pool.inside(at)

    def _which(self, position: int) -> tuple[int, int]:
        """Return the order that a position follows, and the position in it."""
        return (0, position) if len(self._pools) == 1 else self._mix.place(position)


@dataclass(frozen=True)
class _Pool:
    """Samples that follow an order of their own, by shard; drawn by their weight."""

    name: str
    weight: int
    numbers: Sequence[int]
    """The shards of the split that hold them."""
    sizes: Sequence[int]
    """How many of them each holds."""
    kept: Sequence[np.ndarray] | None = None
    """Which of its samples they are in each; None: all."""

    def place(self, shard: int, index: int) -> tuple[int, int]:
        """Return shard and index in the split."""
        return self.numbers[shard], index if self.kept is None else int(self.kept[shard][index])

    def inside(self, shard: int) -> np.ndarray:
        """Return the indices in the split's shard."""
        return np.arange(self.sizes[shard]) if self.kept is None else self.kept[shard]


def labels_of(parts: Sequence[Part], split: Split) -> Iterator[np.ndarray]:
    """Yield the labels of each shard of a split, -1 for none, by the numbers of the whole."""
    for part in parts:
        numbers = np.array([*part.classes, -1])  # which -1 is the index of
        for shard in part.manifest.splits[split]:
            samples = read_index(part.data, shard.name).samples
            yield numbers[[sample.label for sample in samples]]


def _sizes(parts: Sequence[Part], split: Split) -> tuple[int, ...]:
    return tuple(shard.samples for part in parts for shard in part.manifest.splits[split])


def _by_part(data: DataConfig, parts: Sequence[Part], split: Split) -> list[_Pool]:
    assert data.weights is not None
    pools, first = [], 0
    for part, weight in zip(parts, data.weights, strict=True):
        sizes = _sizes([part], split)
        if not sum(sizes):
            raise DataError(
                f"the {split} split of {part.directory} is empty, so that it cannot be drawn "
                f"with --data.weights {weight}; leave it out of --data.shards"
            )
        numbers = range(first, first + len(sizes))
        pools.append(_Pool(part.manifest.dataset_id, weight, numbers, sizes))
        first += len(sizes)
    return pools


def _of_classes(
    parts: Sequence[Part], split: Split, classes: Sequence[str]
) -> dict[str | None, _Pool]:
    """Return the samples of each class, and under None those without."""
    kept: list[dict[int, np.ndarray]] = [{} for _ in [*classes, None]]
    for shard, labels in enumerate(labels_of(parts, split)):
        for label in np.unique(labels):
            kept[label][shard] = np.flatnonzero(labels == label).astype(np.int32)
    return {
        name: _Pool(name or "", 1, list(own), [len(ix) for ix in own.values()], list(own.values()))
        for name, own in zip([*classes, None], kept, strict=True)
    }


def _balanced(
    data: DataConfig, parts: Sequence[Part], split: Split, classes: Sequence[str]
) -> list[_Pool]:
    """Return a pool for each class that has samples: some may be held out of training."""
    pools = _of_classes(parts, split, classes)
    without = sum(pools.pop(None).sizes)
    if without:
        raise DataError(
            f"{without} of the {split} samples in {data.where} have no class and would never be "
            "drawn with --data.balance true; pack them with classes, or set it to false"
        )
    return [pool for pool in pools.values() if pool.sizes]
