"""What real ranks allocate and send in a training step, by counters that know nothing of the plan.

Memory by torch's CPU allocator (the profiler's memory events), collectives by a dispatch mode over
the operators that torch.distributed ends in, wire bytes by the kernel's count of each TCP socket.
"""

import contextlib
import ctypes
import gc
import os
import socket
import struct
from pathlib import Path
from typing import Any

import torch
from torch._C._profiler import _ExtraFields_Allocation
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from agehpc.between import BETWEEN
from agehpc.cluster.collectives import barrier
from agehpc.cluster.groups import Ranks
from agehpc.config.load import load
from agehpc.config.plan import Plan, make_plan
from agehpc.config.schema import Config, Section
from agehpc.data.keyed import philox
from agehpc.models.ema import Ema
from agehpc.models.geometry import geometry
from agehpc.systems import build_system
from agehpc.systems.base import ALWAYS, Micro, System
from agehpc.systems.step import run_turns
from agehpc.train.engines import Engine

# Stage 3 takes two until it does the same in each; one is counted, three are weighed.
STEPS, COUNTED = 6, 2
_BEGIN, _END = "a step begins", "it ends"
_BYTES_SENT = 200  # offset of tcpi_bytes_sent and tcpi_bytes_retrans in Linux's struct tcp_info


def configured(argv: list[str]) -> Config:
    """A recipe with flags, whose shards would hold coloured samples."""
    config = load(argv, prog="agehpc plan", extra=Section).config
    data = config.data.model_copy(update={"channels": 3, "input_channels": 1})
    return config.model_copy(update={"data": data})


def measure_all(ranks: Ranks, cases: list[list[str]]) -> list[dict[str, Any]]:
    """What each of several recipes with flags takes on these ranks."""
    return [_measure(ranks, configured(argv)) for argv in cases]


def _measure(ranks: Ranks, config: Config) -> dict[str, Any]:
    plan = make_plan(config, ranks.env.world_size)
    _count_in_all_threads()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        counted, sent = _train(ranks, config, plan)
    gc.collect()  # engines refer to themselves
    assert profiler.profiler is not None
    results = profiler.profiler.kineto_results
    assert results is not None
    peak, between = _weighed(results.experimental_event_tree())
    return {"peak": peak, "between": between, "collectives": counted, "sent": sent}


def _count_in_all_threads() -> None:
    """Let torch's CPU allocator count what any thread frees, not those alone that are profiled.

    Gloo's threads have no profiler, and are at times the last to hold a tensor: it would count as
    allocated for good.
    """
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    ctypes.c_bool.in_dll(library, "FLAGS_caffe2_report_cpu_memory_usage").value = True


def _weighed(tree: list[Any]) -> tuple[int, int]:
    """Most bytes allocated at once in a step, and those left after it; the least of some steps.

    The allocator's own count, as what other threads free comes without an event. Gloo's threads
    hold on to a tensor for longer than its collective: therefore of some steps, and what is left is
    the least until the next one begins.
    """
    events, unseen = [], list(tree)
    while unseen:
        event = unseen.pop()
        unseen += event.children
        if event.name in (_BEGIN, _END):
            events.append((event.start_time_ns, event.name))
        elif isinstance(event.extra_fields, _ExtraFields_Allocation):
            events.append((event.start_time_ns, event.extra_fields))
    events.sort(key=lambda pair: pair[0])
    first = next(fields for _, fields in events if not isinstance(fields, str))
    empty = first.total_allocated - first.alloc_size
    live, least, peaks, betweens, inside = 0, 0, [], [], False
    for _, fields in events:
        if not isinstance(fields, str):
            live = fields.total_allocated - empty
            least = min(least, live)
            if inside:
                peaks[-1] = max(peaks[-1], live)
            continue
        inside = fields == _BEGIN
        if inside:
            betweens += [least] if peaks else []
            peaks.append(live)
        else:
            least = live
    return min(peaks), min(betweens)


def _train(ranks: Ranks, config: Config, plan: Plan) -> tuple[list[tuple[str, int]], int]:
    system = build_system(config, BETWEEN)
    engines = {
        name: Engine(name, module, config.players[name], plan, config.train.precision, ranks.device)
        for name, module in system.build().items()
    }
    averages = {
        name: Ema(engine.local_weights())
        for name, engine in engines.items()
        if config.players[name].ema.half_life_kimg > 0
    }
    counting = Counting()
    before = 0
    for step in range(STEPS):
        batches = [
            [_micro(config, plan, system) for _ in range(plan.accumulation)]
            for _ in range(plan.batches)
        ]
        barrier()
        before = sent_bytes()
        if step > COUNTED:
            with record_function(_BEGIN):
                pass
        # The mode switches the fused layer's own node off: that step is not weighed.
        with counting if step == COUNTED else contextlib.nullcontext():
            run_turns(system, engines, batches, shared_forward=plan.shared_forward)
        del batches
        for name, average in averages.items():
            average.update(engines[name].local_weights(), 0.5)
        if step > COUNTED:
            with record_function(_END):
                pass
    return counting.found, sent_bytes() - before


def _micro(config: Config, plan: Plan, system: System) -> Micro:
    geo = geometry(config)
    shape = (geo.channels, *geo.shapes[0])
    drawn = system.draw(lambda p: [philox(0, p, i) for i in range(plan.micro_batch)], shape, 0)
    second = {"none": None, "paired": 1, "unpaired": geo.channels}[config.system.pairing]
    return Micro(
        torch.rand(plan.micro_batch, *shape) * 2 - 1,
        torch.zeros(plan.micro_batch, dtype=torch.int64),
        ALWAYS,
        0,
        drawn,
        None if second is None else torch.rand(plan.micro_batch, second, *shape[1:]),
    )


class Counting(TorchDispatchMode):
    """Operator and largest tensor, in bytes, of every collective inside."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.namespace == "c10d":
            sizes = [t.numel() * t.element_size() for t in tree_leaves(args) if torch.is_tensor(t)]
            self.found.append((func.overloadpacket.__name__, max(sizes, default=0)))
        return out


def sent_bytes() -> int:
    """Bytes that this process has sent over TCP, each once, by the kernel's count."""
    total = 0
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        with contextlib.suppress(OSError):
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket"):  # noqa: PTH115
                continue
            with socket.socket(fileno=os.dup(int(name))) as connection:
                told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            all_sent, again = struct.unpack_from("QQ", told, _BYTES_SENT)
            total += all_sent - again
    return total
