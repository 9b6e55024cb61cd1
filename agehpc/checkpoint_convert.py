"""`agehpc checkpoint export RUN` and `agehpc checkpoint convert SOURCE --out FILE`.

What others wrote is read by torch's weights-only unpickler: tensors and plain values, no code.
"""

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agehpc.config.section import Section
from agehpc.errors import RunError, UsageError
from agehpc.latent.command import parse, say

if TYPE_CHECKING:
    from torch import Tensor

TORCH = (".pt", ".pth", ".bin", ".ckpt")
OURS = ".safetensors"
# Where trainers keep a network's weights among other things; DeepSpeed's is the first.
PLACES = ("module", "state_dict", "model_state_dict", "model")


class _Flags(Section):
    checkpoint: str = "latest"
    """Checkpoint of RUN: latest, best (of a run trained with --evaluate.best), or a name as
    step-00001000."""
    out: str | None = None
    """File to write."""
    json_: bool = False
    """Print what was written as JSON."""
    dry_run: bool = False
    """Read everything, say what would be written, and write nothing."""


class ExportFlags(_Flags):
    """Write a run's averaged model and its configuration to one file that agehpc.load reads."""

    out: str | None = None
    """File to write, .safetensors; default RUN/export/CHECKPOINT.safetensors."""


class ConvertFlags(_Flags):
    """Turn a run's weights into a torch state dict (.pt), or one into a model file (.safetensors).

    No code of a file that is read is run.
    """

    like: str | None = None
    """For a model file: the run whose networks the weights are of."""
    player: str | None = None
    """From RUN: the player whose live weights are written, in place of the averaged model. From a
    state dict: the player that its names belong to, where they do not begin with it."""
    key: str | None = None
    """Where in a file the state dict is; default the first of module, state_dict, model_state_dict,
    model."""


def export_main(argv: list[str]) -> int:
    """Run `agehpc checkpoint export`."""
    run, flags = parse(ExportFlags, argv, "agehpc checkpoint export")
    from agehpc import best, checkpoints, model_file
    from agehpc.config.run_files import read_run_config

    config = read_run_config(run)
    path = best.find(run, flags.checkpoint)
    out = Path(flags.out) if flags.out else run / "export" / f"{path.name}{OURS}"
    if out.suffix != OURS:
        raise UsageError(f"--out {out}: a model file ends in {OURS}")
    state = checkpoints.read_state(path)
    header = model_file.about(config, state["step"], state["samples_seen"] / 1000)
    return _write(out, checkpoints.read_tensors(path, "ema"), header, flags, path)


def convert_main(argv: list[str]) -> int:
    """Run `agehpc checkpoint convert`."""
    source, flags = parse(ConvertFlags, argv, "agehpc checkpoint convert")
    if flags.out is None:
        raise UsageError("--out is not set: give the file to write, .pt or .safetensors")
    out = Path(flags.out)
    if out.suffix in TORCH and source.suffix not in TORCH:
        return _write(out, _ours(source, flags), {}, flags, source)
    if out.suffix == OURS and source.suffix in TORCH:
        return _to_model_file(source, out, flags)
    raise UsageError(
        f"{source} to {out}: a run or a {OURS} file becomes a {'|'.join(TORCH)} file, and such a "
        f"file a {OURS} one"
    )


def _ours(source: Path, flags: ConvertFlags) -> "dict[str, Tensor]":
    from agehpc import best, checkpoints, model_file

    if source.is_file():
        return model_file.read(source)[1]
    path = best.find(source, flags.checkpoint)
    if flags.player is None:
        return checkpoints.read_tensors(path, "ema")
    if not (path / f"{flags.player}{OURS}").is_file():
        there = sorted(p.stem for p in path.glob(f"*.optim{OURS}"))
        names = ", ".join(name.removesuffix(".optim") for name in there)
        raise UsageError(f"--player {flags.player}: {path} has {names}")
    return checkpoints.read_tensors(path, flags.player)


def _to_model_file(source: Path, out: Path, flags: ConvertFlags) -> int:
    from agehpc import model_file
    from agehpc.config.run_files import read_run_config
    from agehpc.trained import Model, fitting

    if flags.like is None:
        raise UsageError(
            "--like is not set: name a run of the networks that the weights are of; its "
            "configuration goes into the file"
        )
    config = read_run_config(flags.like)
    model = Model(config)
    found = state_dict(source, flags.key)
    if all(name.startswith("module.") for name in found):  # of DistributedDataParallel
        found = {name.removeprefix("module."): tensor for name, tensor in found.items()}
    player = flags.player
    if player is None and len(model.players) == 1:
        (player,) = model.players
    if player is not None and not all(name.startswith(f"{player}.") for name in found):
        found = {f"{player}.{name}": tensor for name, tensor in found.items()}
    wanted = model.state()
    found = {
        name: tensor.to(wanted[name].dtype) if name in wanted else tensor
        for name, tensor in found.items()
    }
    fitted = fitting(source, "the state dict", wanted, found)
    return _write(out, fitted, model_file.about(config, 0, 0.0), flags, source)


def state_dict(path: Path, key: str | None) -> "dict[str, Tensor]":
    """The tensors by name in a file of torch.save.

    Raises:
        RunError: it cannot be read without running code of its own, or not at all; it holds no
            state dict, or DeepSpeed's shards.
    """
    found = read_torch(path)
    places = {"": found} | {str(k): v for k, v in found.items() if isinstance(v, Mapping)}
    fit = {name: place for name, place in places.items() if _is_state_dict(place)}
    chosen = [key] if key is not None else ["", *PLACES]
    for name in chosen:
        if name in fit:
            if not all(tensor.numel() for tensor in fit[name].values()):
                raise RunError(
                    f"{path} holds empty tensors: DeepSpeed saves weights in shards at stage 3; "
                    "gather them with zero_to_fp32.py of that checkpoint first"
                )
            return dict(fit[name])
    there = ", ".join(name for name in fit if name) or "no state dict"
    raise RunError(f"{path} holds {there}; name the one to take with --key")


def _is_state_dict(value: Any) -> bool:
    from torch import Tensor

    return bool(value) and all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items()
    )


def read_torch(path: Path) -> dict[str, Any]:
    """What torch.save wrote: tensors and plain values alone, on the CPU.

    Raises:
        RunError: loading it would run code of its own, or it is no such file.
    """
    import torch

    try:
        with warnings.catch_warnings():
            # Files of plain pickle are read as well as torch's own.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RunError(f"{path} is not there") from None
    except pickle.UnpicklingError as error:
        text = str(error)
        if named := re.search(r"GLOBAL (\S+)|global:? ['`]?(\S+?)['`]? ", text):
            code = named.group(1) or named.group(2)
            raise RunError(
                f"{path} is refused: loading it would run code that it names ({code}), and only "
                "tensors and plain values are read; save its state dict alone"
            ) from None
        raise RunError(f"{path} is no file of torch.save, or is damaged") from None
    except (OSError, EOFError, RuntimeError, TypeError, ValueError, KeyError) as error:
        first = str(error).partition("\n")[0][:200]
        raise RunError(f"{path} is no file of torch.save, or is damaged ({first})") from None
    if not isinstance(found, Mapping):
        raise RunError(f"{path} holds a {type(found).__name__}; a state dict is wanted")
    return dict(found)


def _write(
    out: Path,
    tensors: "Mapping[str, Tensor]",
    header: Mapping[str, str],
    flags: _Flags,
    source: Path,
) -> int:
    """Write tensors to a file by its suffix, atomically, and say so."""
    from agehpc.checkpoints import save_tensors
    from agehpc.files import atomic_path

    number = sum(tensor.numel() for tensor in tensors.values())
    told: dict[str, Any] = {"from": str(source), "tensors": len(tensors), "numbers": number}
    if flags.dry_run:
        return say(flags, told | {"would_write_to": str(out)})
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as temporary:
        if out.suffix == OURS:
            save_tensors(temporary, tensors, header)
        else:
            import torch

            torch.save(dict(tensors), temporary)
    return say(flags, told | {"paths": [str(out)]})
