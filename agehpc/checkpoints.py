"""Checkpoints on disk: safetensors and JSON, complete once their manifest exists.

`checkpoints/step-NNNNNNNN/` holds `<player>.safetensors` (float32 weights and buffers),
`<player>.optim.safetensors` (moments by parameter name), `ema.safetensors` (averaged weights with
calibrated statistics), `state.json` and, written last, `manifest.json` with a checksum of each.
Nothing in it depends on the world size or a ZeRO stage, and loading it runs no code.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from agehpc.errors import RunError

FORMAT = "agehpc-checkpoint/2"
_NAME = re.compile(r"step-(\d{8,})")


def name_of(step: int) -> str:
    """Name of a step's checkpoint."""
    return f"step-{step:08d}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(
    run: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any]
) -> Path:
    """Write a checkpoint; it appears under its name only when complete. One rank calls it.

    Args:
        run: the run directory.
        step: optimizer steps done; names the checkpoint.
        tensors: CPU tensors by name for each file, the file's name without suffix.
        state: what JSON can hold: counters, cursor, accumulators.

    Returns:
        The checkpoint's directory.

    Raises:
        OSError: as the file system does; nothing partial is left.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    final = run / "checkpoints" / name_of(step)
    partial = final.with_name(f".{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for name, values in tensors.items():
            path = partial / f"{name}.safetensors"
            try:
                save_file({k: v.detach().cpu().contiguous() for k, v in values.items()}, path)
            except SafetensorError as error:  # a full disk comes as this, not as an OSError
                raise OSError(f"{path}: {error}") from error
        (partial / "state.json").write_text(json.dumps(state, indent=1, sort_keys=True) + "\n")
        files = {
            p.name: {"bytes": p.stat().st_size, "sha256": _sha256(p)}
            for p in sorted(partial.iterdir())
        }
        for path in partial.iterdir():
            _sync(path)
        manifest = partial / "manifest.json"
        manifest.write_text(
            json.dumps({"format": FORMAT, "step": step, "files": files}, indent=1) + "\n"
        )
        _sync(manifest)
        if final.exists():  # left by a save of the same step whose manifest was lost or damaged
            shutil.rmtree(final)
        partial.replace(final)
        _sync(final.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def complete(run: Path) -> list[Path]:
    """Directories of the complete checkpoints of a run, oldest first."""
    found = [p for p in (run / "checkpoints").glob("step-*") if (p / "manifest.json").is_file()]
    named = [(int(m.group(1)), p) for p in found if (m := _NAME.fullmatch(p.name))]
    return [p for _, p in sorted(named)]


def newest(run: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    found = complete(run)
    return found[-1] if found else None


def verify(checkpoint: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        RunError: a file that is missing or was changed, with its name and what to do.
    """
    fix = f"delete {checkpoint} to go on from the one before it"
    try:
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        files = manifest["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{checkpoint}/manifest.json cannot be read ({error}); {fix}") from error
    if manifest.get("format") != FORMAT:
        raise RunError(
            f"{checkpoint} has format {manifest.get('format')!r}, this version reads {FORMAT!r}"
        )
    for name, recorded in files.items():
        path = checkpoint / name
        if not path.is_file():
            raise RunError(f"{path} is missing; {fix}")
        if path.stat().st_size != recorded["bytes"] or _sha256(path) != recorded["sha256"]:
            raise RunError(f"{path} differs from its checksum in manifest.json; {fix}")


def read_tensors(checkpoint: Path, name: str) -> dict[str, Tensor]:
    """Tensors of one file of a checkpoint, on the CPU."""
    from safetensors.torch import load_file

    return load_file(checkpoint / f"{name}.safetensors")


def read_shapes(path: Path) -> dict[str, list[int]]:
    """Shapes by name of the tensors of a file, without these."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The counters of a checkpoint."""
    return json.loads((checkpoint / "state.json").read_text())


def sweep(run: Path) -> None:
    """Remove what killed saves and removals left: directories that never count as checkpoints."""
    for path in (run / "checkpoints").glob(".*.partial*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (run / "checkpoints").glob("step-*"):
        if path.is_dir() and not (path / "manifest.json").exists():
            shutil.rmtree(path)


def export(run: Path, checkpoint: Path) -> Path:
    """Put the averaged weights of a checkpoint under RUN/export, for use elsewhere.

    A hard link where the file system has them: the same bytes under a lasting name.
    """
    target = run / "export" / "model.safetensors"
    target.parent.mkdir(exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    partial.unlink(missing_ok=True)
    source = checkpoint / "ema.safetensors"
    try:
        os.link(source, partial)
    except OSError:
        shutil.copyfile(source, partial)
    partial.replace(target)
    return target


def prune(run: Path, keep_last: int, kept: Container[str] = ()) -> None:
    """Remove all complete checkpoints but the newest `keep_last` and those named."""
    for old in complete(run)[:-keep_last]:
        if old.name not in kept:
            remove(old)


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint."""
    (checkpoint / "manifest.json").unlink()  # first, so that a half-removed one never counts
    shutil.rmtree(checkpoint)
