"""Bytes that the Triton kernels load and store, counted in Triton's interpreter; needs no GPU.

    python benchmarks/kernel_traffic.py
    python benchmarks/kernel_traffic.py --shape 16x64x32x32 --dtype float32 --sample 0

Every load and store of an active lane counts, what belongs to channels and parts of sums too, in
passes: one pass is reading or writing the whole activation once. Caches are not modelled. Large
tensors take the interpreter minutes: of each launch `--sample` programs run, evenly spread, and
their count is scaled; 0 runs all.

Exit code 1 where forward + backward need more than 8.2 passes with the kernels that go over a
tensor twice, or 5.1 with those that hold it on chip.
"""

import argparse
import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from kernel_cases import DTYPES, LAYOUTS, NAMED, ORDERS, SAVES, Case, parse_shape

from agehpc_kernels import by_triton, triton_plan
from agehpc_kernels.triton_launch import Launch, recording, run

SHAPES = (*NAMED, (16, 64, 256, 256), (8, 64, 16, 64, 64), (64, 512, 4, 4), (64, 64, 32, 32))
# At most so many passes: forward and backward by kernels that read once, or twice.
LIMITS = {(True, True): 5.1, (True, False): 7.2, (False, True): 6.2, (False, False): 8.2}
PROCESSORS = {"A100": 108, "H100": 132}


@dataclass
class Traffic:
    """Bytes of active lanes."""

    loaded: int = 0
    stored: int = 0


@contextmanager
def metering() -> Iterator[Traffic]:
    """Count what kernels that run inside the block load and store."""
    from triton.runtime.interpreter import InterpreterBuilder as Builder

    counted = Traffic()
    load, store = Builder.create_masked_load, Builder.create_masked_store

    def size(pointers: Any, mask: Any) -> int:
        lanes = np.broadcast_to(mask.data, pointers.data.shape)
        return int(lanes.sum()) * pointers.get_element_ty().primitive_bitwidth // 8

    def counted_load(self: Any, pointers: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        counted.loaded += size(pointers, mask)
        return load(self, pointers, mask, *rest, **named)

    def counted_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        counted.stored += size(pointers, mask)
        return store(self, pointers, value, mask, *rest)

    # Loads and stores without a mask, and by descriptors, go through these two.
    with (
        mock.patch.object(Builder, "create_masked_load", counted_load),
        mock.patch.object(Builder, "create_masked_store", counted_store),
    ):
        yield counted


@contextmanager
def sampling(programs: int, sample: int) -> Iterator[None]:
    """Let a launch of `sample` programs run as every so many-th of a launch of `programs`."""
    from triton.runtime.interpreter import interpreter_builder as builder

    set_index = builder.set_grid_idx

    def set_dim(*_: int) -> None:
        builder.grid_dim = (programs, 1, 1)

    def set_spread(x: int, y: int, z: int) -> None:
        set_index(x * programs // sample, y, z)

    with (
        mock.patch.object(builder, "set_grid_dim", set_dim),
        mock.patch.object(builder, "set_grid_idx", set_spread),
    ):
        yield


def meter(launch: Launch, sample: int) -> Traffic:
    """Run a launch, or `sample` of its programs where that is not 0; return its bytes."""
    few = min(sample or launch.programs, launch.programs)
    with (
        np.errstate(all="ignore"),  # what a sample leaves unwritten holds anything
        sampling(launch.programs, few),
        metering() as counted,
    ):
        run(launch._replace(programs=few))
    scale = launch.programs / few
    return Traffic(round(counted.loaded * scale), round(counted.stored * scale))


def launches(case: Case, device: str = "cpu") -> tuple[list[Launch], list[Launch]]:
    """Return what training launches forward and backward; nothing runs."""
    x = case.tensor(device, random=device == "cpu")
    weight, bias = torch.ones(x.shape[1], device=device), torch.zeros(x.shape[1], device=device)
    running = torch.zeros_like(weight), torch.ones_like(weight), 0.1
    with recording() as forward:
        y, stats_3C = by_triton.forward_moving(x, weight, bias, 1e-5, case.form, running)
    kept = y if case.save == "output" else x
    with recording() as backward:
        given = torch.ones_like(x), kept, stats_3C, weight, bias
        by_triton.backward(*given, case.form, weight.dtype)
    return forward, backward


def measure(case: Case, sample: int, processors: int) -> dict[str, Any]:
    """Return a case's row: passes of every kernel, of both directions and together."""
    triton_plan.PROCESSORS["cpu"] = processors
    triton_plan.forget()
    directions = dict(zip(("forward", "backward"), launches(case), strict=True))
    kernels: dict[str, dict[str, Any]] = {}
    passes = dict.fromkeys(directions, 0.0)
    for direction, found in directions.items():
        for launch in found:
            traffic = meter(launch, sample)
            loaded, stored = traffic.loaded / case.bytes, traffic.stored / case.bytes
            name = launch.kernel.__name__
            kernels[name] = {"programs": launch.programs, "loaded": loaded, "stored": stored}
            passes[direction] += loaded + stored
    once = ("forward_once" in kernels, "backward_once" in kernels)
    both = sum(passes.values())
    named = {(True, True): "single-read", (False, False): "two-pass"}
    return case.columns | {
        "variant": named.get(once, "mixed"),
        **passes,
        "both": both,
        "limit": LIMITS[once],
        "met": both <= LIMITS[once],
        "launches": sum(map(len, directions.values())),
        "kernels": kernels,
        "sample": sample,
        "processors": processors,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows for people to read."""
    lines = [
        f"{'shape':<16} {'layout':<13} {'dtype':<8} {'order':<16} {'save':<6} {'kernels':<11} "
        f"{'forward':>8} {'backward':>8} {'both':>6} {'limit':>6}"
    ]
    for row in rows:
        names = "{shape:<16} {layout:<13} {dtype:<8} {order:<16} {save:<6} {variant:<11}"
        figures = " {forward:>8.2f} {backward:>8.2f} {both:>6.2f} {limit:>6}"
        line = (names + figures).format(**row)
        lines.append(line if row["met"] else line + "  TOO MUCH")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--shape", nargs="+", type=parse_shape, default=SHAPES, help="16x64x32x32 and so on")
    add("--dtype", nargs="+", choices=DTYPES, default=["float32", "bfloat16"])
    add("--layout", nargs="+", choices=LAYOUTS, default=LAYOUTS)
    add("--order", nargs="+", choices=ORDERS, default=ORDERS)
    add("--save", nargs="+", choices=SAVES, default=SAVES)
    add("--sample", type=int, default=8, help="programs that run of a launch (8); 0 for all")
    add("--chip", choices=PROCESSORS, default="A100", help="whose size the plans are for (A100)")
    add("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args(argv)
    if options.sample < 0:
        parser.error("--sample is 0 or more")
    # Triton decides by it when it is imported, which is at the first launch.
    os.environ["TRITON_INTERPRET"] = "1"
    asked = (options.shape, options.dtype, options.layout, options.order, options.save)
    wanted = [
        Case(shape, dtype, layout == "channels_last", order, save)
        for shape, dtype, layout, order, save in itertools.product(*asked)
    ]
    rows = [measure(case, options.sample, PROCESSORS[options.chip]) for case in wanted]
    print(json.dumps(rows, indent=2) if options.json else table(rows))
    return 0 if all(row["met"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
