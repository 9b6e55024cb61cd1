"""The sweep that a command line asks for, with every check that needs no Ray."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from agehpc.config.load import Loaded
from agehpc.config.schema import Config
from agehpc.errors import UsageError
from agehpc_tune import spec
from agehpc_tune.objectives import Objective, objectives
from agehpc_tune.search import check_search
from agehpc_tune.spaces import Space

if TYPE_CHECKING:
    from agehpc_tune.command import TuneFlags

_MODES = ("min", "max")


@dataclass(frozen=True)
class Plan:
    """A sweep that can start."""

    spec: spec.Spec
    base: Config
    space: Space


def make(loaded: "Loaded[TuneFlags]", cpus: int, nodes: int) -> Plan:
    """Return the sweep of a command line; UsageError for what it cannot be.

    Args:
        loaded: the recipe, its settings and the flags.
        cpus: of this node.
        nodes: as this one.
    """
    flags = loaded.extra
    if not loaded.config.data.shards:
        raise UsageError(
            "--data.shards is not set: give the directory that `agehpc data pack` made"
        )
    if flags.space is None:
        raise UsageError("--space is not set: give the YAML file of what is searched")
    base = _without_clock(loaded)
    space = Space.load(Path(flags.space), base)
    targets = _targets(flags.objective, base)
    check_search(flags.search, space, targets, flags.trials)
    trials = len(space.grid()) if flags.search == "grid" else flags.trials
    resources, concurrent = _resources(flags, base, cpus, nodes)
    if base.cluster.threads == 0:
        # The score of a run depends on how many threads add its sums up.
        threads = max(1, resources.cpus // resources.ranks)
        threaded = base.cluster.model_copy(update={"threads": threads})
        base = base.model_copy(update={"cluster": threaded})
    made = spec.Spec(
        recipe=base.run.recipe,
        search=flags.search,
        space=space.describe(),
        objectives=tuple(spec.Target(name=one.name, mode=one.mode) for one in targets),
        trials=trials,
        seed=flags.seed,
        asha=_asha(flags, base, space),
        resources=resources,
        max_concurrent=min(concurrent, trials),
        cwd=str(Path.cwd()),
        versions=spec.versions(),
    )
    return Plan(made, spec.absolute(base), space)


def _without_clock(loaded: "Loaded[TuneFlags]") -> Config:
    """Return the base configuration, whose trials end by kimg: by a clock no score comes again."""
    config = loaded.config
    if config.train.max_minutes is None:
        return config
    if not loaded.provenance["train.max_minutes"].startswith("recipe"):
        raise UsageError(
            f"--train.max-minutes {config.train.max_minutes:g}: trials that end by the clock do "
            "not compare, and their scores do not come again; set --train.kimg"
        )
    endless = config.train.model_copy(update={"max_minutes": None})
    return config.model_copy(update={"train": endless})


def _targets(words: tuple[str, ...], base: Config) -> list[Objective]:
    parts = [word.partition(":") for word in words]
    for name, _, mode in parts:
        if mode and mode not in _MODES:
            raise UsageError(f"--objective {name}:{mode}: choose min or max")
    found = objectives([name for name, _, _ in parts], base)
    modes = [mode for _, _, mode in parts] or [""]
    return [
        replace(one, mode=mode) if mode else one for one, mode in zip(found, modes, strict=True)
    ]


def _resources(
    flags: "TuneFlags", base: Config, cpus: int, nodes: int
) -> tuple[spec.Resources, int]:
    """Return what a trial takes, and how many run at once."""
    gpus = flags.gpus_per_trial
    ranks = flags.ranks_per_trial or max(1, int(gpus))
    spread = flags.nodes_per_trial
    if spread > nodes:
        raise UsageError(f"--nodes-per-trial {spread}: the sweep has {nodes} nodes")
    if ranks % spread:
        raise UsageError(f"--ranks-per-trial {ranks} do not spread over {spread} nodes evenly")
    if gpus and gpus != ranks and not (gpus < 1 and ranks == 1):
        raise UsageError(
            f"--gpus-per-trial {gpus:g} and {ranks} ranks: a rank computes on one GPU; give as "
            "many ranks as GPUs, or less than one GPU to a single rank"
        )
    room = _room(gpus, nodes) if gpus else None
    at_once = flags.max_concurrent
    if flags.cpus_per_trial is not None:
        own = flags.cpus_per_trial
    else:
        if at_once is None:
            at_once = room or 1
        threads = base.cluster.threads
        own = ranks * threads if threads else max(ranks, cpus * nodes // at_once // ranks * ranks)
    if own > cpus * spread:
        where = f"{spread} nodes have" if spread > 1 else "this machine has"
        raise UsageError(f"--cpus-per-trial: a trial takes {own}, and {where} {cpus * spread} CPUs")
    if own % spread:
        raise UsageError(f"--cpus-per-trial {own} do not spread over {spread} nodes evenly")
    fitting = max(1, min(cpus * nodes // own, room or cpus * nodes))
    resources = spec.Resources(ranks=ranks, nodes=spread, cpus=own, gpus=gpus)
    if at_once is None:
        return resources, fitting
    if at_once > fitting:
        raise UsageError(
            f"--max-concurrent {at_once}: {fitting} trials of {own} CPUs"
            f"{f' and {gpus:g} GPUs' if gpus else ''} fit at once; lower it, or what a trial takes"
        )
    return resources, at_once


def _room(gpus: float, nodes: int) -> int:
    """Return how many trials the GPUs let run at once."""
    from agehpc_tune import cluster

    there = cluster.gpus() * nodes
    room = int(there / gpus + 1e-9)
    if room == 0:
        raise UsageError(f"--gpus-per-trial {gpus:g}: there are {there} GPUs (torch sees them)")
    return room


def _asha(flags: "TuneFlags", base: Config, space: Space) -> spec.Asha | None:
    every, kimg = base.evaluate.every_kimg, base.train.kimg
    if flags.scheduler == "none":
        if flags.grace_kimg is not None:
            raise UsageError("--grace-kimg goes with --scheduler asha")
        return None
    if not 0 < every < kimg:
        raise UsageError(
            f"--scheduler asha compares trials on their way: set --evaluate.every-kimg below the "
            f"{kimg:g} of --train.kimg (it is {every:g})"
        )
    if "train.kimg" in space.keys or "evaluate.every_kimg" in space.keys:
        raise UsageError("--scheduler asha compares trials at equal kimg: do not search train.kimg")
    grace = flags.grace_kimg or every
    if grace >= kimg:
        raise UsageError(f"--grace-kimg {grace:g} must be below the {kimg:g} of --train.kimg")
    return spec.Asha(grace_kimg=grace, reduction=flags.reduction)
