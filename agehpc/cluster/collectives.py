"""Small collectives about a run's control: flags, figures, objects, errors.

They move CPU tensors over gloo, so that none of them waits for a GPU. Every function here is
collective: all ranks must call it, in the same order.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist

from agehpc.errors import AgehpcError

T = TypeVar("T")
_CPU = torch.device("cpu")


def max_over_ranks(value: int, device: torch.device = _CPU) -> int:
    """The largest of the ranks' integers. Collective."""
    largest = torch.tensor(value, dtype=torch.int64, device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest)


def any_rank(flag: bool, device: torch.device = _CPU) -> bool:
    """Whether the flag is set on at least one rank. Collective."""
    return bool(max_over_ranks(int(flag), device))


def mean_over_ranks(values: dict[str, float]) -> dict[str, float]:
    """The mean of each figure over the ranks, in float64; all ranks bring the same names.

    Collective.
    """
    names = sorted(values)
    total = torch.tensor([values[name] for name in names], dtype=torch.float64)
    dist.all_reduce(total)
    return dict(zip(names, (total / dist.get_world_size()).tolist(), strict=True))


def gather(x: torch.Tensor) -> torch.Tensor:
    """The ranks' tensors [B, ...], detached, joined in the order of ranks. Collective.

    All ranks bring the same shape, on the device that their process group works on.
    """
    x = x.detach().contiguous()
    if dist.get_world_size() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x)
    return torch.cat(parts)


def broadcast_object(value: T, source: int = 0) -> T:
    """The picklable object of rank `source`, on every rank. Collective."""
    box = [value]
    dist.broadcast_object_list(box, src=source, device=_CPU)
    return box[0]


def barrier() -> None:
    """Wait until every rank is here. Collective."""
    any_rank(False)


def is_lost_rank(error: RuntimeError) -> bool:
    """Whether an error tells that another rank ended, hangs or cannot be reached."""
    # gloo's own errors have no type; they begin with the place in its code.
    return isinstance(error, dist.DistError) or "/gloo/transport/" in str(error)


def raise_together(error: AgehpcError | OSError | None) -> None:
    """Raise on all ranks if any rank brings an error: the lowest rank's, shown by that rank only.

    The other ranks raise an AgehpcError of the same text and exit code that is marked `silent`.
    Collective.
    """
    rank = dist.get_rank()
    world = dist.get_world_size()
    first = -max_over_ranks(-(rank if error is not None else world))
    if first == world:
        return
    told = None if error is None else (str(error), getattr(error, "exit_code", 1))
    message, exit_code = broadcast_object(told, first) or ("", 1)
    if rank == first and error is not None:
        raise error
    quiet = AgehpcError(message)
    quiet.exit_code = exit_code
    quiet.silent = True
    raise quiet


def agreed(work: Callable[[], T]) -> T:
    """The result of what every rank does for itself; an error of one is raised on all. Collective.

    AgehpcError and OSError travel, see :func:`raise_together`.
    """
    results: list[T] = []
    error: AgehpcError | OSError | None = None
    try:
        results.append(work())
    except (AgehpcError, OSError) as raised:
        error = raised
    raise_together(error)
    return results[0]


def together(work: Callable[[], T]) -> T:
    """The result of `work` on rank 0, on every rank; an error of it is raised on every rank.

    AgehpcError and OSError travel (see :func:`raise_together`); any other exception ends rank 0
    and with it the process group. The result must be picklable. Collective.
    """
    return broadcast_object(agreed(lambda: [work()] if dist.get_rank() == 0 else []))[0]
