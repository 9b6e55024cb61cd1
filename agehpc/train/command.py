"""`agehpc train RECIPE --data.shards DIR --out RUN [flags]`: train, or resume the run in RUN."""

import contextlib
import gc
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from agehpc.cluster.environment import Environment, resolve
from agehpc.config.load import load
from agehpc.config.plan import Plan, make_plan
from agehpc.config.rules import check_labels
from agehpc.config.schema import Config, DataConfig, Section, identity_hash
from agehpc.errors import EXIT_DONE, AgehpcError, LostRankError, UsageError

if TYPE_CHECKING:  # torch takes seconds to import: --help and flag errors go without
    from agehpc.cluster.groups import Ranks
    from agehpc.observe.console import Console
    from agehpc.train.loop import Trainer


class TrainFlags(Section):
    """The command's own flags."""

    out: str | None = None
    """Run directory: new, empty, or a run of the same configuration, which is then resumed."""
    dry_run: bool = False
    """Run every check, print the plan and write nothing."""
    world_size: Annotated[int, Field(ge=1)] | None = None
    """With --dry-run: plan for this many ranks."""
    json_: bool = False
    """With --dry-run: print the plan as JSON."""


def main(argv: list[str]) -> int:
    """Run the command."""
    env = resolve(os.environ)
    try:
        loaded = load(argv, prog="agehpc train", extra=TrainFlags)
        flags = loaded.extra
        _check_flags(loaded.config, flags)
        if flags.dry_run:
            return _dry_run(loaded.config, flags, env)
    except AgehpcError as error:
        error.silent = env.rank > 0  # every rank meets the same error
        raise
    from agehpc.cluster.collectives import is_lost_rank
    from agehpc.cluster.groups import choose_device, process_group
    from agehpc.train.engines import destroy_groups, import_deepspeed

    assert flags.out is not None
    cluster = loaded.config.cluster
    import_deepspeed(choose_device(env, cluster.device))
    settings = cluster.device, cluster.threads, cluster.timeout_minutes
    try:
        with process_group(env, *settings, destroy=destroy_groups) as ranks:
            return _train(loaded.config, Path(flags.out), ranks)
    except AgehpcError as error:
        raise error.with_traceback(None)  # noqa: B904 - whose frames hold the engines
    except RuntimeError as error:
        if not is_lost_rank(error):
            raise
        raise _lost(error, env) from None
    finally:
        gc.collect()  # engines, which refer to themselves, and with them the last of the groups


def _lost(error: RuntimeError, env: Environment) -> LostRankError:
    lost = LostRankError(
        f"rank {env.rank} on {env.hostname} has lost another rank, which ended, hangs, or was on a "
        f"node that failed ({str(error).splitlines()[0]}); started again, the run goes on from its "
        "newest checkpoint"
    )
    lost.silent = env.local_rank > 0  # one line a node is enough
    return lost


def _check_flags(config: Config, flags: TrainFlags) -> None:
    if not config.data.shards:
        raise UsageError(
            "--data.shards is not set: give the directory that `agehpc data pack` made "
            "(`agehpc data demo DIR` makes one from real clips)"
        )
    if flags.out is None and not flags.dry_run:
        raise UsageError("--out is not set: give the run directory")
    if flags.world_size is not None and not flags.dry_run:
        raise UsageError(
            "--world-size goes with --dry-run; ranks are started by torchrun "
            "(--nproc-per-node) or srun"
        )


def _resolve(config: Config) -> Config:
    """The configuration with the data's identity filled in, once the shards are found fit."""
    from agehpc.data.check import check, check_labelled
    from agehpc.data.mixture import read_shards
    from agehpc.data.shards import url_of

    data = check(config.data, read_shards(config.data))
    # Absolute, so that the run directory says where its data lies whoever reads it.
    folders = tuple(url_of(folder) or str(Path(folder).resolve()) for folder in data.folders)
    data = DataConfig.model_validate(data.model_dump() | {"shards": folders})
    config = config.model_copy(update={"data": data})
    check_labels(config)
    if config.model.conditional:
        check_labelled(data)
    return config


def _dry_run(config: Config, flags: TrainFlags, env: Environment) -> int:
    from agehpc.cluster.groups import choose_device
    from agehpc.estimate import estimate
    from agehpc.evaluate import weights
    from agehpc.evaluate.protocols import PROTOCOLS
    from agehpc.observe.console import Console, size
    from agehpc.train import run_directory

    config = _resolve(config)
    plan = make_plan(config, flags.world_size or env.world_size)
    if config.evaluate.samples:
        for extractor in dict.fromkeys(PROTOCOLS[m].extractor for m in config.evaluate.metrics):
            weights.find(extractor)
    if flags.out is not None:
        run_directory.check(Path(flags.out), config)
    if flags.world_size is None:
        choose_device(env, config.cluster.device)
    needs = estimate(config, plan)
    if env.rank > 0:
        return EXIT_DONE
    if flags.json_:
        told = {
            "recipe": config.run.recipe,
            "hash": identity_hash(config),
            "world_size": plan.world_size,
            "micro_batch": plan.micro_batch,
            "accumulation": plan.accumulation,
            "global_batch": plan.global_batch,
            "steps": plan.steps,
            "parameters": needs.parameters,
            "state_bytes_by_zero_stage": needs.states,
            "activation_bytes": needs.activations,
            "total_bytes": needs.peak,
            "checkpoint_bytes": needs.checkpoint,
        }
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
        return EXIT_DONE
    console = Console()
    console.rows(
        f"plan of {config.run.recipe} (hash {identity_hash(config)}); nothing was written",
        _batches(config, plan),
    )
    rows: dict[str, Any] = {}
    for name, states in needs.states.items():
        stage = config.players[name].zero.stage
        cells = "   ".join(
            f"{'*' if s == stage else ' '}stage {s} {size(b)}" for s, b in enumerate(states)
        )
        rows[name] = f"{needs.parameters[name] / 1e6:.2f} M parameters   {cells}"
    rows["activations"] = f"{size(needs.activations)} at the fullest moment of a step"
    rows["total"] = f"{size(needs.peak)} a rank at that moment, at the stages marked *"
    copied = ", and a copy in rank 0's memory while it is written"
    rows["checkpoint"] = size(needs.checkpoint) + copied * config.train.async_save
    console.rows("memory a rank (weights, gradients, optimizer, average)", rows)
    return EXIT_DONE


def _batches(config: Config, plan: Plan) -> dict[str, Any]:
    data = config.data
    shape = f"{data.channels} x {data.frames} x " if data.kind == "video" else f"{data.channels} x "
    return {
        "data": f"{data.where} ({shape}{data.size} x {data.size}, id {data.dataset_id})",
        "batch": f"{plan.global_batch} = {plan.world_size} ranks x {plan.micro_batch} samples "
        f"x {plan.accumulation} micro-batches",
        "length": f"{config.train.kimg:g} kimg = {plan.steps} steps",
        "ZeRO": ", ".join(f"{n} stage {p.zero.stage}" for n, p in config.players.items()),
        "precision": config.train.precision,
    }


def _train(config: Config, run: Path, ranks: "Ranks") -> int:
    import torch.distributed as dist

    from agehpc.cluster.collectives import together
    from agehpc.observe.console import Console, close_logging, setup_logging
    from agehpc.train import run_directory
    from agehpc.train.loop import Trainer

    hosts: list[Any] = [None] * ranks.env.world_size
    dist.all_gather_object(hosts, ranks.env.hostname)
    with contextlib.ExitStack() as stack:
        console = stack.enter_context(Console(speaks=ranks.env.rank == 0))

        def prepare() -> tuple[Config, Plan, Path | None]:
            resolved = _resolve(config)
            plan = make_plan(resolved, ranks.env.world_size)
            newest = stack.enter_context(
                run_directory.opened(run, resolved, list(dict.fromkeys(hosts)), console.say)
            )
            return resolved, plan, newest

        config, plan, newest = together(prepare)
        setup_logging(run, ranks.env.rank)
        stack.callback(close_logging)
        trainer = Trainer(config, plan, ranks, run, newest, console)
        _banner(console, trainer, newest)
        with trainer.health as health:
            code = health.ended(trainer.fit(), whole=not trainer.stopped)
        _results(console, run, trainer)
    return code


def _resumed(newest: Path, trainer: "Trainer") -> str:
    from agehpc import checkpoints

    ranks = checkpoints.read_state(newest)["world_size"]
    others = "" if ranks == trainer.plan.world_size else f", saved on {ranks} ranks"
    return f"resumed from {newest.name} at {trainer.progress.kimg:g} kimg{others}"


def _banner(console: "Console", trainer: "Trainer", newest: Path | None) -> None:
    from agehpc.train.checkpoint import changes

    config, plan = trainer.config, trainer.plan
    rows = {
        "run": f"{trainer.run} (hash {identity_hash(config)})",
        **_batches(config, plan),
        "players": ", ".join(f"{n} {c / 1e6:.2f} M" for n, c in trainer.parameters.items()),
        "device": f"{trainer.ranks.device}, {_threads()} threads a rank",
        "start": "new run" if newest is None else _resumed(newest, trainer),
    }
    if newest is not None and (told := changes(newest, plan)):
        rows["changed"] = told
    console.rows(f"agehpc train {config.run.recipe}", rows)


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _results(console: "Console", run: Path, trainer: "Trainer") -> None:
    from agehpc import checkpoints

    console.close()
    newest = checkpoints.newest(run)
    rows: dict[str, Any] = {"checkpoint": newest}
    for suffix in ("mp4", "png"):
        grids = sorted((run / "samples").glob(f"step-*-grid.{suffix}"))
        if grids:
            seen = trainer.snapshot.captions if trainer.snapshot else ()
            rows[suffix] = f"{grids[-1]} ({' | '.join(seen)})" if seen else grids[-1]
    state = "stopped; run the same command again to go on" if trainer.stopped else "done"
    console.rows(f"{state} at {trainer.progress.kimg:g} kimg", rows)
