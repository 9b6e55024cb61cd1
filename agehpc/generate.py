"""`agehpc sample RUN` and `agehpc reconstruct RUN`: pictures, clips and figures from a run."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from agehpc.latent import command

if TYPE_CHECKING:
    from torch import Tensor

    from agehpc.config.schema import DataConfig
    from agehpc.trained import Model


class SampleFlags(command.RunFlags):
    """Generate samples from the prior and write them as a grid (PNG, and MP4 for video)."""

    n: command.Count = 16
    """Samples to generate."""
    seed: command.Natural = 0
    """Seed of the noise: the n-th sample depends on (seed, n) alone."""
    columns: command.Count = 8
    """Samples in a row of the grid."""
    array: bool = False
    """Also write samples.npy: uint8, N C H W or N C T H W."""


class ReconstructFlags(command.SplitFlags):
    """Encode and decode samples of a split; print PSNR and write real | reconstruction."""

    n: command.Count | None = 1024
    """Samples to measure, at most."""
    latents: str | None = None
    """Latents in place of E(x), from `agehpc encode` or `agehpc invert`: their samples are read."""
    columns: command.Count = 8
    """Samples in the grid."""
    baseline: Annotated[int, Field(ge=0)] = 4096
    """Training samples averaged for the mean sample that the figure is compared to; 0: none."""


def sample_main(argv: list[str]) -> int:
    """Run `agehpc sample`."""
    run, flags = command.parse(SampleFlags, argv, "agehpc sample")
    out = command.destination(run, flags, "generated")
    model = command.load_model(run, flags, "decode")
    if flags.dry_run:
        return command.say(flags, {"run": str(run), "n": flags.n, "would_write_to": str(out)})
    from agehpc.files import atomic_path
    from agehpc.observe import grids

    parts = [
        grids.to_uint8(model.sample(min(flags.batch, flags.n - first), flags.seed, first))
        for first in range(0, flags.n, flags.batch)
    ]
    x = np.concatenate(parts)
    rows = [x[i : i + flags.columns] for i in range(0, len(x), flags.columns)]
    paths = command.save_rows(out / "samples", rows, model.config)
    if flags.array:
        with atomic_path(out / "samples.npy") as temporary, temporary.open("wb") as file:
            np.save(file, x)
        paths.append(str(out / "samples.npy"))
    return command.say(flags, {"n": len(x), "seed": flags.seed, "paths": paths})


def reconstruct_main(argv: list[str]) -> int:
    """Run `agehpc reconstruct`."""
    run, flags = command.parse(ReconstructFlags, argv, "agehpc reconstruct")
    out = command.destination(run, flags, "reconstructed")
    model = command.load_model(run, flags, "decode", *([] if flags.latents else ["encode"]))
    data = command.split_data(model.config, flags)
    if flags.latents:
        pairs = _from_latents(model, data, flags, flags.latents)
    else:
        pairs = _encoded(model, data, flags)
    if flags.dry_run:
        told = {"run": str(run), "split": flags.split, "would_write_to": str(out)}
        return command.say(flags, told)
    from agehpc.evaluate.reconstruction import psnr
    from agehpc.observe.grids import to_uint8

    mean = _mean_sample(data, flags.baseline) if flags.baseline else None
    ours: list[np.ndarray] = []
    baseline: list[np.ndarray] = []
    shown: list[tuple[np.ndarray, np.ndarray]] = []
    for pixels, made in pairs:
        x, y = pixels.numpy(), to_uint8(made)
        ours.append(psnr(y, x))
        if mean is not None:
            baseline.append(psnr(np.broadcast_to(mean, x.shape), x))
        if sum(len(real) for real, _ in shown) < flags.columns:
            shown.append((x, y))
    rows = command.columns(shown, flags.columns)
    paths = command.save_rows(out / f"{flags.split}-reconstruction", rows, model.config)
    values = np.concatenate(ours)
    figures: dict[str, Any] = {
        "split": flags.split,
        "n": len(values),
        "psnr_db": float(values.mean()),
    }
    if mean is not None:
        mean_db = float(np.concatenate(baseline).mean())
        figures |= {"mean_sample_psnr_db": mean_db, "gain_db": figures["psnr_db"] - mean_db}
    return command.say(flags, figures | {"paths": paths})


def _encoded(
    model: "Model", data: "DataConfig", flags: ReconstructFlags
) -> "Iterator[tuple[Tensor, Tensor]]":
    """Samples of the split as uint8, and G(E(x)), batch by batch."""
    from agehpc.data.pixels import to_float

    for batch in command.split_batches(data, flags):
        labels_B = command.labels_for(model, batch.labels)
        yield batch.pixels, model.reconstruct(to_float(batch.pixels), labels_B)


def _from_latents(
    model: "Model", data: "DataConfig", flags: ReconstructFlags, file: str
) -> "Iterator[tuple[Tensor, Tensor]]":
    """The samples whose latents a file holds as uint8, and G(z), batch by batch."""
    from agehpc.latent.codes import read_npz

    codes = read_npz(file)
    z_NZ = codes.tensor(model)[: flags.n]
    command.same_samples(codes, data, flags)

    def pairs() -> "Iterator[tuple[Tensor, Tensor]]":
        for first in range(0, len(z_NZ), flags.batch):
            z_BZ = z_NZ[first : first + flags.batch]
            places = codes.positions_N[first : first + len(z_BZ)].tolist()
            batch = command.chosen_samples(data, flags, places)
            labels_B = command.labels_for(model, batch.labels)
            yield batch.pixels, model.decode(z_BZ, labels_B, from_prior=codes.origin.from_prior)

    return pairs()


def _mean_sample(data: "DataConfig", limit: int) -> np.ndarray:
    """The mean of training samples, float64 [C, S] in [0, 255]: what a blind guess would say."""
    from agehpc.data.loader import validation_batches

    total: np.ndarray | None = None
    count = 0
    for batch in validation_batches(data, split="train", batch=64, limit=limit):
        part = batch.pixels.numpy().sum(0, dtype=np.float64)
        total = part if total is None else total + part
        count += len(batch.pixels)
    assert total is not None, "check refuses an empty training split"
    return total / count
