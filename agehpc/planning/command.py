"""`agehpc plan RECIPE [flags] --nodes N --gpus-per-node M --device a100-80`: scale on paper."""

import json
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from agehpc.config.load import load
from agehpc.config.plan import Plan, make_plan
from agehpc.config.schema import Config
from agehpc.config.section import Count, Fraction, NonNegative, Positive, Section
from agehpc.errors import EXIT_DONE, UsageError
from agehpc.planning.devices import DEVICES, DeviceName

if TYPE_CHECKING:  # torch takes seconds to import: --help and flag errors go without
    from agehpc.planning.memory import Memory

MEANT_CHANNELS = 3


class PlanFlags(Section):
    """The command's own flags."""

    nodes: Count = 1
    """Nodes of the run."""
    gpus_per_node: Count = 1
    """GPUs of a node, a rank each."""
    device: DeviceName = "a100-80"
    """What the ranks compute on; cpu has no data sheet: its memory is this machine's share of a
    rank, its links have to be given."""
    samples_per_second: Positive | None = None
    """Measured speed of one GPU alone, at this share of the batch; without it FLOPs are counted."""
    utilisation: Annotated[float, Field(gt=0.0, le=1.0)] = 0.3
    """Assumed share of the device's peak that is reached, where no speed is given."""
    memory_gb: Positive | None = None
    """Memory of a rank in 1e9 bytes, in the place of the data sheet's."""
    reserve: Fraction = 0.1
    """Assumed share of the memory that the driver, libraries' workspaces and gaps take."""
    intra_gb_s: Positive | None = None
    """From a GPU to others of its node, 1e9 bytes a second one way, in the data sheet's place."""
    inter_gb_s: Positive | None = None
    """From a node to others, one way; in the place of one network card of the makers' a GPU."""
    link_efficiency: Annotated[float, Field(gt=0.0, le=1.0)] = 0.8
    """Assumed share of the links' bandwidth that is reached."""
    latency_us: NonNegative = 5.0
    """Assumed microseconds of one hop between ranks."""
    json_: bool = False
    """Print the plan as JSON."""


def main(argv: list[str]) -> int:
    """Run the command."""
    loaded = load(argv, prog="agehpc plan", extra=PlanFlags)
    told = _plan(loaded.config, loaded.extra)
    if loaded.extra.json_:
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
    else:
        from agehpc.planning.report import show

        show(told)
    return EXIT_DONE


def _plan(config: Config, flags: PlanFlags) -> dict[str, Any]:
    assumed: list[str] = []
    config = _with_channels(config, assumed)
    world = flags.nodes * flags.gpus_per_node
    plan = make_plan(config, world)
    capacity = _capacity(flags, assumed)
    told: dict[str, Any] = {
        "predicted": True,
        "recipe": config.run.recipe,
        "device": flags.device,
        "nodes": flags.nodes,
        "gpus_per_node": flags.gpus_per_node,
        "precision": config.train.precision,
        "batch": {
            "global": plan.global_batch,
            "micro": plan.micro_batch,
            "accumulation": plan.accumulation,
        },
        "memory": _memory(config, plan, flags, capacity),
    }
    told |= _scale(config, plan, flags, assumed)
    return told | {"assumptions": assumed}


def _with_channels(config: Config, assumed: list[str]) -> Config:
    """The configuration with what shards would say filled in."""
    from agehpc.data.check import check
    from agehpc.data.mixture import read_shards

    data = config.data
    if data.shards:
        return config.model_copy(update={"data": check(data, read_shards(data))})
    if config.model.conditional:
        raise UsageError(
            f"recipe {config.run.recipe} knows the samples' classes, whose number is in the "
            "shards: give --data.shards"
        )
    assumed.append(f"samples of {MEANT_CHANNELS} channels (--data.shards tells)")
    meant = {"channels": MEANT_CHANNELS, "input_channels": MEANT_CHANNELS}
    return config.model_copy(update={"data": data.model_copy(update=meant)})


def _capacity(flags: PlanFlags, assumed: list[str]) -> dict[str, int]:
    device = DEVICES[flags.device]
    if flags.memory_gb is not None:
        total = round(1e9 * flags.memory_gb)
    elif device is None:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // flags.gpus_per_node
    else:
        total = round(1e9 * device.memory_gb)
    assumed.append(
        f"{flags.reserve:.0%} of the memory is kept for the driver, workspaces of libraries and "
        "gaps (--reserve)"
    )
    return {"device_bytes": total, "usable_bytes": int(total * (1 - flags.reserve))}


def _memory(
    config: Config, plan: Plan, flags: PlanFlags, capacity: dict[str, int]
) -> dict[str, Any]:
    from agehpc.planning.memory import at_stage, weigh

    usable, world = capacity["usable_bytes"], plan.world_size

    def told(memory: "Memory") -> dict[str, Any]:
        fits = memory.total <= usable
        return asdict(memory) | {"total_bytes": memory.total, "fits": fits}

    stages = [
        told(weigh(at_stage(config, stage), world, usable, flags.device)) for stage in range(4)
    ]
    smallest = next((n for n, memory in enumerate(stages) if memory["fits"]), None)
    own = {name: player.zero.stage for name, player in config.players.items()}
    chosen = next((m for m in stages if m["stages"] == own), None)
    chosen = chosen or told(weigh(config, world, usable, flags.device))
    return capacity | {
        "configured": chosen,
        "by_stage": stages,
        "smallest_stage_that_fits": smallest,
        "largest_micro_batch": None if smallest is None else stages[smallest]["largest"],
    }


def _scale(config: Config, plan: Plan, flags: PlanFlags, assumed: list[str]) -> dict[str, Any]:
    from agehpc.planning.scaling import table, work_of
    from agehpc.planning.wire import Links, by_kind

    work = work_of(config, plan)
    wire: dict[str, float] = {}
    for share, found in work.collectives(plan.world_size):
        for kind, size in by_kind(found, plan.world_size).items():
            wire[kind] = wire.get(kind, 0.0) + share * size
    told: dict[str, Any] = {
        "wire": {"bytes_by_kind": wire, "bytes": sum(wire.values())},
        "flops_per_step": work.flops,
        "scaling": None,
    }
    samples = plan.samples_per_step // plan.world_size
    alone_s = _alone(config, flags, work.flops, samples, assumed)
    device = DEVICES[flags.device]
    intra = flags.intra_gb_s or (device.intra_gb_s if device else None)
    inter = flags.inter_gb_s or (device.inter_gb_s * flags.gpus_per_node if device else None)
    if alone_s is None or intra is None or inter is None:
        return told
    reached = flags.link_efficiency
    links = Links(flags.gpus_per_node, reached * intra, reached * inter, flags.latency_us)
    assumed += [
        f"{reached:.0%} of {intra:g} GB/s between GPUs of a node and of {inter:g} GB/s between "
        "nodes is reached (--link-efficiency, --intra-gb-s, --inter-gb-s)",
        f"{flags.latency_us:g} us a hop (--latency-us)",
        "every GPU keeps its share of the batch: the global batch grows with their number",
        "nothing overlaps; no rank waits for data, for a slower one, or for others' traffic",
    ]
    told["wire"]["seconds"] = work.wire_seconds(plan.world_size, links)
    told["links"] = asdict(links)
    told["scaling"] = table(work, samples, alone_s, links)
    return told


def _alone(
    config: Config, flags: PlanFlags, flops: float, samples: int, assumed: list[str]
) -> float | None:
    """Seconds of a rank's share of a step; None where nothing says how fast the device is."""
    if flags.samples_per_second is not None:
        assumed.append(f"one GPU alone does {flags.samples_per_second:g} samples/s, as given")
        return samples / flags.samples_per_second
    device = DEVICES[flags.device]
    if device is None:
        return None
    tflops = device.tflops[config.train.precision]
    assumed.append(
        f"{flags.utilisation:.0%} of the device's {tflops:g} TFLOP/s is reached (--utilisation; "
        "a measured --samples-per-second is better)"
    )
    return flops / (1e12 * tflops * flags.utilisation)
