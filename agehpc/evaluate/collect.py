"""Features of samples over all ranks: their moments, or all rows of them.

Shapes: B batch, C channels, S (H, W) or (T, H, W), N samples, F features.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from agehpc.cluster.collectives import agreed, gather
from agehpc.errors import DataError
from agehpc.evaluate.features.base import Extractor
from agehpc.evaluate.moments import Moments
from agehpc.evaluate.sources import Source


class Want(NamedTuple):
    """What is kept of an output of an extractor."""

    output: str
    form: str
    """`moments` or `rows`."""


Kept = Moments | Tensor


def collect(
    source: Source, extractor: Extractor, wants: Iterable[Want], batch: int, every_frame: int
) -> dict[Want, Kept]:
    """Return what is wanted of the features of all samples, on every rank. Collective.

    Every rank reads its own part; an error of one is raised on all. Rows are [N, F] float32 on the
    CPU, in the order of the samples (and of a clip's frames) whatever the number of ranks.

    Args:
        source: the samples.
        extractor: that of images takes every `every_frame`-th frame of clips.
        wants: what to keep.
        batch: samples that a rank reads at once.
        every_frame: see above; not looked at for images and for extractors of clips.
    """
    wants = list(dict.fromkeys(wants))
    moments = {
        w: Moments(extractor.sizes[w.output], extractor.device)
        for w in wants
        if w.form == "moments"
    }
    rows: dict[Want, list[Tensor]] = {w: [] for w in wants if w.form == "rows"}
    order: list[Tensor] = []
    rank, ranks = dist.get_rank(), dist.get_world_size()

    def take() -> None:
        for first in range(rank * batch, source.count, ranks * batch):
            numbers = range(first, min(first + batch, source.count))
            parts = [_pictures(x, extractor, every_frame) for x in source.read(numbers)]
            found = _joined(extractor(x) for x in _alike(parts))
            _check_finite(found, extractor, source, numbers)
            for want, kept in moments.items():
                kept.add(found[want.output])
            for want, kept in rows.items():
                kept.append(found[want.output].cpu())
            each = torch.tensor([len(x) for x in parts])
            order.append(torch.arange(numbers.start, numbers.stop).repeat_interleave(each))

    agreed(take)
    result: dict[Want, Kept] = {w: kept.combined() for w, kept in moments.items()}
    for want, kept in rows.items():
        result[want] = gathered(kept, order, extractor.sizes[want.output])
    return result


def _check_finite(
    found: dict[str, Tensor], extractor: Extractor, source: Source, numbers: range
) -> None:
    for name, x_BF in found.items():
        if not bool(x_BF.isfinite().all()):
            raise DataError(
                f"{name} by {extractor.name} of samples {numbers.start} to {numbers.stop - 1} of "
                f"{source.where} hold NaN or infinite values: the extractor's weights are damaged"
            )


def _pictures(x_CS: Tensor, extractor: Extractor, every_frame: int) -> Tensor:
    """What an extractor takes of a sample: the sample, or [T', C, H, W] of a clip's frames."""
    if extractor.takes == "image" and x_CS.ndim == 4:
        return x_CS[:, ::every_frame].transpose(0, 1)
    return x_CS[None]


def _alike(parts: list[Tensor]) -> Iterator[Tensor]:
    """Join neighbours of one size: pictures of a folder may differ."""
    start = 0
    for end in range(1, len(parts) + 1):
        if end == len(parts) or parts[end].shape[1:] != parts[start].shape[1:]:
            yield torch.cat(parts[start:end])
            start = end


def _joined(found: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    each = list(found)
    return {name: torch.cat([one[name] for one in each]) for name in each[0]}


def gathered(own: list[Tensor], order: list[Tensor], features: int) -> Tensor:
    """The rows of all ranks in the order of their samples. Collective."""
    rows_NF = torch.cat([torch.empty(0, features), *own])
    order_N = torch.cat([torch.empty(0, dtype=torch.int64), *order])
    counts = gather(torch.tensor([len(order_N)])).tolist()
    rows, places = (
        torch.cat([part[:n] for part, n in zip(_of_ranks(x, max(counts)), counts, strict=True)])
        for x in (rows_NF, order_N)
    )
    return rows[torch.argsort(places, stable=True)]


def _of_ranks(x: Tensor, length: int) -> list[Tensor]:
    """The tensors of all ranks, filled up to `length` rows. Collective."""
    filled = x.new_zeros(length, *x.shape[1:])
    filled[: len(x)] = x
    return list(gather(filled).tensor_split(dist.get_world_size()))
