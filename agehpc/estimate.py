"""What a run will need, before it needs it: parameters, and memory at each ZeRO stage.

Networks are built on the meta device, so that nothing is allocated.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from agehpc.config.plan import Plan
from agehpc.config.schema import Config
from agehpc.data.keyed import philox
from agehpc.models.geometry import geometry
from agehpc.models.kernels import sized
from agehpc.systems import build_system
from agehpc.systems.base import ALWAYS, Collectives, Micro


@dataclass(frozen=True)
class Estimate:
    """A run's size.

    Attributes:
        parameters: number of parameters by player.
        states: bytes a rank keeps between steps (weights, gradients, optimizer, average), by
            player, at ZeRO stages 0 to 3.
        activations: bytes that the forwards of one micro-batch save for their backwards.
        checkpoint: bytes of a checkpoint (weights, moments, average), running statistics not
            counted.
    """

    parameters: dict[str, int]
    states: dict[str, tuple[int, int, int, int]]
    activations: int
    checkpoint: int

    def total(self, config: Config) -> int:
        """Bytes a rank needs at the configured stages, buffers of libraries not counted."""
        chosen = (states[config.players[n].zero.stage] for n, states in self.states.items())
        return sum(chosen) + self.activations


def estimate(config: Config, plan: Plan) -> Estimate:
    """The size of a configuration whose channels are known, on a world size."""
    with torch.device("meta"):
        system = build_system(config, Collectives.alone())
        players = system.build()
        geo = geometry(config)
        shape = (geo.channels, *geo.shapes[0])
        x_BCS = torch.empty(plan.micro_batch, *shape)
    parameters_at = {p.untyped_storage()._cdata for m in players.values() for p in m.parameters()}
    saved: dict[int, int] = {}
    kept: list[Tensor] = []  # while counted, so that no address is used twice

    def count(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters_at:
            saved[storage._cdata] = storage.nbytes()
        return tensor

    # Past any warm-up, and where R1 is due: the dearest step.
    drawn = system.draw(lambda purpose: [philox(0, purpose, 0)], shape, 0)
    micro = Micro(
        x_BCS,
        torch.empty(plan.micro_batch, dtype=torch.int64, device="meta"),
        ALWAYS,
        0,
        {name: t.expand(plan.micro_batch, *t.shape[1:]).to("meta") for name, t in drawn.items()},
        _second(config, plan),
    )
    with (
        sized(players.values(), config.train.norm_kernel),
        torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor),
    ):
        for turn in system.turns:
            for name, player in players.items():
                player.requires_grad_(name == turn.player)
            with torch.set_grad_enabled(turn.player == turn.maker):
                made = system.make(turn.maker, players, micro)
            turn.loss(players, micro, made)
    parameters = {n: sum(p.numel() for p in m.parameters()) for n, m in players.items()}
    states = {
        name: _states(number, plan.world_size, config.players[name].ema.half_life_kimg > 0)
        for name, number in parameters.items()
    }
    halved = 2 if config.train.precision == "bf16" else 1
    averaged = {n for n, player in config.players.items() if player.ema.half_life_kimg > 0}
    # The model's averages are written whether or not they differ from its weights.
    held = {n: 4 if n in averaged | set(system.models) else 3 for n in parameters}
    saved_bytes = sum(4 * held[name] * number for name, number in parameters.items())
    return Estimate(parameters, states, sum(saved.values()) // halved, saved_bytes)


def _second(config: Config, plan: Plan) -> Tensor | None:
    """The other tensor of a micro-batch, where the data come in twos."""
    channels = {
        "none": None,
        "paired": config.data.input_channels,
        "unpaired": config.data.channels,
    }[config.system.pairing]
    if channels is None:
        return None
    shape = geometry(config).shapes[0]
    return torch.empty(plan.micro_batch, channels, *shape, device="meta")


def _states(parameters: int, ranks: int, averaged: bool) -> tuple[int, int, int, int]:
    """Bytes a rank at stages 0 to 3, all in float32 (Rajbhandari et al. 2020, section 5)."""
    whole = 4 * parameters
    shard = -(-whole // ranks)
    average, average_shard = (whole, shard) if averaged else (0, 0)
    return (
        whole + whole + 2 * whole + average,  # weights, gradients, moments, average
        whole + whole + 3 * shard + average,  # a shard of master weights beside the moments'
        whole + shard + 3 * shard + average,
        shard + shard + 3 * shard + average_shard,
    )
