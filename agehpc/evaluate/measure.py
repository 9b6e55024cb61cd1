"""Metrics of generated samples against real ones: features taken once, kept for the next time.

Shapes: N samples, F features.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from agehpc.cluster.collectives import together
from agehpc.evaluate import reference
from agehpc.evaluate.check import check, taken
from agehpc.evaluate.collect import Kept, Want, collect
from agehpc.evaluate.features.base import Extractor
from agehpc.evaluate.frechet import frechet
from agehpc.evaluate.inception_score import inception_score
from agehpc.evaluate.kernel_distance import kid
from agehpc.evaluate.moments import Moments
from agehpc.evaluate.precision_recall import prdc, precision_recall
from agehpc.evaluate.protocols import (
    EVERY_FRAME,
    PROTOCOLS,
    Protocol,
    Way,
    digest,
    figures,
    fingerprint,
)
from agehpc.evaluate.sources import Source


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


class _Group(NamedTuple):
    """Metrics that look at the same samples through the same extractor."""

    metrics: list[str]
    extractor: Extractor
    every: int
    """Which frames of clips are pictures; 0 where clips are taken whole."""
    real: Source | None
    fake: Source

    def wants(self, *, paired: bool) -> list[Want]:
        """What is kept of the features of all metrics, or of those that need real samples."""
        protocols = [PROTOCOLS[metric] for metric in self.metrics]
        return [_want(p) for p in protocols if p.paired or not paired]

    def about(self, want: Want) -> dict[str, Any]:
        """The fingerprint of the features of real samples."""
        assert self.real is not None
        about = {**self.extractor.fingerprint, **self.real.identity, "n": self.real.count}
        return about | {"every_frame": self.every, **want._asdict()}


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
    groups = _groups(metrics, real, fake, extractors)
    for group, kept in zip(groups, _kept(groups, cache), strict=True):
        made = collect(
            group.fake, group.extractor, group.wants(paired=False), batch, group.every or 1
        )
        known = _known(group, kept, batch, cache)
        for metric in group.metrics:
            protocol = PROTOCOLS[metric]
            want = _want(protocol)
            about: Mapping[str, Any] = {}
            counts = {"n_fake": group.fake.count}
            if protocol.paired and group.real is not None:
                about, counts = group.real.identity, {"n_real": group.real.count, **counts}
            told = fingerprint(metric, group.every, group.extractor.fingerprint, about, counts)
            found[metric] = [
                Figure(name, value, spread, counts.get("n_real", 0), group.fake.count, told)
                for name, value, spread in _values(metric, known.get(want), made[want])
            ]
    return [figure for metric in metrics for figure in found[metric]]


def check_cache(
    metrics: Sequence[str],
    real: Source | None,
    fake: Source,
    extractors: Mapping[Way, Extractor],
    cache: Path,
) -> None:
    """Raise CacheError where features that `measure` would read or keep cannot be. Collective."""
    _kept(_groups(metrics, real, fake, extractors), cache)


def _groups(
    metrics: Sequence[str],
    real: Source | None,
    fake: Source,
    extractors: Mapping[Way, Extractor],
) -> list[_Group]:
    groups = []
    for way, clip in dict.fromkeys((PROTOCOLS[m].way, PROTOCOLS[m].clip) for m in metrics):
        own = [m for m in metrics if (PROTOCOLS[m].way, PROTOCOLS[m].clip) == (way, clip)]
        extractor = extractors[way]
        every = EVERY_FRAME if fake.kind == "video" and extractor.takes == "image" else 0
        # Samples of one kind that metrics of a group take are the same; real ones not all need.
        paired = next((m for m in own if PROTOCOLS[m].paired), own[0])
        *first, last = taken(paired, real, fake)
        groups.append(_Group(own, extractor, every, first[0] if first else None, last))
    return groups


def _want(protocol: Protocol) -> Want:
    return Want(protocol.output, protocol.form)


def _kept(groups: Sequence[_Group], cache: Path | None) -> list[dict[Want, Kept]]:
    """Features of real samples that were kept before; where some are not, they can be. Collective.

    Before any features are taken.
    """
    found: list[dict[Want, Kept]] = []
    for group in groups:
        found.append({})
        if cache is None or group.real is None:
            continue
        for want in dict.fromkeys(group.wants(paired=True)):
            about = group.about(want)
            kept = together(lambda about=about: reference.load(about, cache))
            if kept is None:
                together(lambda: reference.check_writable(cache))
            else:
                found[-1][want] = kept
    return found


def _known(
    group: _Group, kept: dict[Want, Kept], batch: int, cache: Path | None
) -> dict[Want, Kept]:
    """Features of real samples: those kept from before, the others taken and kept. Collective."""
    wants = dict.fromkeys(group.wants(paired=True))
    missing = [want for want in wants if want not in kept]
    if not missing or group.real is None:
        return kept
    taken = collect(group.real, group.extractor, missing, batch, group.every or 1)
    if cache is not None:
        for want in missing:
            about = group.about(want)
            together(lambda want=want, about=about: reference.save(about, taken[want], cache))
    return kept | taken


def _values(
    metric: str, real: Kept | None, fake: Kept
) -> Iterator[tuple[str, float, float | None]]:
    """Yield names, values and spreads of a metric."""
    protocol = PROTOCOLS[metric]
    if protocol.clip is not None and protocol.clip.trials > 1:
        assert isinstance(real, Tensor)
        assert isinstance(fake, Tensor)
        trials = (x.split(protocol.clip.samples) for x in (real, fake))
        values = [_of_rows(x_NF, y_NF, protocol) for x_NF, y_NF in zip(*trials, strict=True)]
        yield metric, float(np.mean(values)), float(np.std(values))
        return
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
        # torch-fidelity scores its first input: it draws the generated samples of a subset first.
        yield metric, *kid(fake, real)
        return
    function = precision_recall if protocol.statistic == "precision_recall" else prdc
    assert protocol.k is not None
    values = function(real, fake, k=protocol.k)
    for name, value in zip(figures(metric), values.values(), strict=True):
        yield name, value, None


def _of_rows(x_NF: Tensor, y_MF: Tensor, protocol: Protocol) -> float:
    """The distance of two sets of features that every rank holds."""
    assert protocol.ddof is not None
    moments = []
    for rows in (x_NF, y_MF):
        moments.append(Moments(rows.shape[1]))
        moments[-1].add(rows)
    (x, y), ddof = moments, protocol.ddof
    return frechet(x.mean_F, x.covariance(ddof), y.mean_F, y.covariance(ddof))
