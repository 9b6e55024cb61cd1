"""When ZeRO stage 3 gathers a player's weights and lets go of them, as DeepSpeed 0.19 does it.

Its coordinator records the order in which layers are used, and goes by it as long as a pass does
the same as the recorded one: then weights stay while they will be used again. A player that runs
in other ways within one step (without gradients for the critics, with gradients in its own turn)
breaks the record time and again, and each layer's weights are then gathered for each of its uses.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from agehpc.planning.engine import WIDTH, PaperEngine
from agehpc.planning.recorder import Collective, Mark

Order = list[tuple[int, ...]]


@dataclass
class Coordinator:
    """DeepSpeed's PartitionedParameterCoordinator, for one engine on paper."""

    engine: PaperEngine
    mode: Literal["invalid", "recording", "complete"] = "invalid"
    order: Order = field(default_factory=list)
    at: int = 0
    here: set[int] = field(default_factory=set)
    copied: int = 0
    collectives: list[Collective] = field(default_factory=list)

    def begin(self) -> None:
        """A forward of the engine begins: what was recorded before is complete."""
        if self.mode == "recording":
            self.mode = "complete"
        elif self.mode == "invalid":
            self.mode, self.order = "recording", []
        self.at = 0

    def use(self, owned: tuple[int, ...]) -> None:
        """A layer needs its weights."""
        if self.mode == "complete" and (self.at >= len(self.order) or self.order[self.at] != owned):
            self.mode = "invalid"
        if self.mode == "recording":
            self.order.append(owned)
        self._gather(owned)
        self.at += 1

    def used(self, owned: tuple[int, ...]) -> None:
        """A layer is done with its weights."""
        if self.mode != "complete":
            self.here -= set(owned)
            return
        later = {number for layer in self.order[self.at :] for number in layer}
        self.here -= set(owned) - later - self.engine.persistent

    def step(self) -> None:
        """The optimizer has stepped: all weights are new, and small ones are gathered at once."""
        self.here = set()
        self._gather(tuple(sorted(self.engine.persistent)))

    def _gather(self, owned: tuple[int, ...]) -> None:
        missing = set(owned) - self.here
        self.copied = 0
        if missing and self.engine.plan.world_size > 1:
            payload = WIDTH * self.engine.padded(missing)
            self.collectives.append(Collective("all_gather", payload))
            # Several arrive in one buffer, part by part, and are put together in others.
            self.copied = payload if len(missing) > 1 else 0
        self.here |= missing

    @property
    def held(self) -> int:
        """Bytes of the weights that are gathered now."""
        alone = self.engine.plan.world_size == 1  # then a part is the whole
        return 0 if alone else WIDTH * self.engine.padded(self.here)


WARM_UP = 3
"""Steps until the coordinator does the same in every step."""


@dataclass(frozen=True)
class Held:
    """Bytes of gathered weights from a moment on, and of buffers at that moment alone."""

    at: int
    size: int
    buffers: int = 0


def gathered(marks: list[Mark]) -> tuple[list[Held], list[Collective]]:
    """Gathered weights over the moments of a step that is like all others, and the gathers."""
    coordinators: dict[int, Coordinator] = {}
    held: list[Held] = []
    for _ in range(WARM_UP):
        held = []
        for coordinator in coordinators.values():
            coordinator.collectives = []
        held.append(Held(0, sum(c.held for c in coordinators.values())))
        for number, mark in enumerate(marks):
            engine, owned = mark.about
            if mark.what == "passed back" and not _comes_again(mark, marks[number + 1 :]):
                continue
            coordinator = coordinators.setdefault(id(engine), Coordinator(engine))
            _apply(coordinator, mark.what, owned)
            now = sum(c.held for c in coordinators.values())
            held.append(Held(mark.at, now, coordinator.copied))
            coordinator.copied = 0
    return held, [found for c in coordinators.values() for found in c.collectives]


def _comes_again(mark: Mark, later: list[Mark]) -> bool:
    """Whether a layer is used once more before the optimizer steps.

    DeepSpeed lets go of it for that; the weights of the last use are there until the step.
    """
    for other in later:
        if other.about[0] is mark.about[0]:
            if other.what == "step":
                return False
            if other.what == "use" and other.about[1] == mark.about[1]:
                return True
    return False


def _apply(coordinator: Coordinator, what: str, owned: Any) -> None:
    if what == "pass":
        coordinator.begin()
    elif what == "step":
        coordinator.step()
    elif what == "use":
        coordinator.use(owned)
    else:
        coordinator.used(owned)
