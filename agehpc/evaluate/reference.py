"""Features of real samples, kept between evaluations: they do not change from run to run."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agehpc.data.cache import default_directory
from agehpc.errors import AgehpcError
from agehpc.evaluate.collect import Kept
from agehpc.evaluate.moments import Moments
from agehpc.evaluate.protocols import digest
from agehpc.files import atomic_path, unwritable

ABOUT = "fingerprint"


class CacheError(AgehpcError):
    """Kept features that are damaged, or not those that their name says."""


def folder() -> Path:
    """Return where they lie: $AGEHPC_CACHE/references, else ~/.cache/agehpc/references."""
    return default_directory() / "references"


def load(about: Mapping[str, Any], where: Path) -> Kept | None:
    """Return what was kept under this fingerprint; None where nothing was.

    Raises:
        CacheError: the file is damaged, or holds something else than its name says.
    """
    path = where / f"{digest(about)}.npz"
    if not path.exists():
        return None
    try:
        # Opened here: numpy leaves a damaged archive open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        told = json.loads(str(found.pop(ABOUT)))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CacheError(
            f"{path} is damaged ({error}); delete it, and the evaluation makes it anew"
        ) from None
    if told != json.loads(json.dumps(about)):
        odd = sorted(key for key in {**told, **about} if told.get(key) != about.get(key))
        raise CacheError(
            f"{path} holds features of something else (they differ in {', '.join(odd)}); "
            "delete it, and the evaluation makes it anew"
        )
    tensors = {name: torch.from_numpy(array) for name, array in found.items()}
    try:
        return tensors["rows"] if "rows" in tensors else Moments.from_dict(tensors)
    except (KeyError, AssertionError) as error:
        raise CacheError(
            f"{path} is damaged (it lacks {error}); delete it, and the evaluation makes it anew"
        ) from None


def check_writable(where: Path) -> None:
    """Raise CacheError unless files can be made in a folder, which need not be there yet."""
    if trouble := unwritable(where / "features"):
        raise CacheError(
            f"features of real samples cannot be kept in {where}: {trouble}; set another folder "
            "with --cache or AGEHPC_CACHE, or keep none with --fresh"
        )


def save(about: Mapping[str, Any], kept: Kept, where: Path) -> None:
    """Keep features under a fingerprint; the file appears whole or not at all."""
    where.mkdir(parents=True, exist_ok=True)
    tensors = kept.to_dict() if isinstance(kept, Moments) else {"rows": kept}
    arrays = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
    with atomic_path(where / f"{digest(about)}.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays, **{ABOUT: np.array(json.dumps(dict(about)))})  # type: ignore[arg-type]
