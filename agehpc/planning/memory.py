"""Memory of a rank at each ZeRO stage, and the largest micro-batch that a device takes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from agehpc.config.plan import Plan, make_plan
from agehpc.config.schema import Config
from agehpc.planning.rehearsal import Rehearsal, rehearse


@dataclass(frozen=True)
class Memory:
    """Memory of a rank, with the players at certain stages.

    Attributes:
        stages: ZeRO stage by player.
        peak: bytes by kind at the moment of a step that holds most.
        largest: largest micro-batch that fits, 0 for none; None where it was not asked for.
    """

    stages: Mapping[str, int]
    peak: Mapping[str, int]
    largest: int | None

    @property
    def total(self) -> int:
        """Bytes at that moment."""
        return sum(self.peak.values())


def at_stage(config: Config, stage: int) -> Config:
    """A configuration with all players at a stage; those that stage 3 is closed to at 2."""
    least = config.system.least_stages
    players = {
        name: player.model_copy(
            update={
                "zero": player.zero.model_copy(
                    update={"stage": min(stage, 2) if name in least else stage}
                )
            }
        )
        for name, player in config.players.items()
    }
    return config.model_copy(update={"players": players})


def weigh(config: Config, world_size: int, capacity: int | None, device: str) -> Memory:
    """Rehearse a step, and another of twice the micro-batch where a capacity is given."""
    plan = make_plan(config, world_size)
    once = rehearse(config, plan, device=device)
    largest = None
    if capacity is not None:
        twice = rehearse(config, replace(plan, micro_batch=2 * plan.micro_batch), device=device)
        largest = largest_micro_batch(once, twice, plan, capacity)
    stages = {name: player.zero.stage for name, player in config.players.items()}
    return Memory(stages, dict(once.peak), largest)


def largest_micro_batch(once: Rehearsal, twice: Rehearsal, plan: Plan, capacity: int) -> int:
    """Largest micro-batch whose every moment fits: each is linear in the samples it holds."""
    assert len(once.moments) == len(twice.moments), "another micro-batch took another course"
    most = None
    for one, two in zip(once.totals, twice.totals, strict=True):
        per_sample = (two - one) / plan.micro_batch
        fixed = one - per_sample * plan.micro_batch
        if fixed > capacity:
            return 0
        if per_sample > 0:
            fitting = int((capacity - fixed) / per_sample)
            most = fitting if most is None else min(most, fitting)
    assert most is not None, "no moment grows with the micro-batch"
    return most
