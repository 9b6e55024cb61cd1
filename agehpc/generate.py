"""`agehpc sample RUN` and `agehpc reconstruct RUN`: pictures, clips and figures from a run."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from agehpc.config.schema import Config, Section
from agehpc.errors import EXIT_DONE, UsageError


class SampleFlags(Section):
    """Generate samples from the prior and write them as a grid (PNG, and MP4 for video)."""

    out: str | None = None
    """Directory to write to; default RUN/generated."""
    n: Annotated[int, Field(ge=1)] = 16
    """Samples to generate."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the noise: the n-th sample depends on (seed, n) alone."""
    columns: Annotated[int, Field(ge=1)] = 8
    """Samples in a row of the grid."""
    batch: Annotated[int, Field(ge=1)] = 32
    """Samples generated at once."""
    array: bool = False
    """Also write samples.npy: uint8, N C H W or N C T H W."""
    checkpoint: str = "latest"
    """Checkpoint to use: latest, or a name as step-00001000."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    json_: bool = False
    """Print the paths as JSON."""
    dry_run: bool = False
    """Load the run, say what would be written, and write nothing."""


class ReconstructFlags(Section):
    """Encode and decode samples of a split; print PSNR and write real | reconstruction."""

    out: str | None = None
    """Directory to write to; default RUN/reconstructed."""
    shards: str | None = None
    """Directory of shards; default the run's own."""
    split: Literal["train", "validation"] = "validation"
    """Split to reconstruct."""
    n: Annotated[int, Field(ge=1)] = 1024
    """Samples to measure, at most."""
    columns: Annotated[int, Field(ge=1)] = 8
    """Samples in the grid."""
    batch: Annotated[int, Field(ge=1)] = 16
    """Samples decoded at once."""
    baseline: Annotated[int, Field(ge=0)] = 4096
    """Training samples averaged for the mean sample that the figure is compared to; 0: none."""
    checkpoint: str = "latest"
    """Checkpoint to use: latest, or a name as step-00001000."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    json_: bool = False
    """Print the figures and paths as JSON."""
    dry_run: bool = False
    """Load the run and the shards, say what would be written, and write nothing."""


def sample_main(argv: list[str]) -> int:
    """Run `agehpc sample`."""
    run, flags = _parse(SampleFlags, argv, "agehpc sample")
    out = Path(flags.out) if flags.out else run / "generated"
    model = _load(run, flags)
    if flags.dry_run:
        return _say(flags, {"run": str(run), "n": flags.n, "would_write_to": str(out)})
    from agehpc.files import atomic_path
    from agehpc.observe import grids

    parts = [
        grids.to_uint8(model.sample(min(flags.batch, flags.n - first), flags.seed, first))
        for first in range(0, flags.n, flags.batch)
    ]
    x = np.concatenate(parts)
    out.mkdir(parents=True, exist_ok=True)
    rows = [x[i : i + flags.columns] for i in range(0, len(x), flags.columns)]
    paths = grids.save_grid(out / "samples", rows, _fps(model.config))
    if flags.array:
        with atomic_path(out / "samples.npy") as temporary, temporary.open("wb") as file:
            np.save(file, x)
        paths.append(out / "samples.npy")
    return _say(flags, {"n": len(x), "seed": flags.seed, "paths": [str(p) for p in paths]})


def reconstruct_main(argv: list[str]) -> int:
    """Run `agehpc reconstruct`."""
    run, flags = _parse(ReconstructFlags, argv, "agehpc reconstruct")
    out = Path(flags.out) if flags.out else run / "reconstructed"
    model = _load(run, flags)
    data = _data(model.config, flags)
    if flags.dry_run:
        return _say(flags, {"run": str(run), "split": flags.split, "would_write_to": str(out)})
    from agehpc.data.pixels import to_float
    from agehpc.evaluate.reconstruction import psnr
    from agehpc.observe import grids

    mean = _mean_sample(data, flags) if flags.baseline else None
    ours: list[np.ndarray] = []
    baseline: list[np.ndarray] = []
    shown: list[tuple[np.ndarray, np.ndarray]] = []
    for x in _split(data, flags.split, flags):
        y = grids.to_uint8(model.reconstruct(to_float(x)))
        ours.append(psnr(y, x.numpy()))
        if mean is not None:
            baseline.append(psnr(np.broadcast_to(mean, x.shape), x.numpy()))
        if sum(len(real) for real, _ in shown) < flags.columns:
            shown.append((x.numpy(), y))
    if not ours:
        raise UsageError(f"the {flags.split} split of {data.shards} is empty; use --split train")
    out.mkdir(parents=True, exist_ok=True)
    rows = [np.concatenate(part)[: flags.columns] for part in zip(*shown, strict=True)]
    paths = grids.save_grid(out / f"{flags.split}-reconstruction", rows, _fps(model.config))
    values = np.concatenate(ours)
    figures: dict[str, Any] = {
        "split": flags.split,
        "n": len(values),
        "psnr_db": float(values.mean()),
    }
    if mean is not None:
        mean_db = float(np.concatenate(baseline).mean())
        figures |= {"mean_sample_psnr_db": mean_db, "gain_db": figures["psnr_db"] - mean_db}
    return _say(flags, figures | {"paths": [str(p) for p in paths]})


def _parse(model: type[Any], argv: list[str], prog: str) -> tuple[Path, Any]:
    from agehpc.config.load import parse_command

    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
        raise UsageError(f"name a run directory first: {prog} RUN [flags]")
    run, words = (argv[0], argv[1:]) if not argv[0].startswith("-") else ("", argv)
    return Path(run), parse_command(words, prog=f"{prog} RUN", model=model)


def _load(run: Path, flags: Any) -> Any:
    from agehpc.trained import load

    if flags.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UsageError("--device cuda, but torch sees no GPU; use --device cpu")
    return load(run, checkpoint=flags.checkpoint, device=flags.device)


def _data(config: Config, flags: ReconstructFlags) -> Any:
    from agehpc.data.check import check
    from agehpc.data.shards import read_manifest

    data = config.data
    if flags.shards is not None:
        # Other shards than the run's are welcome here; only their form has to fit.
        data = data.model_copy(update={"shards": flags.shards, "dataset_id": None})
    return check(data, read_manifest(data.shards))


def _split(data: Any, split: Any, flags: ReconstructFlags) -> Iterator[Any]:
    from agehpc.data.loader import validation_batches

    for batch in validation_batches(data, split=split, batch=flags.batch, limit=flags.n):
        yield batch.pixels


def _mean_sample(data: Any, flags: ReconstructFlags) -> np.ndarray:
    """The mean of training samples, float64 [C, S] in [0, 255]: what a blind guess would say."""
    from agehpc.data.loader import validation_batches

    total: np.ndarray | None = None
    count = 0
    for batch in validation_batches(data, split="train", batch=64, limit=flags.baseline):
        part = batch.pixels.numpy().sum(0, dtype=np.float64)
        total = part if total is None else total + part
        count += len(batch.pixels)
    assert total is not None, "check refuses an empty training split"
    return total / count


def _fps(config: Config) -> float:
    from agehpc.data.shards import read_manifest
    from agehpc.errors import DataError

    if config.data.kind == "image":
        return 1.0
    try:
        fps = read_manifest(config.data.shards).fps or 25.0
    except DataError:  # a run outlives its shards: only the playing speed is lost
        fps = 25.0
    return fps / config.data.strides[0]


def _say(flags: Any, told: dict[str, Any]) -> int:
    if flags.json_:
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
        return EXIT_DONE
    for name, value in told.items():
        if isinstance(value, list):
            for item in value:
                sys.stdout.write(f"{item}\n")
        else:
            shown = f"{value:.2f}" if isinstance(value, float) else value
            sys.stdout.write(f"{name}  {shown}\n")
    return EXIT_DONE
