"""From engines to a checkpoint on disk, and back."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from agehpc import best as bests
from agehpc import checkpoints
from agehpc.best import Best
from agehpc.cluster.collectives import together
from agehpc.config.schema import Config, identity_hash
from agehpc.errors import RunError
from agehpc.models.ema import Ema
from agehpc.systems.base import System
from agehpc.train.engines import Engine
from agehpc.train.guard import Trouble, not_finite
from agehpc.train.progress import Progress, progress_of
from agehpc.train.rollback import last_good
from agehpc.train.snapshot import Snapshot


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
) -> Path | Trouble:
    """Write a checkpoint and remove old ones; what is not finite is not written. Collective.

    Norm statistics become the average over ranks, here and in the live modules.

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
    }

    def write() -> Path | Trouble:
        assert snapshot is not None
        if trouble := _not_finite(tensors, progress):
            return trouble
        tensors["ema"] = snapshot.refresh(averaged)
        path = checkpoints.write(run, progress.step, tensors, state)
        checkpoints.export(run, path)
        if best is not None and best.step == progress.step:
            bests.write(run, best)  # before it, a kill leaves the one before; both are there
        kept = bests.kept(best)
        if config.train.guard.action == "rollback" and (good := last_good(run, quiet)):
            kept.add(good.name)
        checkpoints.prune(run, config.train.keep_last, kept)
        return path

    return together(write)


def _not_finite(tensors: Mapping[str, Mapping[str, Tensor]], progress: Progress) -> Trouble | None:
    # Losses tell of the weights before the step: an overflow in its backward shows here first.
    for file, values in tensors.items():
        for name, value in values.items():
            finite = value.isfinite()
            if not finite.all():
                return not_finite(f"{name} of {file}", float(value[~finite][0]), progress.step)
    return None


def restore_modules(checkpoint: Path, config: Config, modules: Mapping[str, nn.Module]) -> Progress:
    """Load weights and buffers into fresh modules, before engines shard them.

    Raises:
        RunError: a damaged checkpoint, or one of another run or network.
    """
    state = checkpoints.read_state(checkpoint)
    if state["hash"] != identity_hash(config):
        raise RunError(
            f"{checkpoint} belongs to another run (hash {state['hash']}, this configuration has "
            f"{identity_hash(config)}); give a new directory with --out"
        )
    for name, module in modules.items():
        module.load_state_dict(checkpoints.read_tensors(checkpoint, name))
    return progress_of(state)


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
    if (checkpoint / "system.safetensors").is_file():
        system.load_state(checkpoints.read_tensors(checkpoint, "system"))


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
