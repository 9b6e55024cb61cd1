"""The samples of an open shard, small."""

from collections.abc import Iterable

from agehpc.data.index import Sample


class LeanSamples:
    """The samples of an index as texts: as records, those of 512 shards take over a gigabyte."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._texts = [sample.model_dump_json(exclude_none=True).encode() for sample in samples]

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, index: int) -> Sample:
        return Sample.model_validate_json(self._texts[index])
