"""The batch norms of the models, found by hooks on the networks."""

from collections import Counter

import torch
from kernel_cases import Case
from torch import Tensor, nn

from agehpc.config.plan import make_plan
from agehpc.data.keyed import philox
from agehpc.models.geometry import geometry
from agehpc.models.kernels import sized
from agehpc.recipes import RECIPES
from agehpc.systems import build_system
from agehpc.systems.base import ALWAYS, Collectives, Micro
from agehpc_kernels import NormLeakyReLU


def model_layers(recipe: str) -> dict[Case, int]:
    """Return the batch norms of one step of a recipe on a single rank, and how often each runs.

    The networks are built and run without memory, at the recipe's micro-batch.
    """
    config = RECIPES[recipe]()
    config = config.model_copy(update={"data": config.data.model_copy(update={"channels": 3})})
    batch = make_plan(config, 1).micro_batch
    found: Counter[Case] = Counter()

    def note(norm: nn.Module, given: tuple[Tensor, ...], y: Tensor) -> None:
        assert isinstance(norm, NormLeakyReLU)
        if norm.fused:
            found[Case(tuple(y.shape), order=norm.order, slope=norm.slope)] += 1

    with torch.device("meta"):
        system = build_system(config, Collectives.alone())
        players = system.build()
        geo = geometry(config)
        shape = (geo.channels, *geo.shapes[0])
        x_BCS = torch.empty(batch, *shape)
        labels = torch.empty(batch, dtype=torch.int64)
    drawn = system.draw(lambda purpose: [philox(0, purpose, 0)], shape, 0)
    random = {name: t.expand(batch, *t.shape[1:]).to("meta") for name, t in drawn.items()}
    micro = Micro(x_BCS, labels, ALWAYS, 0, random, None)
    for player in players.values():
        for module in player.modules():
            if isinstance(module, NormLeakyReLU):
                module.register_forward_hook(note)
    with sized(players.values(), "auto"):
        for turn in system.turns:
            turn.loss(players, micro, system.make(turn.maker, players, micro))
    return dict(found)
