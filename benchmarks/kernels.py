"""The fused BatchNorm + LeakyReLU: what its kernels move, compile to, keep and take.

    python benchmarks/kernels.py
    python benchmarks/kernels.py --parts cpu --rounds 31
    python benchmarks/kernels.py --step

Runs anywhere. Without a GPU: `traffic` (bytes that the Triton kernels load and store, counted in
the interpreter), `compiled` (registers, spills and widths of accesses for sm_80 and sm_90),
`predicted` (times at the memory rates of A100 and H100: predictions, not measurements), `saved`
(what is kept for backward) and `cpu` (forward + backward beside torch's own functions, all in one
process, taking turns). With a GPU also `gpu`: the same beside torch.compile, cuDNN, inplace_abn,
apex and attorch, those that are installed. --step trains dcgan_64 and video_age_64 with fused and
with torch's own norms, in turns; what follows `--` goes to `agehpc train`.

Rows go to benchmarks/results/kernels.csv; benchmarks/README.md tells how they are read.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from kernel_cases import LAYOUTS, NAMED, SAVES, Case
from kernel_layers import model_layers
from kernel_rivals import UnsuitedError
from kernel_step import RECIPES as STEP_RECIPES
from kernel_step import steps
from kernel_times import SAVERS, copy_rate, on_cpu, on_gpu, ratios, saved
from results_csv import append
from throughput import RunFailedError

from agehpc.errors import EXIT_DONE, EXIT_FAILURE, AgehpcError
from agehpc.observe import environment
from agehpc_kernels import backend, explain
from agehpc_kernels.triton_plan import plan

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results" / "kernels.csv"
COLUMNS = (
    *("date", "part", "shape", "layout", "dtype", "order", "save", "provider", "over", "threads"),
    *("quantity", "value", "median", "low", "high", "wanted", "met", "detail", "note"),
    *("device", "load_at_start", "torch", "triton", "agehpc", "revision"),
)
PARTS = ("traffic", "compiled", "predicted", "saved", "cpu", "gpu")
RECIPES = ("dcgan_64", "image_age_64", "video_age_64")
RATES = {"A100 40 GB": 1.555e12, "A100 80 GB": 2.039e12, "H100": 3.35e12}  # bytes/s, data sheets
EAGER_PASSES = 13.0  # 5 forward, 8 backward: norm and activation each read and write alone
PREDICTED = ((16, 64, 256, 256), (16, 512, 32, 32))  # goes over memory twice; held on chip
GPU_SHAPES = (*NAMED, *PREDICTED, (8, 64, 16, 128, 128))
DTYPES = ("float32", "bfloat16")
GPU_DTYPES = (*DTYPES, "float16")
Row = dict[str, Any]


def script(name: str, *words: str) -> Any:
    """Run a script beside this one, in its own process, and return what it tells as JSON.

    Whether Triton interprets or compiles is settled for a process when it is imported.
    """
    command = [sys.executable, str(FOLDER / name), *words, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if not done.stdout:
        raise AgehpcError(f"{name} ended with code {done.returncode}")
    return json.loads(done.stdout)


def traffic(options: argparse.Namespace) -> Iterator[Row]:
    """Passes over the activation, forward + backward."""
    for row in script("kernel_traffic.py"):
        columns = {name: row[name] for name in ("shape", "layout", "dtype", "order", "save", "met")}
        detail = f"{row['forward']:.3f} + {row['backward']:.3f}; {row['variant']}"
        figures = {"quantity": "passes", "value": row["both"], "wanted": f"<= {row['limit']}"}
        note = f"{row['sample']} programs of a launch ran" if row["sample"] else ""
        yield columns | figures | {"provider": "fused", "detail": detail, "note": note}


def compiled(options: argparse.Namespace) -> Iterator[Row]:
    """Registers, spills and widths, the worst of each kernel, chip and dtype."""
    words = [] if options.full else ["--shape", "16x64x256x256", "16x512x32x32", "64x512x4x4"]
    rows = script("kernel_aot.py", *words)["rows"]
    for key in sorted({(row["arch"], row["kernel"], row["dtype"]) for row in rows}):
        own = [row for row in rows if (row["arch"], row["kernel"], row["dtype"]) == key]
        wrong = sum(bool(row["wrong"]) for row in own)
        yield {
            "dtype": key[2],
            "provider": key[1],
            "quantity": "compilations that spill or are narrow",
            "value": wrong,
            "wanted": "0",
            "met": not wrong,
            "detail": f"{len(own)} compilations, {max(r['registers'] for r in own)} registers, "
            f"{max(r['shared'] for r in own)} bytes shared at most",
            "note": key[0],
        }


def predicted(options: argparse.Namespace) -> Iterator[Row]:
    """Microseconds at peak memory rate: metered passes x bytes / rate."""
    shapes = ["x".join(map(str, shape)) for shape in PREDICTED]
    words = ["--shape", *shapes, "--dtype", *DTYPES, "--save", "input", "--order", "norm_first"]
    for row in script("kernel_traffic.py", *words, "--layout", "contiguous"):
        case = Case(tuple(map(int, row["shape"].split("x"))), row["dtype"])
        for chip, rate in RATES.items():
            each = [row[name] * case.bytes / rate * 1e6 for name in ("forward", "backward")]
            yield case.columns | {
                "provider": "fused",
                "over": "eager",
                "quantity": "predicted microseconds",
                "value": sum(each),
                "detail": f"{each[0]:.0f} + {each[1]:.0f} in {row['launches']} launches; "
                f"at most {EAGER_PASSES / row['both']:.2f} times eager's {EAGER_PASSES:g} passes",
                "note": f"predicted for {chip} at {rate / 1e12:g} TB/s",
            }


def kept(options: argparse.Namespace) -> Iterator[Row]:
    """Activations that wait for backward, this layer's and the next one's input."""
    wanted = {("fused", "input"): 2, ("fused", "output"): 1}
    for provider in SAVERS:
        for save in SAVES if provider == "fused" else SAVES[:1]:
            case = Case(NAMED[0], save=save)
            value, limit = saved(case, provider), wanted.get((provider, save))
            row = case.columns | {"provider": provider, "quantity": "kept activations"}
            if limit:  # a few values a channel come on top
                row |= {"wanted": f"<= {limit}", "met": value < limit + 0.01}
            yield row | {"value": value, "save": save if provider == "fused" else ""}


def cpu_cases() -> list[Case]:
    """Return the promised shapes and the models' layers, in both layouts and dtypes."""
    shapes = dict.fromkeys(NAMED)
    for recipe in RECIPES:
        shapes |= dict.fromkeys(case.shape for case in model_layers(recipe))
    return [
        Case(shape, dtype, layout == "channels_last")
        for shape in shapes
        for dtype in DTYPES
        for layout in LAYOUTS
    ]


def cpu(options: argparse.Namespace) -> Iterator[Row]:
    """Forward + backward on the CPU over torch's own functions."""
    cores = len(os.sched_getaffinity(0))
    for case in cpu_cases():
        promised = case.shape in NAMED and case.dtype == "float32" and not case.channels_last
        for number in sorted({1, cores}):
            seconds = on_cpu(case, options.rounds, number, tuple(options.also))
            for name in ("fused", *options.also):
                least = 2 if promised else 0.95
                figures = ratios(seconds[name], seconds["eager"])
                row = case.columns | {"provider": name, "over": "eager", "threads": number}
                row |= {"quantity": "speed ratio"} | figures
                if name == "fused":
                    chosen = explain(case.tensor("cpu", random=False)).backend
                    row |= {"wanted": f">= {least}", "met": figures["value"] >= least}
                    row["note"] = f"by {chosen}"
                times = [min(seconds[which]) * 1e6 for which in (name, "eager")]
                yield row | {"detail": f"{times[0]:.0f} and {times[1]:.0f} us at best"}


def gpu(options: argparse.Namespace) -> Iterator[Row]:
    """Every provider on the GPU: microseconds, and bytes a second as a share of a copy's.

    `fused` is Triton's kernels, also where another backend would be chosen.
    """
    device = torch.device("cuda")
    rate = copy_rate(device)
    yield {"provider": "copy", "quantity": "GB/s", "value": rate / 1e9}
    for shape in GPU_SHAPES:
        for case in (Case(shape, d, last) for d in options.dtype for last in (False, True)):
            for save in SAVES:
                with backend("triton"):
                    yield from _on_gpu(replace(case, save=save), device, rate)


def _on_gpu(case: Case, device: torch.device, rate: float) -> Iterator[Row]:
    chosen = plan(case.tensor(device, random=False))
    # Passes that these kernels need, which rivals are held to as well.
    passes = {"forward": 2 if chosen.forward_once else 3}
    passes["backward"] = 3 if chosen.backward_once else 5
    passes["both"] = passes["both, in a graph"] = sum(passes.values())
    fused: dict[str, float] = {}
    for provider, direction, note, milliseconds in on_gpu(case, device):
        middle, low, high = (1000 * value for value in milliseconds)
        share = passes[direction] * case.bytes / (middle / 1e6) / rate
        yield case.columns | {
            "provider": provider,
            "quantity": f"{direction}, microseconds",
            "value": middle,
            "median": middle,
            "low": low,
            "high": high,
            "detail": f"{passes[direction]} passes at {share:.1%} of the copy's rate",
            "note": note,
        }
        if provider == "fused":
            fused[direction] = middle
        elif direction.startswith("both"):
            name = direction.replace("both", "speed ratio")
            figures = {"quantity": name, "value": middle / fused[direction], "note": note}
            yield case.columns | {"provider": "fused", "over": provider} | figures


def measure(options: argparse.Namespace, extra: list[str]) -> Iterator[Row]:
    """Yield the rows of all parts that were asked for."""
    parts = {"traffic": traffic, "compiled": compiled, "predicted": predicted}
    parts |= {"saved": kept, "cpu": cpu, "gpu": gpu}
    for name in options.parts:
        for row in parts[name](options):
            yield {"part": name} | row
    if options.step:
        yield from steps(options, extra)


def line(row: Row) -> str:
    """Return a row for people to read."""
    subject = [str(row.get(name) or "") for name in ("part", "provider", "shape", "layout")]
    rest = [str(row.get(name) or "") for name in ("dtype", "order", "save", "threads")]
    text = "{:<9} {:<14} {:<16} {:<13} ".format(*subject)
    text += "{:<8} {:<16} {:<6} {:>2} ".format(*rest)
    text += f"{row['value']:>9.4g} {row['quantity']}"
    if "wanted" in row:
        text += f", wanted {row['wanted']}{'' if row['met'] else ' MISSED'}"
    return "  ".join(part for part in (text, row.get("detail"), row.get("note")) if part)


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the options, and the words after `--`."""
    words = list(argv)
    cut = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, help="what is told (default: all that can be here)")
    add("--full", action="store_true", help="compile for every shape: half an hour")
    add("--dtype", nargs="+", choices=GPU_DTYPES, default=GPU_DTYPES, help="of `gpu` (all)")
    add("--rounds", type=int, default=21, help="turns on the CPU (21)")
    add("--also", nargs="+", choices=["torch.compile"], default=[], help="more on the CPU")
    add("--step", action="store_true", help="whole training steps instead")
    add("--recipe", nargs="+", default=list(STEP_RECIPES), help="recipes of --step")
    add("--steps", type=int, default=20, help="training steps of a run of --step (20)")
    add("--tick-steps", type=int, default=1, help="of them, steps between two looks at the clock")
    add("--repeats", type=int, default=3, help="runs of each variant of --step (3)")
    add("--out", type=Path, default=RESULTS, help=f"CSV that rows are added to ({RESULTS.name})")
    add("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args(words[:cut])
    if min(options.rounds, options.repeats) < 1:
        parser.error("--rounds and --repeats are 1 or more")
    if not options.parts:
        here = PARTS if torch.cuda.is_available() else PARTS[:-1]
        options.parts = [] if options.step else list(here)
    if "gpu" in options.parts and not torch.cuda.is_available():
        parser.error("--parts gpu: torch finds no GPU")
    return options, words[cut + 1 :]


def bench(options: argparse.Namespace, extra: list[str]) -> int:
    """Measure, print and write down; EXIT_FAILURE where something wanted is missed."""
    append(options.out, COLUMNS, [])  # what cannot be written is better known before than after
    known = environment.describe()
    on_a_gpu = bool(known["devices"])
    about = {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "load_at_start": round(os.getloadavg()[0], 2),
        "agehpc": known["agehpc"],
        "revision": known["revision"] or "none",
        "torch": known["packages"]["torch"],
        "triton": known["packages"].get("triton", ""),
    }
    processor = f"{known['cpu']} ({known['cores']} cores)"
    rows = []
    for row in measure(options, extra):
        counted = row["part"] in ("traffic", "compiled", "predicted")
        on_cpu_alone = row["part"] in ("saved", "cpu") or not on_a_gpu
        # What is counted or predicted was run by no device.
        row["device"] = "" if counted else (processor if on_cpu_alone else known["devices"][0])
        for name in ("value", "median", "low", "high"):
            if name in row:
                row[name] = float(f"{row[name]:.4g}")
        rows.append(dict.fromkeys(COLUMNS, "") | row | about)
        append(options.out, COLUMNS, rows[-1:])
        if not options.json:
            print(line(row), flush=True)
    if options.json:
        print(json.dumps(rows, indent=2))
    missed = [row for row in rows if row["met"] is False]
    print(f"{len(missed)} of {len(rows)} rows miss what is wanted", file=sys.stderr)
    return EXIT_FAILURE if missed else EXIT_DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script."""
    options, extra = parse(sys.argv[1:] if argv is None else argv)
    try:
        return bench(options, extra)
    except (AgehpcError, RunFailedError, UnsuitedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILURE


if __name__ == "__main__":
    sys.exit(main())
