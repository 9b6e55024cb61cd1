"""`agehpc tune RECIPE --space FILE --data.shards DIR --out SWEEP [flags]`: search settings.

Everything that can be wrong is found before anything starts, with the checks of `agehpc train`.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from agehpc.cluster.environment import Environment, resolve
from agehpc.config.load import Loaded, load, parse_command
from agehpc.config.schema import Config
from agehpc.config.section import Count, Positive, Section
from agehpc.errors import EXIT_DONE, AgehpcError, RunError, UsageError
from agehpc.files import locked

SEED = Annotated[int, Field(ge=0, lt=2**32)]


class ResumeFlags(Section):
    """Goes on with the sweep in --out."""

    out: str
    """The sweep directory."""
    resume: bool = False
    """Go on with the sweep in --out as it was started."""
    trials: Count | None = None
    """Trainings in all, more than before; default as many as before."""
    max_concurrent: Count | None = None
    """Trials at once; default as many as before."""
    dry_run: bool = False
    """Say what is left, and start nothing."""
    json_: bool = False
    """Print the trials as JSON at the end."""


class TuneFlags(Section):
    """The command's own flags."""

    space: str | None = None
    """YAML file that says which keys are searched, and where."""
    search: Literal["bayes", "tpe", "bayesopt", "random", "grid"] = "bayes"
    """bayes: a Gaussian process over all kinds of keys; tpe: tree of Parzen estimators; bayesopt:
    the bayesian-optimization package, ranges only; random; grid."""
    objective: tuple[str, ...] = ()
    """Figures of the evaluations, or samples_per_s, memory_gib: NAME or NAME:min, NAME:max. Several
    give a Pareto front. Default the first that the evaluations give."""
    trials: Count = 20
    """Trainings in all."""
    max_concurrent: Count | None = None
    """Trainings at once; default as many as the GPUs, or CPUs, that are asked for let."""
    ranks_per_trial: Count | None = None
    """Processes of a trial; default one a GPU, else one."""
    nodes_per_trial: Count = 1
    """Machines that they are spread over."""
    cpus_per_trial: Count | None = None
    """CPUs of a trial; default its share of the machine's."""
    gpus_per_trial: Annotated[float, Field(ge=0)] = 0.0
    """GPUs of a trial; less than one lets trials share one."""
    scheduler: Literal["none", "asha"] = "none"
    """asha stops trials early that are worse than others at the same kimg."""
    grace_kimg: Positive | None = None
    """With asha: kimg that every trial gets; default --evaluate.every-kimg."""
    reduction: Annotated[int, Field(ge=2)] = 3
    """With asha: one of so many trials goes on at each rung, and rungs lie so many times apart."""
    seed: SEED = 0
    """Seed of the search; the trials' own is --run.seed."""
    out: str | None = None
    """Sweep directory: new, empty, or the same sweep, which then goes on."""
    resume: bool = False
    """Refuse to start anew where --out holds no sweep."""
    dry_run: bool = False
    """Run every check, print the plan and write nothing."""
    json_: bool = False
    """Print the plan, or at the end the trials, as JSON."""


def main(argv: list[str]) -> int:
    """Run the command."""
    if missing := [name for name in ("ray", "optuna") if find_spec(name) is None]:
        raise UsageError(
            f"agehpc tune needs {' and '.join(missing)}, not installed: pip install 'agehpc[tune]'"
        )
    from agehpc_tune import cluster

    place = resolve(os.environ)
    cluster.check_place(place)
    cpus = cluster.cores(os.environ, place)
    try:
        if "--resume" in argv and argv[0].startswith("-"):
            own = parse_command(argv, prog="agehpc tune --resume", model=ResumeFlags)
            out = Path(own.out).resolve()
            if place.rank == 0:
                return _resume(own, out, place, cpus)
        else:
            loaded = load(argv, prog="agehpc tune", extra=TuneFlags)
            if loaded.extra.out is None and not loaded.extra.dry_run:
                raise UsageError("--out is not set: give the sweep directory")
            out = Path(loaded.extra.out or "").resolve()
            if place.rank == 0:
                return _start(loaded, out, place, cpus)
    except AgehpcError as error:
        error.silent = place.rank > 0  # every node meets the same error
        raise
    return cluster.join(place, cpus, cluster.gpus(), out)


def _start(loaded: Loaded[TuneFlags], out: Path, place: Environment, cpus: int) -> int:
    from agehpc_tune import plan, spec

    flags = loaded.extra
    made = plan.make(loaded, cpus, place.world_size)
    if flags.resume and not spec.is_sweep(out):
        raise RunError(f"--out {out} holds no sweep to resume")
    if flags.out is not None:
        spec.check_out(out, made.spec, made.base)
    again = spec.is_sweep(out)
    if not again:
        _check_training(made.base, made.spec, out)
    if flags.dry_run:
        return _tell_plan(made, cpus * place.world_size, flags.json_)
    assert flags.space is not None
    out.mkdir(parents=True, exist_ok=True)
    with locked(out, "searched"):
        if not again:
            spec.write(out, made.spec, made.base, Path(flags.space))
        return _run(out, made, place, cpus, flags.json_)


def _resume(flags: ResumeFlags, out: Path, place: Environment, cpus: int) -> int:
    from agehpc_tune import plan, spec
    from agehpc_tune.record import Record

    held, base, space = spec.read(out)
    if flags.max_concurrent:
        held = held.model_copy(update={"max_concurrent": flags.max_concurrent})
    if flags.trials is not None:
        if flags.trials < held.trials:
            raise UsageError(
                f"--trials {flags.trials}: the sweep in {out} is one of {held.trials}; give more"
            )
        held = held.model_copy(update={"trials": flags.trials})
    made = plan.Plan(held, base, space)
    if flags.dry_run:
        trials = Record(out, held.targets, space.keys).trials
        ended = sum(trial.ended for trial in trials)
        sys.stdout.write(f"{ended} of {held.trials} trials have ended\n")
        return EXIT_DONE
    with locked(out, "searched"):
        spec.rewrite(out, held)
        return _run(out, made, place, cpus, flags.json_)


def _run(out: Path, made: Any, place: Environment, cpus: int, as_json: bool) -> int:
    from agehpc_tune import cluster, sweep
    from agehpc_tune.report import write_report

    (out / "ray").mkdir(exist_ok=True)
    gpus = cluster.gpus() if made.spec.resources.gpus else 0
    record, code = sweep.run(out, made.spec, made.base, made.space, place, cpus, gpus)
    ended = sum(trial.ended for trial in record.trials)
    best = record.best()
    if best is not None and ended == made.spec.trials:
        write_report(out)
    if as_json:
        told = {
            "out": str(out),
            "trials": [asdict(trial) | {"run": str(record.run(trial))} for trial in record.trials],
            "best": None if best is None else best.number,
        }
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
        return code
    say = sys.stdout.write
    say(f"{ended} of {made.spec.trials} trials have ended")
    say(f"; go on with agehpc tune --resume --out {out}\n" if ended < made.spec.trials else "\n")
    if best is None and ended == made.spec.trials:
        say("no trial was trained to its end; their logs are trials/*/logs/trial.log\n")
    if best is None:
        return code
    scores = ", ".join(f"{name} {value:.5g}" for name, value in best.objectives.items())
    say(f"best: trial {best.number}, {scores}\n")
    ranks = made.spec.resources.ranks
    launch = "" if ranks == 1 else f"  on {ranks} ranks"
    say(f"  agehpc train {made.spec.recipe} --config {out / 'best.yaml'} --out RUN{launch}\n")
    if ended == made.spec.trials:
        say(f"  {out / 'report.html'}\n")
    return code


def _check_training(base: Config, held: Any, out: Path) -> None:
    """Raise what `agehpc train --dry-run` of the base configuration says."""
    import tempfile

    from agehpc.config.text import dump
    from agehpc_tune.ranks import scrubbed

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "base.yaml"
        file.write_text(dump(base))
        words = ["train", held.recipe, "--config", str(file), "--dry-run", "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "agehpc", *words, "--world-size", str(held.resources.ranks)],
            capture_output=True,
            text=True,
            env=scrubbed(os.environ),
        )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no output"]
        error = AgehpcError(lines[-1].removeprefix("error: "))
        error.exit_code = done.returncode
        raise error


def _tell_plan(made: Any, cpus: int, as_json: bool) -> int:
    held, base = made.spec, made.base
    if as_json:
        told = held.model_dump(mode="json") | {"cpus": cpus}
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
        return EXIT_DONE
    takes = held.resources
    targets = ", ".join(f"{o.name} ({o.mode})" for o in held.targets)
    rows = {
        "trials": f"{held.trials} of {base.train.kimg:g} kimg, {held.max_concurrent} at once",
        "search": f"{held.search}, seed {held.seed}, of {', '.join(made.space.keys)}",
        "objectives": targets,
        "early stops": "none"
        if held.asha is None
        else f"asha from {held.asha.grace_kimg:g} kimg, one of {held.asha.reduction} goes on",
        "a trial": f"{takes.ranks} ranks, {takes.nodes} nodes, {takes.cpus} CPUs, {takes.gpus:g} "
        f"GPUs; here are {cpus} CPUs",
    }
    sys.stdout.write(f"plan of a sweep over {held.recipe}; nothing was written\n")
    sys.stdout.writelines(f"  {name:<11}  {text}\n" for name, text in rows.items())
    return EXIT_DONE
