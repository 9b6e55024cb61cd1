"""Metrics of generated samples against real ones: features taken once, kept for the next time.

Shapes: N samples, F features.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from agehpc.cluster.collectives import together
from agehpc.errors import UsageError
from agehpc.evaluate import reference
from agehpc.evaluate.collect import Kept, Want, collect
from agehpc.evaluate.features.base import Extractor
from agehpc.evaluate.frechet import frechet
from agehpc.evaluate.inception_score import inception_score
from agehpc.evaluate.kernel_distance import kid
from agehpc.evaluate.moments import Moments
from agehpc.evaluate.precision_recall import prdc, precision_recall
from agehpc.evaluate.protocols import PROTOCOLS, Protocol, Way, digest, figures, fingerprint
from agehpc.evaluate.sources import Source

FEWEST = {"frechet": 2, "kid": 1000, "precision_recall": 5, "prdc": 7}
"""Samples that a statistic needs of each set: KID's subsets, neighbours and oneself."""
EVERY_FRAME = 4
"""Of clips every so many frames are pictures to metrics of images: neighbours are alike."""


@dataclass(frozen=True)
class Figure:
    """A value that was measured."""

    name: str
    value: float
    spread: float | None
    """Standard deviation over splits or subsets, where the metric has them."""
    n_real: int
    n_fake: int
    fingerprint: dict[str, Any]

    @property
    def columns(self) -> dict[str, Any]:
        """What a row of evaluations.jsonl says of it besides the value."""
        spread = {} if self.spread is None else {"std": self.spread}
        about = {"n_real": self.n_real, "fingerprint": digest(self.fingerprint)}
        return spread | about | {"protocol": self.fingerprint}


def check(metrics: Sequence[str], real: Source | None, fake: Source) -> None:
    """Raise UsageError where a metric does not suit samples, or there are too few, or none real."""
    for metric in metrics:
        protocol = PROTOCOLS[metric]
        if protocol.takes == "video" and fake.kind != "video":
            raise UsageError(f"--metrics {metric} is taken of clips: {fake.where} has {fake.kind}s")
        if not protocol.paired:
            continue
        if real is None:
            raise UsageError(f"--metrics {metric} compares with real samples: give --real")
        if real.kind != fake.kind:
            raise UsageError(
                f"{real.where} has {real.kind}s and {fake.where} {fake.kind}s: give two of a kind"
            )
        least = FEWEST[protocol.statistic]
        for source in (real, fake):
            if source.count < least:
                raise UsageError(
                    f"--metrics {metric} needs {least} samples or more, {source.where} has "
                    f"{source.count}: give more, or choose another metric"
                )


def measure(
    metrics: Sequence[str],
    real: Source | None,
    fake: Source,
    extractors: Mapping[Way, Extractor],
    *,
    batch: int,
    cache: Path | None,
) -> list[Figure]:
    """Return the figures of sets of samples, those of a metric in a row. Collective.

    Args:
        metrics: names of PROTOCOLS.
        real: what is compared with; None where no metric needs it.
        fake: what was generated.
        extractors: those that the metrics look through.
        batch: samples that a rank reads at once.
        cache: folder of features of real samples; None keeps none.
    """
    check(metrics, real, fake)
    found: dict[str, list[Figure]] = {}
    for way in dict.fromkeys(PROTOCOLS[metric].way for metric in metrics):
        extractor = extractors[way]
        own = [metric for metric in metrics if PROTOCOLS[metric].way == way]
        every = EVERY_FRAME if fake.kind == "video" and extractor.takes == "image" else 0
        made = collect(fake, extractor, (_want(PROTOCOLS[m]) for m in own), batch, every or 1)
        paired = [_want(PROTOCOLS[m]) for m in own if PROTOCOLS[m].paired]
        known = {} if real is None else _known(real, extractor, paired, batch, every, cache)
        for metric in own:
            protocol = PROTOCOLS[metric]
            want = _want(protocol)
            if not protocol.paired or real is None:
                about, counts = {}, {"n_fake": fake.count}
            else:
                about, counts = real.identity, {"n_real": real.count, "n_fake": fake.count}
            told = fingerprint(metric, every, extractor.fingerprint, about, counts)
            found[metric] = [
                Figure(name, value, spread, counts.get("n_real", 0), fake.count, told)
                for name, value, spread in _values(metric, known.get(want), made[want])
            ]
    return [figure for metric in metrics for figure in found[metric]]


def _want(protocol: Protocol) -> Want:
    return Want(protocol.output, protocol.form)


def _known(
    real: Source,
    extractor: Extractor,
    wants: list[Want],
    batch: int,
    every: int,
    cache: Path | None,
) -> dict[Want, Kept]:
    """Features of real samples: those kept from before, the others taken and kept. Collective."""
    found: dict[Want, Kept] = {}
    abouts = {
        want: {
            **extractor.fingerprint,
            **real.identity,
            "n": real.count,
            "every_frame": every,
            "output": want.output,
            "form": want.form,
        }
        for want in wants
    }
    if cache is not None:
        for want, about in abouts.items():
            kept = together(lambda about=about: reference.load(about, cache))
            if kept is not None:
                found[want] = kept
    missing = [want for want in abouts if want not in found]
    if missing:
        taken = collect(real, extractor, missing, batch, every or 1)
        if cache is not None:
            for want in missing:
                together(lambda want=want: reference.save(abouts[want], taken[want], cache))
        found |= taken
    return found


def _values(
    metric: str, real: Kept | None, fake: Kept
) -> Iterator[tuple[str, float, float | None]]:
    """Yield names, values and spreads of a metric."""
    protocol = PROTOCOLS[metric]
    if protocol.statistic == "frechet":
        assert isinstance(real, Moments)
        assert isinstance(fake, Moments)
        assert protocol.ddof is not None
        covariances = [m.covariance(protocol.ddof) for m in (real, fake)]
        yield metric, frechet(real.mean_F, covariances[0], fake.mean_F, covariances[1]), None
        return
    assert isinstance(fake, Tensor)
    if protocol.statistic == "inception_score":
        yield metric, *inception_score(fake)
        return
    assert isinstance(real, Tensor)
    if protocol.statistic == "kid":
        yield metric, *kid(real, fake)
        return
    function = precision_recall if protocol.statistic == "precision_recall" else prdc
    assert protocol.k is not None
    values = function(real, fake, k=protocol.k)
    for name, value in zip(figures(metric), values.values(), strict=True):
        yield name, value, None
