"""Reading the samples of several folders of shards as if they lay in one."""

from collections.abc import Sequence

import numpy as np

from agehpc.config.schema import DataConfig
from agehpc.data.decode import Reader
from agehpc.data.index import Sample
from agehpc.data.mixture import Mixture, Part
from agehpc.data.shards import Manifest, Split


class MixtureReader:
    """As :class:`agehpc.data.decode.Reader`, with the shards and classes numbered in the whole."""

    def __init__(self, parts: Sequence[Part], split: Split) -> None:
        self._parts = parts
        self._readers = [Reader(part.data, part.manifest, split) for part in parts]
        self._ends = np.cumsum([len(part.manifest.splits[split]) for part in parts])

    def sample(self, shard: int, index: int) -> Sample:
        """Return what the index says of a sample."""
        part, shard = self._own(shard)
        sample = self._readers[part].sample(shard, index)
        label = sample.label if sample.label < 0 else self._parts[part].classes[sample.label]
        return sample.model_copy(update={"label": label})

    def read(self, shard: int, index: int) -> bytes:
        """Return the media bytes of a sample, checked against the index."""
        part, shard = self._own(shard)
        return self._readers[part].read(shard, index)

    def read_input(self, shard: int, index: int) -> bytes:
        """Return the media bytes of a sample's input image, checked against the index."""
        part, shard = self._own(shard)
        return self._readers[part].read_input(shard, index)

    def where(self, shard: int, index: int) -> str:
        """Return a sample's name for messages."""
        part, shard = self._own(shard)
        return self._readers[part].where(shard, index)

    def _own(self, shard: int) -> tuple[int, int]:
        """Return the part that holds a shard, and its number there."""
        part = int(np.searchsorted(self._ends, shard, side="right"))
        return part, shard - int(self._ends[part]) + len(self._readers[part].shards)


AnyReader = Reader | MixtureReader


def open_reader(data: DataConfig, manifest: Manifest, split: Split) -> AnyReader:
    """Return the reader of a split of what :func:`agehpc.data.mixture.read_shards` read."""
    if isinstance(manifest, Mixture):
        return MixtureReader(manifest.parts, split)
    return Reader(data, manifest, split)
