"""Whether samples suit metrics, before any work."""

from collections.abc import Sequence

from agehpc.errors import UsageError
from agehpc.evaluate import clips
from agehpc.evaluate.protocols import PROTOCOLS, USUAL
from agehpc.evaluate.sources import Source

FEWEST = {"frechet": 2, "kid": 1000, "precision_recall": 5, "prdc": 7, "inception_score": 10}
"""Pictures or clips that a statistic needs of each set: KID's subsets, neighbours and oneself, the
Inception Score's splits."""
SHORTEST = {"i3d": 9}
"""Frames that an extractor of clips needs: I3D halves them three times, and pools the last two."""


def check(metrics: Sequence[str], real: Source | None, fake: Source) -> None:
    """Raise UsageError or DataError where a metric does not suit samples, or too few are there."""
    for metric in metrics:
        protocol = PROTOCOLS[metric]
        if protocol.kind != fake.kind:
            raise UsageError(_unlike(metric, fake))
        if protocol.paired and real is None:
            raise UsageError(f"--metrics {metric} compares with real samples: give --real")
        if protocol.paired and real is not None and real.kind != fake.kind:
            raise UsageError(
                f"{real.where} has {real.kind}s and {fake.where} {fake.kind}s: give two of a kind"
            )
        for source in taken(metric, real, fake):
            _enough(metric, source)


def _unlike(metric: str, fake: Source) -> str:
    of = {"image": "images", "frames": "frames of clips", "video": "clips"}
    takes = PROTOCOLS[metric].takes
    other = f"{metric}_frames" if takes == "image" else metric.removesuffix("_frames")
    fix = f"; take {other}" if takes != "video" else ""
    return f"--metrics {metric} is taken of {of[takes]}: {fake.where} has {fake.kind}s{fix}"


def taken(metric: str, real: Source | None, fake: Source) -> list[Source]:
    """The generated samples that a metric takes, and the real ones if it needs any."""
    protocol = PROTOCOLS[metric]
    if not protocol.paired:
        real = None
    if protocol.clip is not None:
        fake = clips.made(metric, fake)
        real = None if real is None else clips.drawn(metric, real)
    return [fake] if real is None else [real, fake]


def _enough(metric: str, source: Source) -> None:
    protocol = PROTOCOLS[metric]
    shortest = SHORTEST.get(protocol.extractor, 1)
    if source.frames < shortest:
        raise UsageError(
            f"--metrics {metric} needs clips of {shortest} frames or more, those of "
            f"{source.where} have {source.frames}: choose another metric, as {USUAL['video']}"
        )
    least = FEWEST[protocol.statistic]
    count = source.pictures if protocol.takes == "frames" else source.count
    if count < least:
        what = "frames" if protocol.takes == "frames" else "samples"
        raise UsageError(
            f"--metrics {metric} needs {least} {what} or more, {source.where} has "
            f"{count}: give more, or choose another metric"
        )
