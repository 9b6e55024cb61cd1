"""What the Triton kernels compile to for sm_80 and sm_90, ahead of time; needs no GPU.

    python benchmarks/kernel_aot.py
    python benchmarks/kernel_aot.py --shape 16x64x256x256 --dtype bfloat16 --arch 80
    PYTHONPATH=DIRECTORY python benchmarks/kernel_aot.py

The last one compiles with another Triton than the installed one, after
`pip install --no-deps --target DIRECTORY triton==3.9.0`.

Every kernel that training, evaluation or cross-rank statistics launch for the shapes is compiled
as its launch would have it, once for each that differs in what it is compiled for, and taken apart
by Triton's own cuobjdump. Exit code 1 where one spills (bytes of stack, or STL and LDL
instructions: cuobjdump's LOCAL stays 0), or where S (channels, if they are last) is a multiple of
16 and an activation is not read and written 128 bits at a time.
"""

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from kernel_cases import DTYPES, LAYOUTS, NAMED, ORDERS, SAVES, Case, parse_shape
from torch import Tensor

from agehpc_kernels import by_triton
from agehpc_kernels.triton_launch import Launch, compile_ahead, recording

SHAPES = (
    *NAMED,
    *((16, 64, 256, 256), (16, 64, 64, 64), (16, 512, 32, 32), (64, 512, 4, 4), (16, 64, 31, 31)),
    *((8, 64, 16, 64, 64), (8, 128, 2, 4, 4), (8, 16, 8, 32, 32), (64, 512), (8, 61, 20, 20)),
    *((32, 64, 32, 32), (32, 512, 4, 4), (32, 61, 4, 4)),  # with the largest tiles held on chip
)
HUGE = (8, 128, 32, 256, 256)  # offsets of 64 bits
LOADED, STORED = ("x_ptr", "dy_ptr", "kept_ptr"), ("y_ptr", "dx_ptr")
WIDEST = 16  # bytes of one access of a thread
LANES = 32
WIDTHS = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}


class Found(NamedTuple):
    """A launch that some case leads to."""

    case: Case
    launch: Launch


def launches(case: Case) -> Iterator[Launch]:
    """Yield what a case launches: in training, in evaluation, and with statistics of all ranks."""
    x = case.tensor("meta", random=False)
    weight = torch.empty(x.shape[1], device="meta")
    form = case.form
    with recording() as found:
        y, moments_3C, stats_3C = by_triton.forward(x, weight, weight, 1e-5, form)
        by_triton.forward_moving(x, weight, weight, 1e-5, form, (weight, weight, 0.1))
        by_triton.moments(x, form)
        by_triton.apply(x, stats_3C, weight, weight, form)
        given = (y, y if form.save == "output" else x, stats_3C, weight, weight)
        by_triton.backward(*given, form)
        by_triton.backward(*given, form, weight.dtype)
        by_triton.backward_sums(*given, form)
        by_triton.backward_apply(*given, moments_3C[:2], form)
        by_triton.backward_fixed(*given, form)
    yield from found


def signature(launch: Launch) -> tuple[Any, ...]:
    """Return all that a compiled kernel depends on, as Triton specialises launches."""

    def kind(value: Tensor | float | None) -> Any:
        if isinstance(value, float):
            return "float"
        if isinstance(value, int):
            return "1" if value == 1 else (value % 16 == 0, value >= 2**31)
        return None if value is None else value.dtype

    constants = tuple((name, str(value)) for name, value in sorted(launch.constants.items()))
    arguments = tuple(kind(value) for value in launch.arguments)
    return launch.kernel.__name__, constants, arguments, launch.warps


def different(cases: Iterable[Case]) -> list[Found]:
    """Return the launches of all cases, each that compiles to something else once."""
    found: dict[tuple[Any, ...], Found] = {}
    for case in cases:
        for launch in launches(case):
            # Whether rows come as vectors decides what is wanted, and is in no argument's kind.
            found.setdefault((signature(launch), vectors(launch)), Found(case, launch))
    return list(found.values())


def vectors(launch: Launch) -> bool:
    """Say whether the rows of memory allow accesses of 128 bits everywhere."""
    named = dict(zip(launch.kernel.arg_names, launch.arguments, strict=False))
    if "N" not in named:
        return False  # finishes sums
    length = named["C"] if launch.constants["CHANNELS_LAST"] else named["S"]
    assert isinstance(length, int)
    return length % 16 == 0


def examine(launch: Launch, arch: int) -> dict[str, Any]:
    """Compile a launch and return registers, shared memory, stack, spills and accesses."""
    from triton import knobs

    compiled = compile_ahead(launch, arch)
    tool = knobs.nvidia.cuobjdump.path
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(compiled.asm["cubin"])
        usage, code = (
            subprocess.run([tool, what, str(path)], capture_output=True, text=True, check=True)
            for what in ("-res-usage", "-sass")
        )
    used = re.search(r"REG:(\d+) STACK:(\d+)", usage.stdout + usage.stderr)
    assert used, f"cuobjdump tells no registers:\n{usage.stdout}{usage.stderr}"
    accesses = Counter(re.findall(r"\b(?:LDG|STG|LDL|STL)\b[.\w]*", code.stdout))
    return {
        "registers": int(used[1]),
        "stack": int(used[2]),
        "shared": compiled.metadata.shared,
        "spills": sum(n for op, n in accesses.items() if op.startswith(("LDL", "STL"))),
        "accesses": dict(accesses),
    }


def width(access: str) -> int:
    """Return the bytes that an instruction moves for a thread."""
    return next((WIDTHS[part] for part in access.split(".") if part in WIDTHS), 4)


def narrow(launch: Launch, accesses: dict[str, int]) -> list[str]:
    """Return what is narrower than 128 bits in a launch whose rows allow them.

    Activations are the only tensors loaded with a hint for the cache, EL or EF. A tile of fewer
    bytes than 16 a thread is moved as wide as it can be.
    """
    if not vectors(launch):
        return []
    named = dict(zip(launch.kernel.arg_names, launch.arguments, strict=False))
    first = launch.arguments[0]
    assert isinstance(first, Tensor)
    tile = launch.constants["ROWS"] * launch.constants["COLUMNS"] * first.element_size()
    wanted = min(WIDEST, max(first.element_size(), tile // (LANES * launch.warps)))
    each = max(1, tile // (LANES * launch.warps * wanted))
    told = []
    hinted = {op: n for op, n in accesses.items() if op.startswith("LDG") and _hinted(op)}
    told += [f"{n} {op}" for op, n in hinted.items() if width(op) < wanted]
    for names, kind in ((LOADED, "LDG"), (STORED, "STG")):
        tensors = sum(named.get(name) is not None for name in names)
        wide = sum(n for op, n in accesses.items() if op.startswith(kind) and width(op) >= wanted)
        if wide < tensors * each:
            told.append(f"{wide} {kind} of {8 * wanted} bits, not {tensors * each}")
    return told


def _hinted(access: str) -> bool:
    return bool({"EL", "EF"} & set(access.split(".")))


def wrong(launch: Launch, examined: dict[str, Any]) -> list[str]:
    """Return what a launch is blamed for."""
    told = narrow(launch, examined["accesses"])
    if examined["stack"] or examined["spills"]:
        told.insert(0, "spills: {stack} bytes of stack, {spills} STL and LDL".format(**examined))
    return told


def report(found: Found, arch: int) -> dict[str, Any]:
    """Return the row of a launch: how it is compiled, what came out, what is wrong with it."""
    launch = found.launch
    row = {"arch": f"sm_{arch}", "kernel": launch.kernel.__name__} | found.case.columns
    row |= {name: launch.constants.get(name) for name in ("ROWS", "COLUMNS")}
    row |= {"warps": launch.warps, "vectors": vectors(launch)}
    found_out = examine(launch, arch)
    return row | found_out | {"wrong": wrong(launch, found_out)}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows for people to read."""
    lines = [
        f"{'arch':<6} {'kernel':<15} {'shape':<16} {'layout':<13} {'dtype':<8} {'order':<16} "
        f"{'save':<6} {'tile':>10} {'warps':>5} {'regs':>4} {'shared':>6} {'stack':>5}"
    ]
    for row in rows:
        tile = f"{row['ROWS']}x{row['COLUMNS']}"
        names = "{arch:<6} {kernel:<15} {shape:<16} {layout:<13} {dtype:<8} {order:<16} {save:<6}"
        figures = " {warps:>5} {registers:>4} {shared:>6} {stack:>5}"
        line = names.format(**row) + f" {tile:>10}" + figures.format(**row)
        lines.append("  ".join([line, *row["wrong"]]))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--shape", nargs="+", type=parse_shape, default=(*SHAPES, HUGE), help="16x64x32x32 ...")
    add("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    add("--layout", nargs="+", choices=LAYOUTS, default=LAYOUTS)
    add("--order", nargs="+", choices=ORDERS, default=ORDERS)
    add("--save", nargs="+", choices=SAVES, default=SAVES)
    add("--arch", nargs="+", type=int, default=[80, 90], help="compute capabilities (80 90)")
    add("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args(argv)
    os.environ.pop("TRITON_INTERPRET", None)  # what is interpreted cannot be compiled
    asked = (options.shape, options.dtype, options.layout, options.order, options.save)
    found = different(
        Case(shape, dtype, layout == "channels_last", order, save)
        for shape, dtype, layout, order, save in itertools.product(*asked)
    )
    import triton

    told = f"Triton {triton.__version__}: {len(found)} kernels for {len(options.arch)} chips"
    print(told, file=sys.stderr)
    rows = []
    # Threads are enough: ptxas and cuobjdump, where the time goes, are processes of their own.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        archs, launched = zip(*itertools.product(options.arch, found), strict=True)
        for row in pool.map(report, launched, archs):
            rows.append(row)
            if row["wrong"]:
                print(table([row]).partition("\n")[2], file=sys.stderr, flush=True)
    about = {"triton": triton.__version__, "rows": rows}
    print(json.dumps(about, indent=2) if options.json else table(rows))
    bad = [row for row in rows if row["wrong"]]
    print(f"{len(bad)} of {len(rows)} spill or are narrow", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
