"""From engines to a checkpoint on disk, and back."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NoReturn

import torch.distributed as dist
from torch import Tensor, nn

from agehpc import best as bests
from agehpc import checkpoints, model_file
from agehpc.best import Best
from agehpc.cluster.collectives import together
from agehpc.config.plan import Plan
from agehpc.config.schema import Config, identity_hash
from agehpc.errors import RunError
from agehpc.models.ema import Ema
from agehpc.systems.base import System
from agehpc.train.engines import MOMENTS, Engine
from agehpc.train.guard import Trouble, not_finite
from agehpc.train.progress import Progress, progress_of
from agehpc.train.rollback import last_good
from agehpc.train.snapshot import Snapshot
from agehpc.train.writer import Writer

ABOUT = ("hash", "dataset_id", "world_size", "global_batch")
"""What state.json holds besides the counters."""


def averaged_weights(engine: Engine, ema: Ema | None) -> dict[str, Tensor]:
    """Whole averaged weights of a player; the live ones where it keeps no average. Collective."""
    return engine.weights() if ema is None else engine.gather(ema.averages)


def model_weights(
    system: System, engines: Mapping[str, Engine], emas: Mapping[str, Ema]
) -> dict[str, Tensor]:
    """Averaged weights of the players that are the trained model, `<player>.<name>`. Collective."""
    return {
        f"{player}.{name}": tensor
        for player in system.models
        for name, tensor in averaged_weights(engines[player], emas.get(player)).items()
    }


def save(
    run: Path,
    config: Config,
    progress: Progress,
    system: System,
    engines: Mapping[str, Engine],
    emas: Mapping[str, Ema],
    snapshot: Snapshot | None,
    best: Best | None,
    quiet: int,
    writer: Writer,
) -> Trouble | None:
    """Begin to write a checkpoint, after which old ones go. Collective.

    What is not finite is not written. Norm statistics become the average over ranks, here and in
    the live modules.

    Args:
        run: the run directory.
        config: the run's configuration.
        progress: the counters.
        system: says which players the trained model is made of, and what it remembers itself.
        engines: one a player.
        emas: averages of the players that keep them.
        snapshot: rank 0's; it takes the model's averaged weights. None on other ranks.
        best: the best checkpoint, maybe this one; it stays.
        quiet: step of the last quiet tick. Where the guard may go back, the checkpoint that is
            good by it stays too.
        writer: has settled what it wrote before.
    """
    tensors: dict[str, dict[str, Tensor]] = {}
    for name, engine in engines.items():
        engine.average_buffers()
        tensors[name] = engine.weights() | engine.buffers()
        tensors[f"{name}.optim"] = engine.moments()
        if name in emas and name not in system.models:
            tensors[f"{name}.ema"] = averaged_weights(engine, emas[name])
    if remembered := system.state():
        tensors["system"] = remembered
    averaged = model_weights(system, engines, emas)
    state: dict[str, Any] = {
        **asdict(progress),
        "hash": identity_hash(config),
        "dataset_id": config.data.dataset_id,
        "world_size": dist.get_world_size(),
        "global_batch": config.train.global_batch,
    }

    def finish(path: Path) -> None:
        checkpoints.export(run, path)
        if best is not None and best.step == progress.step:
            bests.write(run, best)  # before it, a kill leaves the one before; both are there
        kept = bests.kept(best)
        if config.train.guard.action == "rollback" and (good := last_good(run, quiet)):
            kept.add(good.name)
        checkpoints.prune(run, config.train.keep_last, kept)

    def begin() -> Trouble | None:
        assert snapshot is not None
        if trouble := _not_finite(tensors, progress):
            return trouble
        tensors["ema"] = snapshot.refresh(averaged)
        about = {"ema": model_file.about(config, progress.step, progress.kimg)}
        note = ", the best so far" if best is not None and best.step == progress.step else ""
        writer.start(progress.step, tensors, state, about, finish, note)
        return None

    return together(begin)


def _not_finite(tensors: Mapping[str, Mapping[str, Tensor]], progress: Progress) -> Trouble | None:
    # Losses tell of the weights before the step: an overflow in its backward shows here first.
    for file, values in tensors.items():
        for name, value in values.items():
            finite = value.isfinite()
            if not finite.all():
                return not_finite(f"{name} of {file}", float(value[~finite][0]), progress.step)
    return None


def changes(checkpoint: Path, plan: Plan) -> str:
    """What this start does otherwise than the one that wrote a checkpoint; empty where nothing."""
    state = checkpoints.read_state(checkpoint)
    ranks, batch = state.get("world_size"), state.get("global_batch")
    told = []
    if ranks not in (None, plan.world_size):
        told.append(f"{plan.world_size} ranks after {ranks}")
    if batch not in (None, plan.global_batch):
        told.append(
            f"global batch {plan.global_batch} after {batch} (samples go on in their order, "
            "learning rates stay)"
        )
    return ", ".join(told)


def restore_modules(
    checkpoint: Path, config: Config, system: System, modules: Mapping[str, nn.Module]
) -> Progress:
    """Load weights and buffers into fresh modules, before engines shard them.

    Raises:
        RunError: a checkpoint of another run or network, or one that holds less or more than a
            run like this saves: nothing of it is left out.
    """
    state = checkpoints.read_state(checkpoint)
    if state.get("hash") not in (None, identity_hash(config)):
        raise RunError(
            f"{checkpoint} belongs to another run (hash {state['hash']}, this configuration has "
            f"{identity_hash(config)}); give a new directory with --out"
        )
    _whole(checkpoint, state, system, modules)
    if state["dataset_id"] != config.data.dataset_id:
        _refuse(checkpoint, f"it has seen the data {state['dataset_id']}")
    for name, module in modules.items():
        module.load_state_dict(checkpoints.read_tensors(checkpoint, name))
    return progress_of(state)


def _whole(
    checkpoint: Path, state: Mapping[str, Any], system: System, modules: Mapping[str, nn.Module]
) -> None:
    """Raise RunError unless a checkpoint holds what a run with these players saves, no more."""
    counters = {field.name for field in fields(Progress)}
    _same(checkpoint, "state.json", counters | {*ABOUT}, state)
    found = {path.stem: checkpoints.read_shapes(path) for path in checkpoint.glob("*.safetensors")}
    wanted: dict[str, dict[str, list[int]]] = {"ema": {}}
    for name, module in modules.items():
        weights = {n: [*p.shape] for n, p in module.named_parameters()}
        all_of_it = weights | {n: [*b.shape] for n, b in module.named_buffers()}
        wanted[name] = all_of_it
        wanted[f"{name}.optim"] = {
            f"{n}.{m}": shape for n, shape in weights.items() for m in MOMENTS
        }
        if name in system.models:
            wanted["ema"] |= {f"{name}.{n}": shape for n, shape in all_of_it.items()}
        elif f"{name}.ema" in found:  # whether a player keeps an average may change
            wanted[f"{name}.ema"] = weights
    # Its system knows what it remembers.
    _same(checkpoint, "the folder", wanted, {n: t for n, t in found.items() if n != "system"})
    for file, tensors in wanted.items():
        _same(checkpoint, f"{file}.safetensors", tensors, found[file])
        for name, shape in tensors.items():
            if found[file][name] != shape:
                _refuse(
                    checkpoint, f"{name} in {file}.safetensors is {found[file][name]}, not {shape}"
                )


def _same(checkpoint: Path, where: str, wanted: Collection[str], found: Collection[str]) -> None:
    if missing := sorted(set(wanted) - set(found)):
        _refuse(checkpoint, f"{where} lacks {missing[0]}")
    if unknown := sorted(set(found) - set(wanted)):
        _refuse(checkpoint, f"{where} holds {unknown[0]}, which nothing reads")


def _refuse(checkpoint: Path, what: str) -> NoReturn:
    raise RunError(
        f"{checkpoint} is not what this run saves: {what}; put back the files that belong "
        "together, or delete it to go on from the one before it"
    )


def restore_weights(checkpoint: Path, engines: Mapping[str, Engine]) -> None:
    """Load weights and buffers into engines that have trained. Every rank must call it."""
    for name, engine in engines.items():
        engine.load_weights(checkpoints.read_tensors(checkpoint, name))


def restore_engines(
    checkpoint: Path,
    system: System,
    engines: Mapping[str, Engine],
    emas: Mapping[str, Ema],
    step: int,
) -> None:
    """Load moments, averages and the system's own state. Every rank must call it."""
    steps = dict.fromkeys(engines, 0)
    for turn in system.turns:
        steps[turn.player] += turn.repeats * step
    for name, engine in engines.items():
        engine.load_moments(checkpoints.read_tensors(checkpoint, f"{name}.optim"), steps[name])
        # An average that is kept only from this start on begins with the weights.
        if name in emas and (whole := _average(checkpoint, name, name in system.models)):
            names = emas[name].averages
            emas[name].averages = {n: t for n, t in engine.scatter(whole).items() if n in names}
    remembered: dict[str, Tensor] = {}
    if (checkpoint / "system.safetensors").is_file():
        remembered = checkpoints.read_tensors(checkpoint, "system")
    try:
        system.load_state(remembered)
    except KeyError as error:
        _refuse(checkpoint, f"system.safetensors lacks {error.args[0]}")
    _same(checkpoint, "system.safetensors", system.state(), remembered)


def _average(checkpoint: Path, player: str, is_model: bool) -> dict[str, Tensor]:
    """A player's averages in a checkpoint; empty where it has none."""
    file = "ema" if is_model else f"{player}.ema"
    if not (checkpoint / f"{file}.safetensors").is_file():
        return {}
    tensors = checkpoints.read_tensors(checkpoint, file)
    if not is_model:
        return tensors
    prefix = f"{player}."
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
