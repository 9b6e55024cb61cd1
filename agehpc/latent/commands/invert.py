"""`agehpc invert RUN`: the latents of samples, by the encoder and then by optimisation."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from agehpc.latent import command

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from agehpc.data.loader import Batch
    from agehpc.latent.codes import Codes, Origin
    from agehpc.trained import Model


class InvertFlags(command.SplitFlags):
    """Find the latents of samples: E(x), then steps of Adam; write latents.npz and a grid.

    Runs without an encoder start from the best of some draws of the prior.
    """

    n: command.Count | None = 64
    """Samples to invert, at most."""
    steps: command.Natural = 200
    """Steps of Adam on each latent; 0 keeps the encoder's."""
    lr: Annotated[float, Field(gt=0)] = 0.05
    """First learning rate; it falls to 0 as a cosine."""
    loss: Literal["mse", "l1"] = "mse"
    """Distance of the generated sample to the real one."""
    prior_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the mean of ((z - mean) / deviation)^2 under the prior, which keeps z likely."""
    starts: command.Count = 64
    """Draws of the prior to start from, where the run has no encoder."""
    seed: command.Natural = 0
    """Seed of these draws."""
    columns: command.Count = 8
    """Samples in the grid."""


def main(argv: list[str]) -> int:
    """Run `agehpc invert`."""
    run, flags = command.parse(InvertFlags, argv, "agehpc invert")
    out = command.destination(run, flags, "inverted")
    model = command.load_model(run, flags, "generate")
    data = command.split_data(model.config, flags)
    if flags.dry_run:
        told = {"run": str(run), "split": flags.split, "would_write_to": str(out)}
        return command.say(flags, told)
    from agehpc.latent import codes

    inverted = [_invert(model, batch, flags) for batch in command.split_batches(data, flags)]
    out.mkdir(parents=True, exist_ok=True)
    path = out / "latents.npz"
    origin = command.origin_of(data, flags, from_prior=not model.can("encode"))
    codes.save_npz(path, codes.join([part.codes(origin) for part in inverted]))
    rows = command.columns([part.pictures for part in inverted], flags.columns)
    paths = [str(path), *command.save_rows(out / f"{flags.split}-inversion", rows, model.config)]
    return command.say(flags, _figures(inverted, model) | {"paths": paths})


@dataclass(frozen=True)
class _Inverted:
    """A batch with its latents before and after, and real | before | after as uint8 [B, C, S]."""

    batch: "Batch"
    start_BZ: "Tensor"
    z_BZ: "Tensor"
    pictures: "list[np.ndarray]"

    def codes(self, origin: "Origin") -> "Codes":
        from agehpc.latent.codes import Codes

        z_BZ = self.z_BZ.cpu().numpy()
        return Codes(z_BZ, self.batch.labels.numpy(), self.batch.positions.numpy(), origin)


def _invert(model: "Model", batch: "Batch", flags: InvertFlags) -> _Inverted:
    from agehpc.data.pixels import to_float
    from agehpc.latent.invert import invert, start
    from agehpc.observe.grids import to_uint8

    x_BCS, labels_B = to_float(batch.pixels), command.labels_for(model, batch.labels)
    from_prior = not model.can("encode")
    start_BZ = start(model, x_BCS, starts=flags.starts, seed=flags.seed, labels_B=labels_B)
    z_BZ = invert(
        model,
        x_BCS,
        start_BZ,
        steps=flags.steps,
        lr=flags.lr,
        loss=flags.loss,
        prior_weight=flags.prior_weight,
        labels_B=labels_B,
        from_prior=from_prior,
    )
    made = [model.decode(z, labels_B, from_prior=from_prior) for z in (start_BZ, z_BZ)]
    return _Inverted(batch, start_BZ, z_BZ, [batch.pixels.numpy(), *map(to_uint8, made)])


def _figures(inverted: list[_Inverted], model: "Model") -> dict[str, Any]:
    """Means over all samples, before and after the optimisation."""
    import numpy as np

    from agehpc.evaluate.reconstruction import psnr, ssim
    from agehpc.latent.invert import departure

    def mean(values: "list[np.ndarray]") -> float:
        return float(np.concatenate(values).mean())

    def departures(z_BZ: "Tensor") -> "np.ndarray":
        return departure(z_BZ, model.config.model.prior).cpu().numpy()

    figures: dict[str, Any] = {"n": sum(len(part.z_BZ) for part in inverted)}
    for name, measure in (("psnr_db", psnr), ("ssim", ssim)):
        for when, index in (("before", 1), ("after", 2)):
            values = [measure(part.pictures[index], part.pictures[0]) for part in inverted]
            figures[f"{name}_{when}"] = mean(values)
    figures["gain_db"] = figures["psnr_db_after"] - figures["psnr_db_before"]
    figures["departure_before"] = mean([departures(part.start_BZ) for part in inverted])
    figures["departure_after"] = mean([departures(part.z_BZ) for part in inverted])
    return figures
