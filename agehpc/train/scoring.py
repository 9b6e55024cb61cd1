"""Metrics of what the averaged model generates, beside training: every rank takes its share."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch.distributed as dist
from torch import Tensor

from agehpc.cluster.collectives import agreed
from agehpc.cluster.groups import Ranks
from agehpc.config.schema import Config
from agehpc.evaluate import reference
from agehpc.evaluate.check import check
from agehpc.evaluate.features.base import Extractor, build
from agehpc.evaluate.measure import Figure, check_cache, measure
from agehpc.evaluate.protocols import PROTOCOLS, Way
from agehpc.evaluate.sources import Source, of_data, of_run
from agehpc.trained import Model

BATCH = {"image": 32, "video": 4}
"""Samples that a rank generates at once."""


class Scorer:
    """The metrics that a run is to be measured by. Every method is collective.

    What is missing (weights, packages, samples) is an error when it is made, before any training.

    Args:
        config: the run's, data filled in, with `evaluate.metrics`.
        ranks: this process's place and device.
        model: rank 0's averaged model, which is measured; other ranks have none.
    """

    def __init__(self, config: Config, ranks: Ranks, model: Model | None) -> None:
        self._batch = BATCH[config.data.kind]
        self._metrics = config.evaluate.metrics
        self._model = Model(config, ranks.device) if model is None else model
        self._extractors: dict[Way, Extractor] = {}

        def opened() -> tuple[Source, Source]:
            everything = of_data(config.data, "train")
            real = everything.part(min(config.evaluate.generated, everything.count))
            count, seed = config.evaluate.generated, config.run.seed
            fake = of_run(self._model, count, seed, "generated samples")
            check(self._metrics, real, fake)
            for name, resize in dict.fromkeys(PROTOCOLS[m].way for m in self._metrics):
                self._extractors[name, resize] = build(name, ranks.device, resize=resize)
            return real, fake

        self._real, self._fake = agreed(opened)
        check_cache(*self._given, reference.folder())

    def score(self, check: Callable[[], None]) -> list[Figure]:
        """Measure rank 0's model as it is; `check` is called at every batch, and may raise."""
        for tensor in self._model.state().values():
            dist.broadcast(tensor, src=0)
        metrics, real, fake, extractors = self._given
        real, fake = (_checked(source, check) for source in (real, fake))
        given = metrics, real, fake, extractors
        return measure(*given, batch=self._batch, cache=reference.folder())

    @property
    def _given(self) -> tuple[tuple[str, ...], Source, Source, dict[Way, Extractor]]:
        return self._metrics, self._real, self._fake, self._extractors


def _checked(source: Source, check: Callable[[], None]) -> Source:
    def read(numbers: Sequence[int]) -> list[Tensor]:
        check()
        return source.read(numbers)

    return replace(source, read=read)
