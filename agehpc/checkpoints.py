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
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from agehpc.errors import RunError
from agehpc.files import atomic_path

FORMAT = "agehpc-checkpoint/2"
MANIFEST = "manifest.json"
ASIDE = ".damaged"
"""What a damaged checkpoint that was passed over has behind its name."""
_NAME = re.compile(r"step-(\d{8,})")


class Damaged(RunError):
    """A checkpoint that differs from its manifest, or whose manifest cannot be read."""

    def __init__(self, checkpoint: Path, why: str) -> None:
        run = checkpoint.parent.parent
        super().__init__(f"{why}: it is damaged; `agehpc checkpoint verify {run}` checks all")


def name_of(step: int) -> str:
    """Name of a step's checkpoint."""
    return f"step-{step:08d}"


def sha256(path: Path) -> str:
    """Checksum of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(
    run: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any]
) -> Path:
    """Write a checkpoint; it appears under its name only when complete. One rank calls it.

    Arguments and errors are those of :func:`fill`. Returns the checkpoint's directory.
    """
    return publish(run, step, fill(run / "checkpoints", step, tensors, state))


def fill(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    about: Mapping[str, Mapping[str, str]] | None = None,
    beat: Callable[[], None] = lambda: None,
) -> Path:
    """Write a checkpoint, manifest last, under a name that does not count as one.

    Args:
        folder: where; made if it is not there.
        step: optimizer steps done; names the checkpoint.
        tensors: CPU tensors by name for each file, the file's name without suffix.
        state: what JSON can hold: counters, cursor, accumulators.
        about: texts by name for the header of a file.
        beat: called after each file.

    Returns:
        Its directory, for :func:`publish`.

    Raises:
        OSError: as the file system does; nothing partial is left.
    """
    partial = folder / f".{name_of(step)}.partial"
    with _new(partial):
        for name, values in tensors.items():
            save_tensors(partial / f"{name}.safetensors", values, (about or {}).get(name))
            beat()
        (partial / "state.json").write_text(json.dumps(state, indent=1, sort_keys=True) + "\n")
        files = {
            p.name: {"bytes": p.stat().st_size, "sha256": sha256(p)}
            for p in sorted(partial.iterdir())
        }
        for path in partial.iterdir():
            _sync(path)
            beat()
        manifest = partial / MANIFEST
        told = {"format": FORMAT, "step": step, "files": files}
        manifest.write_text(json.dumps(told, indent=1) + "\n")
        _sync(manifest)
    return partial


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str] | None = None
) -> None:
    """Write tensors, and texts beside them, to a safetensors file; OSError as the system does."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(whole, path, dict(header) if header else None)
    except SafetensorError as error:  # a full disk comes as this, not as an OSError
        raise OSError(f"{path}: {error}") from error
    # The library makes files that their owner alone may read; a run's are as its folder.
    path.chmod(path.parent.stat().st_mode & 0o666)


def publish(run: Path, step: int, filled: Path, beat: Callable[[], None] = lambda: None) -> Path:
    """Give what :func:`fill` has written its place and its name in a run.

    From another file system it is copied first, the manifest last, with a `beat` after each file;
    what was filled goes then. One rank calls it. OSError as the file system does; nothing partial
    is left.
    """
    final = run / "checkpoints" / name_of(step)
    partial = final.with_name(f".{final.name}.partial")
    if filled != partial:
        try:
            with _new(partial):
                names = sorted((p.name for p in filled.iterdir()), key=lambda n: n == MANIFEST)
                for name in names:
                    shutil.copyfile(filled / name, partial / name)
                    _sync(partial / name)
                    beat()
        finally:
            shutil.rmtree(filled, ignore_errors=True)
    try:
        if final.exists():  # left by a save of the same step, and found to be damaged
            shutil.rmtree(final)
        partial.replace(final)
        _sync(final.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


@contextmanager
def _new(folder: Path) -> Iterator[None]:
    """A new directory to write in, which goes again where that fails."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def complete(run: Path) -> list[Path]:
    """Directories of the complete checkpoints of a run, oldest first."""
    found = [p for p in (run / "checkpoints").glob("step-*") if (p / MANIFEST).is_file()]
    named = [(int(m.group(1)), p) for p in found if (m := _NAME.fullmatch(p.name))]
    return [p for _, p in sorted(named)]


def newest(run: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    found = complete(run)
    return found[-1] if found else None


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
    """The counters of a checkpoint; Damaged where they cannot be read."""
    try:
        state = json.loads((checkpoint / "state.json").read_text())
    except (OSError, ValueError) as error:
        raise Damaged(checkpoint, f"{checkpoint}/state.json cannot be read ({error})") from error
    return state


def sweep(run: Path) -> None:
    """Remove what killed saves and removals left: directories that never count as checkpoints."""
    for path in (run / "checkpoints").glob(".*.partial*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (run / "checkpoints").glob("step-*"):
        if _NAME.fullmatch(path.name) and path.is_dir() and not (path / MANIFEST).exists():
            shutil.rmtree(path)


def export(run: Path, checkpoint: Path) -> Path:
    """Put the averaged weights of a checkpoint under RUN/export, for use elsewhere.

    A hard link where the file system has them: the same bytes under a lasting name.
    """
    target = run / "export" / "model.safetensors"
    target.parent.mkdir(exist_ok=True)
    source = checkpoint / "ema.safetensors"
    with atomic_path(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
    return target


def prune(run: Path, keep_last: int, kept: Container[str] = ()) -> None:
    """Remove all complete checkpoints but the newest `keep_last` and those named."""
    for old in complete(run)[:-keep_last]:
        if old.name not in kept:
            remove(old)


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint."""
    (checkpoint / MANIFEST).unlink()  # first, so that a half-removed one never counts
    shutil.rmtree(checkpoint)
