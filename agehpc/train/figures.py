"""The turns' figures between two ticks: their means, and which was first not finite, and where."""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from agehpc.cluster.environment import Environment


class Figures:
    """Adds up scalars on the device; nothing waits for it before a tick."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, int]] = {}
        self._first: dict[tuple[str, ...], Tensor] = {}

    def add(self, step: int, figures: Mapping[str, Tensor]) -> None:
        """Add a step's figures, scalars by name; not every step has the same."""
        for name, value in figures.items():
            total, count = self._sums.get(name, (torch.zeros_like(value), 0))
            self._sums[name] = (total + value, count + 1)
        names = tuple(figures)
        if names:
            bad_F = ~torch.stack([value.float() for value in figures.values()]).isfinite()
            first_F = self._first.get(names, torch.full_like(bad_F, -1, dtype=torch.int64))
            self._first[names] = torch.where(bad_F & (first_F < 0), step, first_F)

    def means(self) -> dict[str, float]:
        """This rank's means since the last time that they were forgotten."""
        return {name: float(total) / count for name, (total, count) in self._sums.items()}

    def forget(self) -> None:
        """Begin anew."""
        self._sums, self._first = {}, {}

    def first_bad(self, env: Environment) -> str:
        """The first figure of any rank that was not finite, with step, ranks and hosts. Collective.

        Figures are of a rank's own samples, unlike gradients, which are summed over all ranks
        before they are looked at: where no figure was the first, a gradient was.
        """
        found: list[tuple[int, str]] = []
        for names, first_F in self._first.items():
            found += [(s, n) for s, n in zip(first_F.tolist(), names, strict=True) if s >= 0]
        mine = (min(found) if found else None, env.rank, env.hostname)
        told = [mine] * env.world_size
        dist.all_gather_object(told, mine)
        bad = [(first, rank, host) for first, rank, host in told if first is not None]
        if not bad:
            return "in a gradient, summed over all ranks"
        step, name = min(first for first, _, _ in bad)
        where = [f"{rank} on {host}" for (at, _), rank, host in bad if at == step]
        listed = ", ".join(where[:4]) + (f" and {len(where) - 4} more" if len(where) > 4 else "")
        return f"{name} at step {step} on rank {listed}"
