"""Training speed of recipes by world size and ZeRO stage, through the real command line.

    python benchmarks/throughput.py --recipe video_age_demo --world-size 1 2 --zero 0 2
    python benchmarks/throughput.py --recipe image_age_64 --shards shards/images -- \\
        --train.global-batch 64 --train.precision bf16

Every result comes from processes of its own, started `--repeats` times. Variants take turns
(A B A B), so that a machine that slows down slows all of them, and each is compared with the first
variant of its recipe. What follows `--` goes to `agehpc train`. Without --shards the real clips of
agehpc[demo] are packed, as frames for images: few samples, but real decoding.

One machine is measured. On a GPU node of a Slurm cluster, in one task that owns the whole node:

    srun --nodes=1 --ntasks=1 --gpus-per-node=4 --cpus-per-task=64 \\
        python benchmarks/throughput.py --recipe video_age_a100_4n --world-size 1 2 4 \\
        --steps 120 --warmup 20 --tick-steps 10 --shards SHARDS -- --train.global-batch 64

Rows go to benchmarks/results/throughput.csv; benchmarks/README.md tells how they are read.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from demo_shards import pack_demo
from results_csv import append

from agehpc.config.load import load
from agehpc.config.plan import Plan, make_plan
from agehpc.config.schema import Config, Section
from agehpc.data.shards import read_manifest
from agehpc.errors import EXIT_DONE, EXIT_FAILURE, AgehpcError, UsageError
from agehpc.observe import metrics

RESULTS = Path(__file__).resolve().parent / "results" / "throughput.csv"
COLUMNS = (
    *("date", "recipe", "world_size", "zero_autoencoder", "zero_critics"),
    *("global_batch", "micro_batch", "precision", "device", "threads"),
    *("samples_per_s", "samples_per_s_q1", "samples_per_s_q3"),
    *("s_per_kimg", "s_per_kimg_q1", "s_per_kimg_q3"),
    *("wait_share", "memory_gib", "first_step_s", "warmup_steps", "ticks", "tick_steps"),
    *("repeats", "load_at_start", "dataset_id", "flags"),
    *("torch", "deepspeed", "agehpc", "revision"),
)
TAIL_LINES = 30
NEVER = "1e9"  # a cadence in kimg that no run reaches


@dataclass(frozen=True)
class Variant:
    """One thing to measure: a recipe with its flags on a world size at ZeRO stages."""

    recipe: str
    world_size: int
    config: Config
    plan: Plan
    flags: tuple[str, ...]

    @property
    def stages(self) -> tuple[int, int]:
        """ZeRO stages of the autoencoder, or what is in its place, and of the critics or 0."""
        first, *others = (player.zero.stage for player in self.config.players.values())
        return first, others[0] if others else 0

    @property
    def name(self) -> str:
        """The variant in one line."""
        return f"{self.recipe}, {self.world_size} rank(s), ZeRO {self.stages[0]}/{self.stages[1]}"


@dataclass
class Measured:
    """The repeats of a variant that ran to their end."""

    ticks: list[list[metrics.Row]] = field(default_factory=list)
    """Rows after warm-up, by repeat."""
    first_step_s: list[float] = field(default_factory=list)
    memory_gib: list[float] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)

    def column(self, name: str) -> list[float]:
        """A figure of all ticks after warm-up."""
        return [row[name] for rows in self.ticks for row in rows]


class RunFailedError(Exception):
    """A training process that did not do its steps; the message ends in its output."""


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return this script's options, and the words after `--`."""
    words = list(argv)
    cut = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--recipe", nargs="+", required=True, help="recipes")
    add("--world-size", nargs="+", type=int, default=[1], help="ranks on this machine (default 1)")
    add(
        *("--zero", "--zero-autoencoder"),
        dest="autoencoder",
        nargs="+",
        type=int,
        help="ZeRO stages of the autoencoder, and of the critics (2 at most) where --zero-critics "
        "is not given (default: the recipe's)",
    )
    add(
        "--zero-critics",
        nargs="+",
        type=int,
        help="ZeRO stages of the critics: one for all, or one for each of --zero-autoencoder",
    )
    add("--steps", type=int, default=20, help="optimizer steps of a run (default 20)")
    add("--warmup", type=int, default=5, help="first steps that do not count (default 5)")
    add("--tick-steps", type=int, default=1, help="steps of a tick: each waits for the device")
    add("--repeats", type=int, default=3, help="process starts of each variant (default 3)")
    add("--shards", help="directory of shards (default: the demo clips, packed for the recipe)")
    add("--out", type=Path, default=RESULTS, help=f"CSV that rows are added to ({RESULTS.name})")
    add("--json", action="store_true", help="print the rows as one JSON object")
    options = parser.parse_args(words[:cut])
    if min(options.repeats, options.tick_steps, *options.world_size) < 1 or options.warmup < 1:
        parser.error("--repeats, --tick-steps, --warmup and --world-size are 1 or more")
    if options.steps - options.warmup < 2 * options.tick_steps:
        parser.error(
            f"--steps {options.steps} leaves fewer than two ticks of {options.tick_steps} step(s) "
            f"after --warmup {options.warmup}: raise --steps"
        )
    return options, words[cut + 1 :]


def stage_flags(autoencoder: list[int] | None, critics: list[int] | None) -> list[list[str]]:
    """Return the flags of each pair of ZeRO stages; one empty list for the recipe's own."""
    if autoencoder is None:
        return [["--players.critics.zero.stage", str(c)] for c in critics or ()] or [[]]
    if critics is None:
        critics = [min(stage, 2) for stage in autoencoder]
    elif len(critics) == 1:
        critics = critics * len(autoencoder)
    elif len(critics) != len(autoencoder):
        raise UsageError(
            f"--zero-critics has {len(critics)} stages and --zero-autoencoder {len(autoencoder)}: "
            "give one for all, or one for each"
        )
    return [
        ["--players.autoencoder.zero.stage", str(a), "--players.critics.zero.stage", str(c)]
        for a, c in zip(autoencoder, critics, strict=True)
    ]


def variants(options: argparse.Namespace, extra: list[str]) -> list[Variant]:
    """Return everything to measure, checked; AgehpcError for what cannot be trained."""
    stages = stage_flags(options.autoencoder, options.zero_critics)
    found = []
    for recipe, world_size, flags in itertools.product(options.recipe, options.world_size, stages):
        words = (*extra, *flags)
        config = load([recipe, *words], prog="agehpc train", extra=Section).config
        found.append(Variant(recipe, world_size, config, make_plan(config, world_size), words))
    return found


def command_of(variant: Variant, options: argparse.Namespace, shards: Path, run: Path) -> list[str]:
    """Return the command line of one training run."""
    launcher = [sys.executable]
    if variant.world_size > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone"]
        launcher += ["--nproc-per-node", str(variant.world_size)]
    batch = variant.plan.global_batch
    # Half a sample less, and a hair less than a tick: rounding must not add a step or move a tick.
    kimg = (options.steps * batch - 0.5) / 1000
    tick_kimg = options.tick_steps * batch / 1000 * (1 - 1e-6)
    measuring = {
        "--data.shards": shards,
        "--out": run,
        "--train.kimg": kimg,
        "--train.max-minutes": "none",
        "--train.save-every-kimg": NEVER,
        "--evaluate.samples": 0,
        "--observe.tick-kimg": tick_kimg,
        "--observe.samples-every-kimg": NEVER,
        "--observe.tensorboard": "false",
    }
    # The whole game from the first step: a warm-up of the recipe would be measured instead.
    for name in ("warmup-kimg", "adversarial-ramp-kimg"):
        if hasattr(variant.config.system, name.replace("-", "_")):
            measuring[f"--system.{name}"] = 0
    words = [str(word) for pair in measuring.items() for word in pair]
    return [*launcher, "-m", "agehpc", "train", variant.recipe, *variant.flags, *words]


def run_once(command: list[str], run: Path, options: argparse.Namespace, into: Measured) -> None:
    """Train once and keep the figures; RunFailedError if the run did not do its steps."""
    output = run.with_suffix(".txt")
    with output.open("wb") as file:
        started = time.time()
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            code = process.wait()
        finally:
            if process.poll() is None:  # interrupted: a launcher passes SIGTERM on to its ranks
                process.terminate()
                process.wait()
    rows = metrics.read(run / "metrics.jsonl") if code == EXIT_DONE else []
    if not rows or rows[-1]["step"] != options.steps:
        tail = "\n".join(output.read_text(errors="replace").splitlines()[-TAIL_LINES:])
        reached = f" at step {rows[-1]['step']} of {options.steps}" if rows else ""
        raise RunFailedError(f"exit code {code}{reached}; its output ends:\n{tail}")
    first_counted = options.warmup + options.tick_steps
    into.ticks.append([row for row in rows if row["step"] >= first_counted])
    if options.tick_steps == 1:
        into.first_step_s.append(rows[0]["time"] - started)
    into.memory_gib.append(max(row["memory_gib"] for row in rows))
    into.environment = json.loads((run / "environment.json").read_text())


def measure(
    todo: list[Variant], options: argparse.Namespace, shards: list[Path], folder: Path
) -> tuple[list[Measured], dict[int, str]]:
    """Run all variants in turns; return what was measured, and what failed by its number."""
    measured = [Measured() for _ in todo]
    failed: dict[int, str] = {}
    for repeat in range(options.repeats):
        for number, variant in enumerate(todo):
            if number in failed:
                continue
            run = folder / f"run-{number}-{repeat}"
            command = command_of(variant, options, shards[number], run)
            try:
                run_once(command, run, options, measured[number])
            except RunFailedError as error:
                failed[number] = str(error)
                continue
            speed = statistics.median(r["samples_per_s"] for r in measured[number].ticks[-1])
            _tell(f"{repeat + 1}/{options.repeats} {variant.name}: {speed:.2f} samples/s")
    return measured, failed


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def result(
    variant: Variant, measured: Measured, options: argparse.Namespace, about: dict[str, Any]
) -> dict[str, Any]:
    """Return the row of a variant: medians and quartiles over the ticks of all repeats."""
    environment, cluster = measured.environment, variant.config.cluster
    cores, devices = environment["cores"], environment["devices"]
    on_gpu = bool(devices) and cluster.device != "cpu"
    row: dict[str, Any] = {
        "recipe": variant.recipe,
        "world_size": variant.world_size,
        "zero_autoencoder": variant.stages[0],
        "zero_critics": variant.stages[1],
        "global_batch": variant.plan.global_batch,
        "micro_batch": variant.plan.micro_batch,
        "precision": variant.config.train.precision,
        "device": devices[0] if on_gpu else f"{environment['cpu']} ({cores} cores)",
        "threads": cluster.threads or max(1, cores // variant.world_size),
        "wait_share": _round(statistics.median(measured.column("wait_share"))),
        "memory_gib": _round(max(measured.memory_gib)),
        "first_step_s": "",
        "warmup_steps": options.warmup,
        "ticks": len(measured.column("samples_per_s")),
        "tick_steps": options.tick_steps,
        "repeats": len(measured.ticks),
        "agehpc": environment["agehpc"],
        "revision": environment["revision"] or "none",
    }
    for name in ("samples_per_s", "s_per_kimg"):
        quartiles = statistics.quantiles(measured.column(name), n=4, method="inclusive")
        for suffix, value in zip(("_q1", "", "_q3"), quartiles, strict=True):
            row[name + suffix] = _round(value)
    if measured.first_step_s:
        row["first_step_s"] = _round(statistics.median(measured.first_step_s))
    row |= {name: environment["packages"][name] for name in ("torch", "deepspeed")} | about
    return {name: row[name] for name in COLUMNS}


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def ratio(measured: Measured, first: Measured) -> list[float]:
    """Return lowest, median and highest samples/s relative to the first variant's same repeat."""
    pairs = [
        [statistics.median(row["samples_per_s"] for row in rows) for rows in repeat]
        for repeat in zip(measured.ticks, first.ticks, strict=True)
    ]
    ratios = sorted(mine / other for mine, other in pairs)
    return [_round(r) for r in (ratios[0], statistics.median(ratios), ratios[-1])]


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows for people to read."""
    lines = [
        f"{'recipe':<18} {'ranks':>5} {'ZeRO':>5} {'samples/s (quartiles)':>28} {'s/kimg':>8} "
        f"{'wait':>6} {'GiB':>6} {'first step':>10}  ratio to the first (range)"
    ]
    for row in rows:
        speed = "{samples_per_s:.4g} ({samples_per_s_q1:.4g}-{samples_per_s_q3:.4g})".format(**row)
        low, middle, high = row["ratio"]
        first = f"{row['first_step_s']:.1f} s" if row["first_step_s"] != "" else "-"
        lines.append(
            f"{row['recipe']:<18} {row['world_size']:>5} "
            f"{row['zero_autoencoder']:>3}/{row['zero_critics']} {speed:>28} "
            f"{row['s_per_kimg']:>8.4g} {row['wait_share']:>6.1%} {row['memory_gib']:>6.2f} "
            f"{first:>10}  {middle:.2f} ({low:.2f}-{high:.2f})"
        )
    return "\n".join(lines)


def bench(options: argparse.Namespace, extra: list[str]) -> int:
    """Measure, print and write down."""
    todo = variants(options, extra)
    append(options.out, COLUMNS, [])  # what cannot be written is better known before than after
    about = {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "load_at_start": _round(os.getloadavg()[0]),
        "flags": " ".join(extra),
    }
    with tempfile.TemporaryDirectory(prefix="agehpc-bench-") as name:
        folder = Path(name)
        shards = [
            Path(options.shards)
            if options.shards
            else pack_demo(v.config.data.kind, v.config.data.size, folder)
            for v in todo
        ]
        ids = [read_manifest(path).dataset_id for path in shards]
        measured, failed = measure(todo, options, shards, folder)
    rows = []
    for number, variant in enumerate(todo):
        if number in failed:
            continue
        row = result(variant, measured[number], options, about | {"dataset_id": ids[number]})
        first = next(
            n for n, v in enumerate(todo) if v.recipe == variant.recipe and n not in failed
        )
        rows.append(row | {"ratio": ratio(measured[number], measured[first])})
    if rows:
        append(options.out, COLUMNS, [{name: row[name] for name in COLUMNS} for row in rows])
    if options.json:
        errors = {todo[number].name: text for number, text in failed.items()}
        print(json.dumps({"rows": rows, "failed": errors}, indent=2))
    elif rows:
        print(table(rows))
    for number, text in failed.items():
        _tell(f"error: {todo[number].name}: {text}")
    return EXIT_FAILURE if failed else EXIT_DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script."""
    options, extra = parse(sys.argv[1:] if argv is None else argv)
    try:
        return bench(options, extra)
    except RunFailedError as error:
        _tell(f"error: {error}")
        return EXIT_FAILURE
    except AgehpcError as error:
        _tell(f"error: {error}")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
