"""What a run will need, before it needs it: parameters, and memory at each ZeRO stage.

Networks are built on the meta device, so that nothing is allocated.
"""

from dataclasses import dataclass

from agehpc.config.plan import Plan
from agehpc.config.schema import Config
from agehpc.planning.engine import WIDTH, sharded
from agehpc.planning.recorder import ACTIVATIONS
from agehpc.planning.rehearsal import rehearse
from agehpc.systems import build_system
from agehpc.systems.base import Collectives


@dataclass(frozen=True)
class Estimate:
    """A run's size.

    Attributes:
        parameters: number of parameters by player.
        states: bytes a rank needs for weights, gradients, optimizer and average, by player, at
            ZeRO stages 0 to 3, as if all gradients were there at once.
        activations: bytes that passes hold at the moment of a step that holds most.
        peak: bytes held at that moment, ZeRO's buffers included, at the configured stages.
        checkpoint: bytes of a checkpoint (weights, moments, average), running statistics not
            counted.
    """

    parameters: dict[str, int]
    states: dict[str, tuple[int, int, int, int]]
    activations: int
    peak: int
    checkpoint: int


def estimate(config: Config, plan: Plan) -> Estimate:
    """The size of a configuration whose channels are known, on a world size.

    For a GPU where the configuration does not rule it out.
    """
    device = "cpu" if config.cluster.device == "cpu" else "cuda"
    rehearsed = rehearse(config, plan, device=device)
    states = {
        name: _states(number, plan.world_size, config.players[name].ema.half_life_kimg > 0)
        for name, number in rehearsed.parameters.items()
    }
    averaged = {n for n, player in config.players.items() if player.ema.half_life_kimg > 0}
    # The model's averages are written whether or not they differ from its weights.
    averaged |= set(build_system(config, Collectives.alone()).models)
    saved = sum(4 * n * (4 if p in averaged else 3) for p, n in rehearsed.parameters.items())
    peak = rehearsed.peak
    total = sum(peak.values())
    return Estimate(rehearsed.parameters, states, peak[ACTIVATIONS], total, saved)


def _states(parameters: int, ranks: int, averaged: bool) -> tuple[int, int, int, int]:
    """Bytes a rank at stages 0 to 3, all in float32 (Rajbhandari et al. 2020, section 5)."""
    whole = WIDTH * parameters
    shard = WIDTH * sharded([parameters], 1, ranks)[1]
    average, average_shard = (whole, shard) if averaged else (0, 0)
    return (
        whole + whole + 2 * whole + average,  # weights, gradients, moments, average
        whole + whole + 3 * shard + average,  # a shard of master weights beside the moments'
        whole + shard + 3 * shard + average,
        shard + shard + 3 * shard + average_shard,
    )
