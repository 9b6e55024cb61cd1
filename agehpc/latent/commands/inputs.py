"""The latents that `interpolate` and `edit` start from: of samples, of draws, or from a file."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from agehpc.config.schema import DataConfig
from agehpc.errors import UsageError
from agehpc.latent import command

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from agehpc.data.loader import Batch
    from agehpc.trained import Model


class InputFlags(command.SplitFlags):
    """Flags of the commands that start from a few latents."""

    source: Literal["inputs", "noise"] = "inputs"
    """Latents of encoded samples of the split, or draws from the prior."""
    index: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Indices in the split, of the draws, or in the file; default the first ones."""
    latents: str | None = None
    """File of latents to start from instead, by `agehpc encode` or `agehpc invert`."""
    seed: command.Natural = 0
    """Seed of the draws: the n-th depends on (seed, n) alone."""


@dataclass(frozen=True)
class Inputs:
    """Latents [B, Z], the generator's labels, its bank, and the real samples where there are."""

    z_BZ: "Tensor"
    labels_B: "Tensor | None"
    from_prior: bool
    pixels: "np.ndarray | None" = None


def inputs(model: "Model", flags: InputFlags, count: int, only: str | None = None) -> Inputs:
    """The latents that the flags ask for: `count` of them, or those of --index.

    `only` keeps samples of one class. UsageError for an index that does not exist.
    """
    if only is not None and (flags.latents is not None or flags.source == "noise" or flags.index):
        raise UsageError(
            f"--only {only} chooses among encoded samples; leave out --latents, --source noise "
            "and --index"
        )
    if flags.latents is not None and flags.source == "noise":
        raise UsageError("--latents FILE and --source noise both say where to start; give one")
    if flags.latents is not None:
        return _from_file(model, flags, flags.latents, count)
    if flags.source == "noise":
        return _draws(model, flags, count)
    command.require(model, "encode")
    data = command.split_data(model.config, flags)
    if flags.index:
        batch = command.chosen_samples(data, flags, flags.index)
    elif only is not None:
        batch = _of_class(data, flags, count, only)
    else:
        batch = command.first_samples(data, flags, count)
    from agehpc.data.pixels import to_float

    labels_B = command.labels_for(model, batch.labels)
    z_BZ = model.encode(to_float(batch.pixels))
    return Inputs(z_BZ, labels_B, False, batch.pixels.numpy())


def _from_file(model: "Model", flags: InputFlags, file: str, count: int) -> Inputs:
    import torch

    from agehpc.latent.codes import read_npz

    codes = read_npz(file)
    z_NZ = codes.tensor(model)
    if model.conditional:
        command.same_classes(model.config, codes.origin.classes, file)
    rows = list(flags.index or range(min(count, len(z_NZ))))
    if max(rows) >= len(z_NZ):
        raise UsageError(f"--index {max(rows)}, but {file} holds {len(z_NZ)} latents")
    labels_N = command.labels_for(model, torch.from_numpy(codes.labels_N[rows]))
    return Inputs(z_NZ[rows], labels_N, codes.origin.from_prior)


def _draws(model: "Model", flags: InputFlags, count: int) -> Inputs:
    import torch

    command.require(model, "sample")
    numbers = list(flags.index or range(count))
    z_BZ = torch.cat([model.noise(1, flags.seed, number) for number in numbers])
    # A conditional generator shows its classes in turn.
    classes = max(len(model.classes), 1)
    labels_B = torch.tensor([number % classes for number in numbers])
    return Inputs(z_BZ, command.labels_for(model, labels_B), True)


def _of_class(data: DataConfig, flags: InputFlags, count: int, name: str) -> "Batch":
    from agehpc.data.loader import validation_batches

    number = command.class_number(name, command.classes_of(data), "--only")
    places: list[int] = []
    for batch in validation_batches(data, split=flags.split, batch=flags.batch, limit=None):
        places += batch.positions[batch.labels == number].tolist()
        if len(places) >= count:
            break
    if not places:
        raise UsageError(f"--only {name}: no such sample in the {flags.split} split")
    return command.chosen_samples(data, flags, places[:count])
