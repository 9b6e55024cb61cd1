"""A plan for people to read."""

import sys
from typing import Any

KINDS = ("weights", "gradients", "optimizer", "averages", "buckets", "activations")


def show(told: dict[str, Any]) -> None:
    """Print a plan."""
    sys.stdout.write("\n".join([*_head(told), *_memory(told), *_wire(told), *_scaling(told)]))
    sys.stdout.write("\n\nassumed\n" + "".join(f"  {line}\n" for line in told["assumptions"]))


def _head(told: dict[str, Any]) -> list[str]:
    batch, ranks = told["batch"], told["nodes"] * told["gpus_per_node"]
    return [
        f"predicted, not measured: {told['recipe']}, {told['precision']}, {told['nodes']} node(s) "
        f"of {told['gpus_per_node']} {told['device']}",
        f"  batch {batch['global']} = {ranks} ranks x {batch['micro']} samples x "
        f"{batch['accumulation']} micro-batches",
    ]


def _memory(told: dict[str, Any]) -> list[str]:
    memory = told["memory"]
    lines = [
        "",
        f"memory of a rank at the fullest moment of a step, MiB; {_gb(memory['usable_bytes'])} of "
        f"{_gb(memory['device_bytes'])} usable",
        f"  {'ZeRO':<30} " + " ".join(f"{kind:>11}" for kind in (*KINDS, "total")) + "  fits"
        "  largest micro-batch",
    ]
    rows = list(memory["by_stage"])
    if memory["configured"] not in rows:
        rows.append(memory["configured"])
    for row in rows:
        stages = row["stages"]
        name = ", ".join(f"{player} {stage}" for player, stage in stages.items())
        mark = "*" if stages == memory["configured"]["stages"] else " "
        cells = [row["peak"].get(kind, 0) for kind in KINDS] + [row["total_bytes"]]
        lines.append(
            f"{mark} {name:<30} "
            + " ".join(f"{cell / 2**20:>11.1f}" for cell in cells)
            + f"  {'yes' if row['fits'] else 'no':<4}  {row['largest']}"
        )
    smallest = memory["smallest_stage_that_fits"]
    lines.append(
        "  no stage fits: lower --train.micro-batch, or take more ranks or a larger device"
        if smallest is None
        else f"  * as configured; the smallest stage that fits is {smallest}"
    )
    return lines


def _wire(told: dict[str, Any]) -> list[str]:
    wire = told["wire"]
    kinds = ", ".join(
        f"{kind.replace('_', '-')} {size / 1e6:.2f} MB"
        for kind, size in wire["bytes_by_kind"].items()
    )
    took = f", {1e3 * wire['seconds']:.2f} ms" if "seconds" in wire else ""
    return [
        "",
        f"a rank sends {wire['bytes'] / 1e6:.2f} MB a step{took}" + (f": {kinds}" if kinds else ""),
        f"a rank computes {told['flops_per_step'] / 1e12:.3g} TFLOP a step",
    ]


def _scaling(told: dict[str, Any]) -> list[str]:
    if told["scaling"] is None:
        return [
            "",
            "speed is not predicted: give --samples-per-second, --intra-gb-s and --inter-gb-s",
        ]
    lines = ["", f"predicted  {'GPUs':>5} {'samples/s':>12} {'efficiency':>10} {'wire ms':>9}"]
    lines += [
        f"           {row['gpus']:>5} {row['samples_per_s']:>12.1f} {row['efficiency']:>10.1%} "
        f"{1e3 * row['wire_s']:>9.2f}"
        for row in told["scaling"]
    ]
    return lines


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
