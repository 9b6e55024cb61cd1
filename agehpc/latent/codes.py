"""Latents and where they come from, in memory and in files.

Shapes: N samples, Z latent size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from agehpc.errors import DataError, UsageError
from agehpc.files import atomic_path

if TYPE_CHECKING:
    import torch

    from agehpc.trained import Model


@dataclass(frozen=True)
class Origin:
    """Where latents come from.

    Attributes:
        classes: names of the classes.
        split: `train` or `validation`; `prior` for draws.
        dataset_id: identity of the shards; empty for draws.
        from_prior: whether they were found from draws of the prior, not from E(x): which running
            statistics the generator's norms use.
    """

    classes: tuple[str, ...]
    split: str
    dataset_id: str
    from_prior: bool = False


@dataclass(frozen=True)
class Codes:
    """Latents of samples of a split, or of draws from the prior.

    Attributes:
        z_NZ: float32 latents.
        labels_N: int64, index into `origin.classes`; -1 without a class.
        positions_N: int64, index in the split, or number of the draw.
        origin: where they come from.
    """

    z_NZ: np.ndarray
    labels_N: np.ndarray
    positions_N: np.ndarray
    origin: Origin

    def tensor(self, model: "Model") -> "torch.Tensor":
        """The latents on the model's device; UsageError where their size is not the model's."""
        import torch

        size = model.config.model.latent
        if self.z_NZ.shape[1] != size:
            raise UsageError(
                f"--latents holds latents of size {self.z_NZ.shape[1]}, the run's have {size}; "
                "use the run that they were made with"
            )
        return torch.from_numpy(self.z_NZ).to(model.device)


def join(parts: Sequence[Codes]) -> Codes:
    """Codes of one origin behind each other."""
    return Codes(
        np.concatenate([part.z_NZ for part in parts]),
        np.concatenate([part.labels_N for part in parts]),
        np.concatenate([part.positions_N for part in parts]),
        parts[0].origin,
    )


def save_npz(path: Path, codes: Codes) -> None:
    """Write codes as arrays `latents`, `labels`, `positions` and their origin, atomically."""
    save_arrays(
        path,
        {
            "latents": codes.z_NZ,
            "labels": codes.labels_N,
            "positions": codes.positions_N,
            **{name: np.array(value) for name, value in asdict(codes.origin).items()},
        },
    )


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz file atomically, by the name as it is."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_npz(path: str | Path) -> Codes:
    """Read what :func:`save_npz` wrote; UsageError where there is none, DataError if damaged."""
    arrays = read_arrays(path, "--latents")
    try:
        codes = Codes(
            z_NZ=arrays["latents"],
            labels_N=arrays["labels"],
            positions_N=arrays["positions"],
            origin=Origin(
                classes=tuple(map(str, arrays["classes"])),
                split=str(arrays["split"]),
                dataset_id=str(arrays["dataset_id"]),
                from_prior=bool(arrays["from_prior"]),
            ),
        )
    except KeyError as error:
        raise DataError(
            f"{path} holds no latents: {error.args[0]}; make it with `agehpc encode` or "
            "`agehpc invert`"
        ) from None
    z_NZ, n = codes.z_NZ, len(codes.z_NZ)
    if z_NZ.ndim != 2 or z_NZ.dtype != np.float32 or not np.isfinite(z_NZ).all():
        raise DataError(
            f"{path}: latents must be finite float32 of shape N Z, got {z_NZ.dtype} {z_NZ.shape}"
        )
    if not n or codes.labels_N.shape != (n,) or codes.positions_N.shape != (n,):
        raise DataError(f"{path}: {n} latents with {len(codes.labels_N)} labels")
    return codes


def read_arrays(path: str | Path, flag: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file; UsageError where there is none, DataError where damaged."""
    if not Path(path).is_file():
        raise UsageError(f"{flag} {path}: no such file")
    if Path(path).suffix == ".parquet":
        raise UsageError(f"{flag} {path}: parquet is for other programs; encode to .npz")
    try:
        # By a file of our own: numpy leaves its own open where the archive is damaged.
        with Path(path).open("rb") as raw, np.load(raw, allow_pickle=False) as arrays:
            return dict(arrays)
    except (BadZipFile, ValueError, EOFError, OSError, TypeError) as error:
        raise DataError(f"{flag} {path} is no readable .npz file: {error}") from None


def save_parquet(path: Path, codes: Codes) -> None:
    """Write a row a sample: `latent` (list of Z floats), `label`, `class`, `position`, atomically.

    Split and dataset id go into the schema's metadata. Needs pyarrow.
    """
    pyarrow, parquet = import_pyarrow()
    size = codes.z_NZ.shape[1]
    flat = pyarrow.array(codes.z_NZ.reshape(-1), type=pyarrow.float32())
    names = [codes.origin.classes[label] if label >= 0 else None for label in codes.labels_N]
    table = pyarrow.table(
        {
            "latent": pyarrow.FixedSizeListArray.from_arrays(flat, size),
            "label": pyarrow.array(codes.labels_N),
            "class": pyarrow.array(names, type=pyarrow.string()),
            "position": pyarrow.array(codes.positions_N),
        }
    ).replace_schema_metadata({"split": codes.origin.split, "dataset_id": codes.origin.dataset_id})
    with atomic_path(path) as temporary:
        parquet.write_table(table, temporary)


def import_pyarrow() -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet; UsageError where they are not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError(
            "parquet files need pyarrow: pip install 'agehpc[parquet]', or write .npz"
        ) from None
    return pyarrow, pyarrow.parquet
