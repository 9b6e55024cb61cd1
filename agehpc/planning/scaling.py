"""Predicted samples a second from 1 to 4,096 ranks, each with the same share of the batch."""

from dataclasses import dataclass, replace
from typing import Any

from agehpc.config.plan import Plan
from agehpc.config.schema import Config
from agehpc.planning.recorder import Collective
from agehpc.planning.rehearsal import Rehearsal, rehearse
from agehpc.planning.wire import Links, seconds

WORLDS = tuple(2**n for n in range(13))


@dataclass(frozen=True)
class Work:
    """What a step computes and sends, on any number of ranks; the mean over steps.

    Attributes:
        flops: a rank's floating-point operations in a step.
        courses: (share of the steps, collectives of 2 ranks, the same of the most ranks).
    """

    flops: float
    courses: tuple[tuple[float, tuple[Collective, ...], tuple[Collective, ...]], ...]

    def collectives(self, ranks: int) -> list[tuple[float, list[Collective]]]:
        """Share of the steps and their collectives; payloads are linear in the ranks."""
        if ranks == 1:
            return []
        found = []
        for share, few, many in self.courses:
            at = (ranks - 2) / (WORLDS[-1] - 2)
            between = [
                Collective(a.kind, round(a.payload + at * (b.payload - a.payload)))
                for a, b in zip(few, many, strict=True)
            ]
            found.append((share, between))
        return found

    def wire_seconds(self, ranks: int, links: Links) -> float:
        """Time of a step's collectives."""
        return sum(share * seconds(found, ranks, links) for share, found in self.collectives(ranks))


def work_of(config: Config, plan: Plan) -> Work:
    """Rehearse a step with and without R1, on two ranks and on the most."""
    system: Any = config.system  # which of them have R1, they know themselves
    every = system.r1_every if getattr(system, "r1_gamma", 0.0) > 0 else 1
    steps = {0: 1 / every} | ({1: 1 - 1 / every} if every > 1 else {})

    def on(ranks: int, step: int) -> Rehearsal:
        whole = ranks * plan.micro_batch * plan.accumulation
        return rehearse(config, replace(plan, world_size=ranks, global_batch=whole), step)

    flops, courses = 0.0, []
    for step, share in steps.items():
        few, many = on(2, step), on(WORLDS[-1], step)
        assert len(few.collectives) == len(many.collectives)
        flops += share * few.flops
        courses.append((share, tuple(few.collectives), tuple(many.collectives)))
    return Work(flops, tuple(courses))


def table(work: Work, samples: int, alone_s: float, links: Links) -> list[dict[str, Any]]:
    """Predicted figures by number of ranks.

    Args:
        work: of a step.
        samples: that a rank's share of a step holds.
        alone_s: seconds of that share without other ranks.
        links: between the ranks.
    """
    rows = []
    for ranks in WORLDS:
        wire_s = work.wire_seconds(ranks, links)
        rows.append(
            {
                "gpus": ranks,
                "samples_per_s": ranks * samples / (alone_s + wire_s),
                "efficiency": alone_s / (alone_s + wire_s),
                "step_s": alone_s + wire_s,
                "wire_s": wire_s,
            }
        )
    return rows
