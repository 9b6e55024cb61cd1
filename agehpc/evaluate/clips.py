"""The frames that a metric takes of clips, where its protocol says which."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from torch import Tensor

from agehpc.data.clips import span
from agehpc.data.keyed import philox
from agehpc.errors import DataError, UsageError
from agehpc.evaluate.protocols import PROTOCOLS, Clip
from agehpc.evaluate.sources import Identity, Source, Videos


def drawn(metric: str, real: Source) -> Source:
    """Real clips as the protocol of a metric draws them: windows at random places.

    Of clips that are long enough: a single trial takes each once, evenly spaced ones where there
    are more than it wants; each of several takes them in an order of its own, and again with other
    windows where there are fewer. What is drawn depends on the data alone.

    Raises:
        UsageError: samples that are not cut from clips.
        DataError: fewer than two clips are long enough.
    """
    clip = _clip(metric)
    videos = _videos(metric, real)
    lengths = videos.lengths()
    long = [number for number, length in enumerate(lengths) if length >= clip.length]
    if len(long) < 2:
        raise DataError(
            f"--metrics {metric} takes clips of {clip.length} frames or more, and of the "
            f"{len(lengths)} in {real.where} {len(long)} are so long (the longest has "
            f"{max(lengths)}): choose another metric, or pack longer clips"
        )
    count = min(clip.samples, len(long)) if clip.trials == 1 else clip.total

    @cache
    def order(trial: int, epoch: int) -> np.ndarray:
        return philox(trial, "order of clips", epoch).permutation(len(long))

    def read(numbers: Sequence[int]) -> list[Tensor]:
        found = []
        for number in numbers:
            trial, position = divmod(number, clip.samples)
            place = number * len(long) // count
            if clip.trials > 1:
                epoch, place = divmod(position, len(long))
                place = order(trial, epoch)[place]
            room = lengths[long[place]] - span(clip.frames, clip.stride)
            first = int(philox(trial, "window", position).integers(room + 1))
            found.append(videos.frames(long[place], _indices(clip, first)))
        return found

    own: Identity = {"frames": clip.frames, "stride": clip.stride, "window": "random"}
    identity = {**real.identity, **own, "of": len(lengths), "trials": clip.trials}
    return replace(real, count=count, frames=clip.frames, identity=identity, read=read)


def made(metric: str, fake: Source) -> Source:
    """Generated clips as the protocol of a metric takes them: the first frames of each.

    Raises:
        UsageError: too few clips, or too short ones, or frames that lie otherwise apart.
    """
    clip = _clip(metric)
    stride = f" at stride {clip.stride}" if clip.stride > 1 else ""
    told = f"--metrics {metric} takes {clip.frames} frames{stride} of generated clips"
    if fake.more is not None:
        first, *others = fake.strides
        if others or clip.stride % first:
            strides = " ".join(map(str, fake.strides))
            raise UsageError(f"{told}, and {fake.where} was trained with --data.strides {strides}")
        step = clip.stride // first
        _long_enough(told, fake, fake.frames, span(clip.frames, step))
        whole = fake.more(clip.total)

        def generate(numbers: Sequence[int]) -> list[Tensor]:
            return [x[:, : span(clip.frames, step) : step] for x in whole.read(numbers)]

        return replace(whole, frames=clip.frames, read=generate)
    videos = _videos(metric, fake)
    lengths = videos.lengths()
    if len(lengths) < clip.total:
        raise UsageError(
            f"--metrics {metric} is of {clip.total} generated clips, and {fake.where} has "
            f"{len(lengths)}: generate more, or choose fvd"
        )
    _long_enough(told, fake, min(lengths), span(clip.frames, clip.stride))

    def read(numbers: Sequence[int]) -> list[Tensor]:
        chosen = [number * len(lengths) // clip.total for number in numbers]
        return [videos.frames(number, _indices(clip, 0)) for number in chosen]

    return replace(fake, count=clip.total, frames=clip.frames, read=read)


def _indices(clip: Clip, first: int) -> np.ndarray:
    return first + clip.stride * np.arange(clip.frames)


def _clip(metric: str) -> Clip:
    clip = PROTOCOLS[metric].clip
    assert clip is not None, metric
    return clip


def _videos(metric: str, source: Source) -> Videos:
    if source.videos is None:
        raise UsageError(
            f"--metrics {metric} cuts clips itself, which {source.where} does not let it do: give "
            "shards, or a .npy or .npz file"
        )
    return source.videos


def _long_enough(told: str, source: Source, length: int, wanted: int) -> None:
    if length < wanted:
        raise UsageError(
            f"{told}, so that they have {wanted} or more, and those of {source.where} have "
            f"{length}: choose another metric, or train with more --data.frames"
        )
