"""One step: a system's turns, run in order on the players' engines."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Protocol

import torch
from torch import Tensor

from agehpc.systems.base import Micro, Outputs, System, Turn, detached


class Engine(Protocol):
    """What trains a player."""

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The player's forward, differentiable."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of one micro-batch's loss."""
        ...

    def step(self) -> None:
        """One micro-batch is over: the last of a step updates the weights."""
        ...

    def frozen(self) -> AbstractContextManager[None]:
        """No gradients, hooks or buffer updates for this player inside."""
        ...


def run_turns(
    system: System,
    engines: Mapping[str, Engine],
    batches: Sequence[Sequence[Micro]],
    *,
    shared_forward: bool,
) -> dict[str, Tensor]:
    """Train every player, each turn on all micro-batches of its global batches. Collective.

    Args:
        system: its turns.
        engines: one a player.
        batches: this rank's micro-batches of each global batch of the step. A turn that is taken
            fewer times than there are batches takes the last ones.
        shared_forward: a maker's forward runs once, before the first turn, and its own turn uses
            that graph (one micro-batch, ZeRO stage 2 at most). Otherwise other players' turns get
            a forward without gradients that updates no statistics.

    Returns:
        Detached scalars for the metrics, of the last micro-batch, on the device.
    """
    forwards = {name: engine.forward for name, engine in engines.items()}
    ready: dict[str, Outputs] = {}
    if shared_forward:
        ((micro,),) = batches
        for maker in dict.fromkeys(turn.maker for turn in system.turns):
            ready[maker] = system.make(maker, forwards, micro)
    statistics: dict[str, Tensor] = {}
    for turn in system.turns:
        for micros in batches[len(batches) - turn.repeats :]:
            statistics |= _take(turn, system, engines, micros, ready)
    return statistics


def _take(
    turn: Turn,
    system: System,
    engines: Mapping[str, Engine],
    micros: Sequence[Micro],
    ready: Mapping[str, Outputs],
) -> dict[str, Tensor]:
    player = engines[turn.player]
    forwards = {name: engine.forward for name, engine in engines.items()}
    trains_maker = turn.player == turn.maker
    statistics: dict[str, Tensor] = {}
    with ExitStack() as others:
        for name, engine in engines.items():
            if name != turn.player:
                others.enter_context(engine.frozen())
        for micro in micros:
            made = ready.get(turn.maker)
            if made is None:
                with torch.set_grad_enabled(trains_maker):
                    made = system.make(turn.maker, forwards, micro)
            if not trains_maker:
                made = detached(made)
            loss, told = turn.loss(forwards, micro, made)
            player.backward(loss)
            player.step()
            statistics |= told
    return statistics
