"""`agehpc transfer RUN`: style onto content, or samples translated to another domain."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from agehpc.errors import DataError, UsageError
from agehpc.latent import command

if TYPE_CHECKING:
    import numpy as np
    import torch

    from agehpc.config.schema import DataConfig
    from agehpc.data.loader import Batch
    from agehpc.latent.directions import Components
    from agehpc.trained import Model


class TransferFlags(command.SplitFlags):
    """Put the style of some samples onto the content of others, or translate samples.

    A run with latents mixes them: a row a content, a column a style. A run of pix2pix translates
    samples of the split and shows input | output | target with the PSNR to the target, a run of
    cyclegan input | output | there and back with the PSNR to the input.
    """

    content: tuple[command.Natural, ...] = (0, 1, 2, 3)
    """Indices in the split of the samples that give the content."""
    style: tuple[command.Natural, ...] = (4, 5, 6, 7)
    """Indices in the split of the samples that give the style."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of the latent's coordinates that comes from the style."""
    take: Literal["first", "last"] = "first"
    """Which: of principal components the first are those of largest variance."""
    basis: Literal["components", "dimensions"] = "components"
    """Coordinates: principal components of the training split's latents, or the latent's own."""
    fit_n: command.Count = 4096
    """Training samples, of the shards that are read, that give the components, at most."""
    to: str | None = None
    """Domain to translate to, for a run of cyclegan."""
    n: command.Count | None = 64
    """Samples to translate, at most."""
    columns: command.Count = 8
    """Samples in the grid of a translation."""


def main(argv: list[str]) -> int:
    """Run `agehpc transfer`."""
    run, flags = command.parse(TransferFlags, argv, "agehpc transfer")
    out = command.destination(run, flags, "transferred")
    model = command.load_model(run, flags)
    if model.can("translate"):
        return _translate(model, run, flags, out)
    if flags.to is not None:
        command.require(model, "translate")
    for use in ("encode", "generate"):
        command.require(model, use)
    return _mix(model, run, flags, out)


def _mix(model: "Model", run: Path, flags: TransferFlags, out: Path) -> int:
    import numpy as np

    from agehpc.data.pixels import to_float
    from agehpc.latent.transfer import choose, mix
    from agehpc.observe.grids import to_uint8

    if not flags.content or not flags.style:
        raise UsageError("--content and --style each name at least one sample")
    data = command.split_data(model.config, flags)
    content = command.chosen_samples(data, flags, flags.content)
    style = command.chosen_samples(data, flags, flags.style)
    if flags.dry_run:
        return command.say(flags, {"run": str(run), "would_write_to": str(out)})
    chosen_Z = choose(model.config.model.latent, flags.share, flags.take)
    components = _components(model, flags) if flags.basis == "components" else None
    content_AZ, style_BZ = (model.encode(to_float(b.pixels)) for b in (content, style))
    z_ABZ = mix(content_AZ, style_BZ, chosen_Z, components)
    labels_A = command.labels_for(model, content.labels)
    top = np.concatenate([np.full_like(content.pixels[:1].numpy(), 255), style.pixels.numpy()])
    rows = [top]
    for a, z_BZ in enumerate(z_ABZ):
        labels_B = None if labels_A is None else labels_A[a].expand(len(z_BZ))
        y_BCS = to_uint8(command.decode_all(model, z_BZ, labels_B, False, flags.batch))
        rows.append(np.concatenate([content.pixels[a : a + 1].numpy(), y_BCS]))
    paths = command.save_rows(out / "transfer", rows, model.config, along=True)
    told: dict[str, Any] = {"coordinates": int(chosen_Z.sum()), "basis": flags.basis}
    if components is not None:
        told["variance_share"] = float(components.shares_Z[chosen_Z].sum())
    return command.say(flags, told | {"paths": paths})


def _components(model: "Model", flags: TransferFlags) -> "Components":
    from agehpc.latent.directions import principal_components
    from agehpc.latent.encode import encode

    fit = flags.model_copy(update={"split": "train", "n": flags.fit_n})
    data = command.split_data(model.config, fit)
    made = encode(model, command.split_batches(data, fit), command.origin_of(data, fit))
    return principal_components(made.z_NZ)


def _translate(model: "Model", run: Path, flags: TransferFlags, out: Path) -> int:
    from agehpc.data.pixels import to_float
    from agehpc.observe.grids import to_uint8

    data = command.split_data(model.config, flags)
    _check_domain(data, flags)
    if flags.dry_run:
        told = {"run": str(run), "split": flags.split, "would_write_to": str(out)}
        return command.say(flags, told)
    parts: list[list[np.ndarray]] = []
    for batch in command.split_batches(data, flags):
        x_BCS, target_BCS, source = _sides(data, batch, flags)
        y_BCS = model.translate(to_float(x_BCS), to=flags.to)
        if target_BCS is None:
            third = to_uint8(model.translate(y_BCS, to=source))
        else:
            third = target_BCS.numpy()
        parts.append([x_BCS.numpy(), to_uint8(y_BCS), third])
    if not parts:  # unpaired data ends with its smaller domain
        raise DataError(
            f"the {flags.split} split of {data.where} has samples of one of the domains "
            f"{' and '.join(data.domains or ())} alone; use another --split"
        )
    channels = max(row.shape[1] for row in parts[0])
    alike = [[_to_channels(row, channels) for row in part] for part in parts]
    rows = command.columns(alike, flags.columns)
    told: dict[str, Any] = {"n": sum(len(part[0]) for part in parts)}
    if flags.to is None:
        told["psnr_db"] = _mean_psnr(parts, 1)
    else:
        told |= {"to": flags.to, "cycle_psnr_db": _mean_psnr(parts, 0)}
    name = f"{flags.split}-translation" + (f"-{flags.to}" if flags.to else "")
    return command.say(flags, told | {"paths": command.save_rows(out / name, rows, model.config)})


def _mean_psnr(parts: "Sequence[Sequence[np.ndarray]]", column: int) -> float:
    """Mean PSNR of the last column to another."""
    import numpy as np

    from agehpc.evaluate.reconstruction import psnr

    return float(np.concatenate([psnr(part[2], part[column]) for part in parts]).mean())


def _check_domain(data: "DataConfig", flags: TransferFlags) -> None:
    """Raise UsageError unless --to names a domain where there are two, and nothing else."""
    if data.domains is None:
        if flags.to is not None:
            raise UsageError(f"--to {flags.to}, but the run translates pairs: leave it out")
    elif flags.to not in data.domains:
        given = "which" if flags.to is None else f"{flags.to} is none of the run's"
        raise UsageError(f"--to: {given}; choose from the domains {' and '.join(data.domains)}")


def _sides(
    data: "DataConfig", batch: "Batch", flags: TransferFlags
) -> "tuple[torch.Tensor, torch.Tensor | None, str | None]":
    """What is translated; what should come out, or the domain that it is of."""
    if batch.second is None:
        raise DataError(
            f"{data.where} holds no pairs and no second domain; pack it with --pairs, or train "
            "with --data.pairing unpaired"
        )
    if data.domains is None:
        return batch.second, batch.pixels, None
    first, second = data.domains
    if flags.to == first:
        return batch.second, None, second
    return batch.pixels, None, first


def _to_channels(x_BCS: "np.ndarray", channels: int) -> "np.ndarray":
    """Grey as RGB where the other side of a pair has colours."""
    return x_BCS if x_BCS.shape[1] == channels else x_BCS.repeat(channels, axis=1)
