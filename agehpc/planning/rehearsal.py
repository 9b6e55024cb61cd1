"""One training step on tensors without memory: what it holds at every moment, computes and sends.

The step is the trainer's own (`run_turns` over the system's turns), on engines on paper and ranks
that are not there (torch's fake process group).
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import _disable_current_modes

from agehpc.between import BETWEEN
from agehpc.cluster.collectives import any_rank
from agehpc.cluster.signals import StopFlag, agree
from agehpc.config.plan import Plan
from agehpc.config.schema import Config
from agehpc.data.keyed import philox
from agehpc.models.geometry import geometry
from agehpc.models.kernels import sized
from agehpc.planning.engine import BUCKETS, WEIGHTS, PaperEngine
from agehpc.planning.gathering import Held, gathered
from agehpc.planning.recorder import ELSEWHERE, Collective, Recorder
from agehpc.systems import build_system
from agehpc.systems.base import ALWAYS, Micro, System
from agehpc.systems.step import run_turns


@dataclass(frozen=True)
class Rehearsal:
    """What one step on one rank comes to.

    Attributes:
        parameters: number of parameters by player.
        moments: bytes held after each operator, by label.
        flops: floating-point operations of convolutions and matrix products.
        collectives: what is sent, in order.
    """

    parameters: dict[str, int]
    moments: list[dict[str, int]]
    flops: int
    collectives: list[Collective]

    @property
    def totals(self) -> list[int]:
        """Bytes held after each operator."""
        return [sum(moment.values()) for moment in self.moments]

    @property
    def peak(self) -> dict[str, int]:
        """Bytes by label at the moment that holds most."""
        totals = self.totals
        return self.moments[totals.index(max(totals))]

    @property
    def between(self) -> dict[str, int]:
        """Bytes by label between two steps."""
        return self.moments[-1]


def rehearse(config: Config, plan: Plan, step: int = 0, device: str = "cuda") -> Rehearsal:
    """Rehearse a step of a configuration whose channels are known.

    Args:
        config: the run.
        plan: its batches and ranks.
        step: number of the step: at 0 all that comes every few steps is due.
        device: cpu, or else a GPU: their optimizers and collectives allocate differently.
    """
    with ranks_on_paper(plan.world_size), without_memory(config.train.precision) as (place, cast):
        recorder = Recorder()
        with torch.device(place):
            system = build_system(config, BETWEEN)
            with recorder:
                players = system.build()
                engines = {
                    name: PaperEngine(
                        module.train(),
                        config.players[name].zero.stage,
                        plan,
                        config.players[name].ema.half_life_kimg > 0,
                        recorder,
                        cast,
                        gpu=device != "cpu",
                    )
                    for name, module in players.items()
                }
        parameters = {n: sum(p.numel() for p in m.parameters()) for n, m in players.items()}
        recorder.moments.clear()
        recorder.collectives.clear()
        with sized(players.values(), config.train.norm_kernel), recorder:
            batches = [
                [_micro(config, plan, system, step, place) for _ in range(plan.accumulation)]
                for _ in range(plan.batches)
            ]
            run_turns(system, engines, batches, shared_forward=plan.shared_forward)
            del batches
            any_rank(False)  # the loader's: whether a sample is bad
            agree(StopFlag())
            recorder.hold(())
        held, gathers = gathered(recorder.marks)
        moments = _joined(recorder.moments, held)
        return Rehearsal(parameters, moments, recorder.flops, [*recorder.collectives, *gathers])


def _joined(moments: list[dict[str, int]], held: list[Held]) -> list[dict[str, int]]:
    """Moments with the weights that stage 3 has gathered by then, and what it gathers them in."""
    joined, upcoming, now = [], list(reversed(held)), 0
    for at, moment in enumerate(moments):
        most = Held(at, now)
        while upcoming and upcoming[-1].at <= at:
            found = upcoming.pop()
            now = found.size
            most = max(most, found, key=lambda h: h.size + h.buffers)
        weights = moment.get(WEIGHTS, 0) + most.size
        buckets = moment.get(BUCKETS, 0) + most.buffers
        joined.append(moment | {WEIGHTS: weights, BUCKETS: buckets})
        joined[-1].pop(ELSEWHERE, None)
    return joined


def _micro(config: Config, plan: Plan, system: System, step: int, place: str) -> Micro:
    """A micro-batch, past any warm-up: the dearest step."""
    geo = geometry(config)
    shape = (geo.channels, *geo.shapes[0])
    drawn = _drawn(system, shape, step)

    def new(*sizes: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(plan.micro_batch, *sizes, dtype=dtype, device=place)

    channels = {
        "none": None,
        "paired": config.data.input_channels,
        "unpaired": config.data.channels,
    }[config.system.pairing]
    return Micro(
        new(*shape),
        new(dtype=torch.int64),
        ALWAYS,
        step,
        {name: new(*sizes, dtype=dtype) for name, (sizes, dtype) in drawn.items()},
        None if channels is None else new(channels, *shape[1:]),
    )


def _drawn(
    system: System, shape: tuple[int, ...], step: int
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and type of what a system draws for one sample, by name."""
    with _disable_current_modes(), torch.device("cpu"):
        rows = system.draw(lambda purpose: [philox(0, purpose, 0)], shape, step)
        return {name: (tuple(t.shape[1:]), t.dtype) for name, t in rows.items()}


@contextlib.contextmanager
def ranks_on_paper(world_size: int) -> Iterator[None]:
    """A process group whose other ranks are not there: collectives return at once."""
    assert not dist.is_initialized(), "the ranks on paper need the default process group"
    dist.init_process_group("fake", rank=0, world_size=world_size, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def without_memory(
    precision: str,
) -> Iterator[tuple[str, Callable[[], contextlib.AbstractContextManager[Any]]]]:
    """A device whose tensors have shapes alone, and what to enter around forwards.

    The meta device; for bf16 fake CPU tensors, as autocast does not know the meta device.
    """
    if precision != "bf16":
        yield "meta", contextlib.nullcontext
        return
    from torch._subclasses import FakeTensorMode  # half a second, for bf16 alone

    with FakeTensorMode(allow_non_fake_inputs=True):
        yield "cpu", lambda: torch.autocast("cpu", torch.bfloat16)
