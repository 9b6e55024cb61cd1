"""What the ranks of test_collect.py run."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from agehpc.cluster.groups import Ranks
from agehpc.errors import AgehpcError
from agehpc.evaluate.collect import Want, collect
from agehpc.evaluate.moments import Moments
from agehpc.evaluate.sources import Source

WANTS = (Want("features", "moments"), Want("features", "rows"), Want("extremes", "rows"))


class Simple:
    """Features that can be told by hand."""

    sizes: ClassVar[dict[str, int]] = {"features": 3, "extremes": 2}
    device = torch.device("cpu")

    def __init__(self, takes: str) -> None:
        self.takes = takes

    def __call__(self, x_BCS: Tensor) -> dict[str, Tensor]:
        x = x_BCS.float().flatten(2)
        extremes = torch.stack([x.amin((1, 2)), x.amax((1, 2))], 1)
        return {"features": x.mean(2), "extremes": extremes}


def samples(kind: str, count: int) -> list[Tensor]:
    """Samples of several sizes: uint8 [3, H, W], or [3, T, H, W]."""
    generator = torch.Generator().manual_seed(0)
    sides = [(4, 4) if n % 3 else (5, 7) for n in range(count)]
    shapes = [(3, 6, *side) if kind == "video" else (3, *side) for side in sides]
    return [torch.randint(0, 256, s, dtype=torch.uint8, generator=generator) for s in shapes]


def source(kind: str, count: int) -> Source:
    """The samples as a source."""
    x = samples(kind, count)
    return Source("here", kind, count, {}, lambda numbers: [x[n] for n in numbers])  # type: ignore[arg-type]


def collected(ranks: Ranks, kind: str, takes: str, count: int, batch: int) -> dict[str, Any]:
    """What `collect` keeps, as lists."""
    found = collect(source(kind, count), Simple(takes), WANTS, batch, 2)  # type: ignore[arg-type]
    moments = found[WANTS[0]]
    assert isinstance(moments, Moments)
    rows = {want.output: found[want] for want in WANTS[1:]}
    told = {name: x.tolist() for name, x in rows.items() if isinstance(x, Tensor)}
    return told | {"mean": moments.mean_F.tolist(), "count": moments.count}


def everything(ranks: Ranks, cases: list[list[Any]]) -> list[dict[str, Any]]:
    """Several cases in one process group."""
    return [collected(ranks, *case) for case in cases]


class Damaged(Simple):
    """Weights that are not finite."""

    name = "simple"

    def __call__(self, x_BCS: Tensor) -> dict[str, Tensor]:
        return {name: x / 0 for name, x in super().__call__(x_BCS).items()}


def damaged_on_rank_1(ranks: Ranks) -> str:
    """What is raised on every rank."""
    extractor = Damaged("image") if ranks.env.rank == 1 else Simple("image")
    try:
        collect(source("image", 5), extractor, WANTS, 2, 1)  # type: ignore[arg-type]
    except AgehpcError as error:
        return str(error)
    return "nothing"
