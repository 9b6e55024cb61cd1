"""`agehpc sample RUN` and `agehpc reconstruct RUN`: pictures, clips and figures from a run."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from agehpc.errors import UsageError
from agehpc.files import atomic_path
from agehpc.latent import command

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from agehpc.config.schema import DataConfig
    from agehpc.trained import Model


class SampleFlags(command.RunFlags):
    """Generate samples from the prior and write them as a grid (PNG, and MP4 for video)."""

    n: command.Count = 16
    """Samples to generate."""
    seed: command.Natural = 0
    """Seed of the noise: the n-th sample depends on (seed, n) alone."""
    truncation: Annotated[float, Field(gt=0)] = 1.0
    """Factor of the noise: below 1 samples are more typical and less varied. Not for the priors
    sphere and mixture, which draw nothing near 0."""
    label: str | None = None
    """Class to generate, of a conditional run; default all classes in turn."""
    columns: command.Count = 8
    """Samples in a row of the grid."""
    array: bool = False
    """Also write samples.npy, the samples of the grid: uint8, N C H W or N C T H W."""
    shards: str | None = None
    """Also write the samples as shards that `agehpc train` reads, with the classes of a
    conditional run; the grid then shows the first rows alone."""
    image_format: Literal["png", "jpg"] = "png"
    """Format of images in shards."""
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the samples in shards that is held out."""
    overwrite: bool = False
    """Replace shards that --shards already holds."""


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
    model = command.load_model(run, flags, "generate", "sample")
    classes = _classes(model, flags)
    model.check_truncation(flags.truncation)
    if flags.shards is not None:
        from agehpc.data.pack import refuse_existing

        refuse_existing(Path(flags.shards), flags.overwrite)
    if flags.dry_run:
        told = {"run": str(run), "n": flags.n, "would_write_to": str(out)}
        return command.say(flags, told | ({"shards": flags.shards} if flags.shards else {}))

    import numpy as np

    def make(first: int, count: int) -> "np.ndarray":
        return _make(model, flags, classes[first : first + count], first)

    shown = flags.n if flags.shards is None else min(flags.n, flags.columns**2)
    x = np.concatenate([make(i, min(flags.batch, shown - i)) for i in range(0, shown, flags.batch)])
    rows = [x[i : i + flags.columns] for i in range(0, len(x), flags.columns)]
    paths = command.save_rows(out / "samples", rows, model.config)
    told: dict[str, Any] = {"n": flags.n, "seed": flags.seed}
    if flags.array:
        with atomic_path(out / "samples.npy") as temporary, temporary.open("wb") as file:
            np.save(file, x)
        paths.append(str(out / "samples.npy"))
    if flags.shards is not None:
        told |= _write_shards(model, flags, make, classes, Path(flags.shards))
    return command.say(flags, told | {"paths": paths})


def _classes(model: "Model", flags: SampleFlags) -> list[int]:
    """Number of the class of each sample; -1 for a run without."""
    if flags.label is not None and not model.conditional:
        raise UsageError(f"--label {flags.label}, but the run does not generate by class")
    if flags.label is not None:
        return [command.class_number(flags.label, model.classes, "--label")] * flags.n
    if not model.conditional:
        return [-1] * flags.n
    return [n % len(model.classes) for n in range(flags.n)]


def _make(model: "Model", flags: SampleFlags, classes: list[int], first: int) -> "np.ndarray":
    """Samples from number `first` on, one a class: uint8 [B, C, S]."""
    import torch

    from agehpc.observe.grids import to_uint8

    labels_B = command.labels_for(model, torch.tensor(classes)) if model.conditional else None
    made = model.sample(
        len(classes), flags.seed, first, labels=labels_B, truncation=flags.truncation
    )
    return to_uint8(made)


def _write_shards(
    model: "Model",
    flags: SampleFlags,
    make: "Callable[[int, int], np.ndarray]",
    classes: list[int],
    out: Path,
) -> dict[str, Any]:
    """Write the samples as shards; return figures about them."""
    from agehpc.latent.augment import write_shards

    manifest = write_shards(
        out,
        make,
        [model.classes[number] if number >= 0 else None for number in classes],
        model.config.data,
        fps=command.frames_per_second(model.config),
        batch=flags.batch,
        image_format=flags.image_format,
        validation_fraction=flags.validation_fraction,
        overwrite=flags.overwrite,
    )
    counts = {split: manifest.samples(split) for split in manifest.splits}
    return {"shards": str(out), **counts, "classes": ", ".join(manifest.classes) or "none"}


def reconstruct_main(argv: list[str]) -> int:
    """Run `agehpc reconstruct`."""
    run, flags = command.parse(ReconstructFlags, argv, "agehpc reconstruct")
    out = command.destination(run, flags, "reconstructed")
    model = command.load_model(run, flags, "generate", *([] if flags.latents else ["encode"]))
    data = command.split_data(model.config, flags)
    if flags.latents:
        pairs = _from_latents(model, data, flags, flags.latents)
    else:
        pairs = _encoded(model, data, flags)
    if flags.dry_run:
        told = {"run": str(run), "split": flags.split, "would_write_to": str(out)}
        return command.say(flags, told)
    import numpy as np

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


def _mean_sample(data: "DataConfig", limit: int) -> "np.ndarray":
    """The mean of training samples, float64 [C, S] in [0, 255]: what a blind guess would say."""
    import numpy as np

    from agehpc.data.loader import validation_batches

    total: np.ndarray | None = None
    count = 0
    for batch in validation_batches(data, split="train", batch=64, limit=limit):
        part = batch.pixels.numpy().sum(0, dtype=np.float64)
        total = part if total is None else total + part
        count += len(batch.pixels)
    assert total is not None, "check refuses an empty training split"
    return total / count
