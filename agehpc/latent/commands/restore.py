"""`agehpc restore RUN`: denoise, fill a hole, or raise the resolution of degraded samples."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from agehpc.config.schema import Config
from agehpc.config.systems import DenoisingSystem
from agehpc.errors import UsageError
from agehpc.latent import command

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from agehpc.data.loader import Batch
    from agehpc.latent.degrade import Degraded
    from agehpc.trained import Model


class RestoreFlags(command.SplitFlags):
    """Degrade samples, restore them, and show real | degraded | restored with their PSNR.

    A run of the denoising system restores by its network. Any other run with a generator
    restores by inversion: the latent whose sample, degraded alike, comes closest.
    """

    task: Literal["denoise", "inpaint", "superres2", "superres4"] | None = None
    """Gaussian noise, a hole in the middle, or half or a quarter of the resolution; default what a
    denoising run was trained for, otherwise denoise."""
    n: command.Count | None = 64
    """Samples to restore, at most."""
    noise: Annotated[float, Field(gt=0)] = 0.2
    """Standard deviation of the noise to remove, on pixels in [0, 1]."""
    box: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Side of the hole as a share of the sample's."""
    seed: command.Natural = 0
    """Seed of the noise: a sample's depends on (seed, its index in the split) alone."""
    steps: command.Natural = 100
    """Steps of Adam on each latent, by inversion."""
    lr: Annotated[float, Field(gt=0)] = 0.05
    """First learning rate; it falls to 0 as a cosine."""
    prior_weight: Annotated[float, Field(ge=0)] = 0.01
    """Weight of the mean of ((z - mean) / deviation)^2 under the prior, which keeps z likely."""
    starts: command.Count = 64
    """Draws of the prior to start from, where the run has no encoder."""
    columns: command.Count = 8
    """Samples in the grid."""


def _own_task(config: Config) -> str:
    """What a run was trained to restore; denoise where it was trained for none of the tasks."""
    system = config.system
    if not isinstance(system, DenoisingSystem):
        return "denoise"
    if system.corruption == "lowres":
        return f"superres{system.level:g}"
    return "inpaint" if system.corruption == "masking" else "denoise"


def main(argv: list[str]) -> int:
    """Run `agehpc restore`."""
    run, flags = command.parse(RestoreFlags, argv, "agehpc restore")
    out = command.destination(run, flags, "restored")
    model = command.load_model(run, flags)
    if not model.can("restore"):
        command.require(model, "generate")
    flags = flags.model_copy(update={"task": flags.task or _own_task(model.config)})
    data = command.split_data(model.config, flags)
    factor = {"superres2": 2, "superres4": 4}.get(flags.task, 1)
    if data.size % factor:
        raise UsageError(f"--task {flags.task}: {data.size} pixels do not divide by {factor}")
    if flags.dry_run:
        told = {"run": str(run), "task": flags.task, "would_write_to": str(out)}
        return command.say(flags, told)
    parts = [_restore(model, batch, flags) for batch in command.split_batches(data, flags)]
    rows = command.columns(parts, flags.columns)
    paths = command.save_rows(out / f"{flags.split}-{flags.task}", rows, model.config)
    how = "network" if model.can("restore") else "inversion"
    told = {"task": flags.task, "by": how, "n": sum(len(part[0]) for part in parts)}
    return command.say(flags, told | _figures(parts) | {"paths": paths})


def _restore(model: "Model", batch: "Batch", flags: RestoreFlags) -> "list[np.ndarray]":
    """Real, degraded and restored samples of a batch, uint8."""
    from agehpc.data.pixels import to_float
    from agehpc.latent.degrade import degrade
    from agehpc.observe.grids import to_uint8

    x_BCS = to_float(batch.pixels).to(model.device)
    assert flags.task is not None, "main fills it in"
    degraded = degrade(
        flags.task,
        x_BCS,
        batch.positions.tolist(),
        noise=flags.noise,
        box=flags.box,
        seed=flags.seed,
    )
    y_BCS = _restored(model, degraded, command.labels_for(model, batch.labels), flags)
    return [batch.pixels.numpy(), to_uint8(degraded.seen_BCS), to_uint8(y_BCS)]


def _restored(
    model: "Model", degraded: "Degraded", labels_B: "Tensor | None", flags: RestoreFlags
) -> "Tensor":
    from agehpc.latent.restore import restore_by_inversion, restore_by_network

    if model.can("restore"):
        return restore_by_network(model, degraded)
    return restore_by_inversion(
        model,
        degraded,
        steps=flags.steps,
        lr=flags.lr,
        prior_weight=flags.prior_weight,
        starts=flags.starts,
        seed=flags.seed,
        labels_B=labels_B,
    )


def _figures(parts: "list[list[np.ndarray]]") -> dict[str, Any]:
    """Mean PSNR of the degraded and of the restored samples.

    The degraded one of super-resolution is the bicubic enlargement.
    """
    import numpy as np

    from agehpc.evaluate.reconstruction import psnr

    def mean(index: int) -> float:
        return float(np.concatenate([psnr(part[index], part[0]) for part in parts]).mean())

    degraded, restored = mean(1), mean(2)
    return {
        "psnr_db_degraded": degraded,
        "psnr_db_restored": restored,
        "gain_db": restored - degraded,
    }
