"""Which checkpoints of a run are sound: every damage shows, and none is gone on from.

Any byte of a checkpoint that is not what was written, a file that is missing or shorter, and a
manifest that is none make it damaged. The newest sound one counts; those passed over are named.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agehpc.checkpoints import ASIDE, FORMAT, MANIFEST, Damaged, complete, name_of, sha256
from agehpc.errors import RunError


def verify(checkpoint: Path) -> None:
    """Compare every byte with the manifest.

    Raises:
        Damaged: naming the file that is missing or was changed.
        RunError: another version wrote it.
    """
    for name, recorded in glance(checkpoint).items():
        try:
            same = sha256(checkpoint / name) == recorded["sha256"]
        except OSError as error:  # a disk that cannot read it any more
            raise Damaged(checkpoint, f"{checkpoint / name} cannot be read ({error})") from error
        if not same:
            raise Damaged(checkpoint, f"{checkpoint / name} differs from its checksum")


def glance(checkpoint: Path) -> dict[str, dict[str, Any]]:
    """Compare the files' sizes alone with the manifest; return what it says of them, by name.

    The errors are those of :func:`verify`.
    """
    path = checkpoint / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        form, step, files = manifest["format"], int(manifest["step"]), manifest["files"]
        sizes = {name: (int(told["bytes"]), str(told["sha256"])) for name, told in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"{path} cannot be read ({type(error).__name__}: {error})"
        raise Damaged(checkpoint, why) from error
    if form != FORMAT:
        if not re.fullmatch(r"agehpc-checkpoint/\d+", str(form)):
            raise Damaged(checkpoint, f"{path} has format {form!r}")
        raise RunError(f"{checkpoint} has format {form!r}, this version reads {FORMAT!r}")
    if "state.json" not in sizes or checkpoint.name != name_of(step):
        raise Damaged(checkpoint, f"{path} is not the manifest of {checkpoint.name}")
    for name, (size, _) in sizes.items():
        path = checkpoint / name
        if not path.is_file():
            raise Damaged(checkpoint, f"{path} is missing")
        if (found := path.stat().st_size) != size:
            raise Damaged(checkpoint, f"{path} has {found} bytes and should have {size}")
    return files


def newest_sound(run: Path, warn: Callable[[str], None], *, repair: bool = False) -> Path | None:
    """The newest complete checkpoint all of whose bytes are right; None where a run has none.

    Args:
        run: the run directory.
        warn: is told of every newer one that is passed over.
        repair: move these aside, so that nothing takes them for checkpoints any more. Only for
            who holds the run directory.

    Raises:
        RunError: the run has checkpoints, and every one is damaged.
    """
    passed: list[tuple[Path, Damaged]] = []
    for path in reversed(complete(run)):
        try:
            verify(path)
        except Damaged as error:
            if (path / MANIFEST).exists():  # else it was removed meanwhile, as old ones are
                passed.append((path, error))
            continue
        for other, error in passed:
            place = f", moved to {_set_aside(other).name}" if repair else ""
            warn(f"{error}; passed over for {path.name}{place}")
        return path
    if passed:
        raise RunError(
            f"{passed[0][1]}, and none of the {len(passed)} checkpoints of {run} is sound: put a "
            "copy of one back, or train anew in another directory"
        )
    return None


def _set_aside(checkpoint: Path) -> Path:
    aside = checkpoint.with_name(checkpoint.name + ASIDE)
    shutil.rmtree(aside, ignore_errors=True)
    return checkpoint.rename(aside)
