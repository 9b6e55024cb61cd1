"""`agehpc edit RUN`: move latents along a direction and show what changes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from agehpc.errors import UsageError
from agehpc.latent import command
from agehpc.latent.commands.inputs import InputFlags, Inputs, inputs

if TYPE_CHECKING:
    from agehpc.latent.codes import Codes
    from agehpc.latent.directions import Directions
    from agehpc.trained import Model


class EditFlags(InputFlags):
    """Edit samples along a class, principal components or a saved direction, a column a strength.

    A strength of 1 is the way from the mean of the other classes to that of the class, one
    standard deviation along a component, or a saved step.
    """

    label: str | None = None
    """Class to move towards: the direction is found from labelled samples."""
    method: Literal["lda", "mean"] = "lda"
    """Normal of Fisher's linear discriminant, or difference of the class means."""
    pca: command.Count | None = None
    """Edit along this many principal components of the latents, a picture each."""
    direction: str | None = None
    """Edit along the directions of a file that --save-direction wrote."""
    save_direction: str | None = None
    """File to write the directions to (.npz)."""
    strengths: Annotated[tuple[float, ...], Field(min_length=1)] = (-1.0, 0.0, 1.0, 2.0, 3.0)
    """Strengths, a column each; 0 is the unedited sample."""
    fit_split: Literal["train", "validation"] = "train"
    """Split of the shards that are read that --label and --pca learn from."""
    fit_n: command.Count = 4096
    """Samples that they learn from, at most."""
    fit_latents: str | None = None
    """File of latents that they learn from instead."""
    n: command.Count | None = 8
    """Samples to edit, where --index names none."""
    only: str | None = None
    """Edit samples of this class alone."""


def main(argv: list[str]) -> int:
    """Run `agehpc edit`."""
    run, flags = command.parse(EditFlags, argv, "agehpc edit")
    out = command.destination(run, flags, "edited")
    ways = [flags.label, flags.pca, flags.direction]
    if sum(way is not None for way in ways) != 1:
        raise UsageError("name one direction: --label CLASS, --pca COUNT or --direction FILE")
    model = command.load_model(run, flags, "generate")
    found = inputs(model, flags, flags.n or 1, flags.only)
    directions, figures = _directions(model, flags)
    if flags.dry_run:
        told = {"run": str(run), "n": len(found.z_BZ), "would_write_to": str(out)}
        return command.say(flags, told)
    paths = []
    for name, step_Z in zip(directions.names, directions.steps_KZ, strict=True):
        stem = out / f"edit-{name.replace(' ', '-').replace('/', '-')}"
        paths += command.save_rows(
            stem, _rows(model, flags, found, step_Z), model.config, along=True
        )
    if flags.save_direction is not None:
        from agehpc.latent.directions import save_directions

        path = Path(flags.save_direction)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_directions(path, directions)
        paths.append(str(path))
    told = {"n": len(found.z_BZ), "strengths": " ".join(map(str, flags.strengths))}
    return command.say(flags, told | figures | {"paths": paths})


def _rows(model: "Model", flags: EditFlags, found: Inputs, step_Z: Any) -> list[Any]:
    """A row a sample: the real one, where there is one, and one picture a strength."""
    import numpy as np

    from agehpc.latent.directions import apply
    from agehpc.observe.grids import to_uint8

    columns = [] if found.pixels is None else [found.pixels]
    for strength in flags.strengths:
        z_BZ = apply(found.z_BZ, step_Z, strength)
        made = command.decode_all(model, z_BZ, found.labels_B, found.from_prior, flags.batch)
        columns.append(to_uint8(made))
    return list(np.stack(columns, axis=1))


def _directions(model: "Model", flags: EditFlags) -> "tuple[Directions, dict[str, Any]]":
    """The directions that the flags ask for, and figures about them."""
    import numpy as np

    from agehpc.latent import directions as d

    if flags.direction is not None:
        found = d.read_directions(flags.direction, model.config.model.latent)
        return found, {"direction": ", ".join(found.names)}
    codes = _fitted(model, flags)
    if flags.pca is not None:
        components = d.principal_components(codes.z_NZ)
        found = components.directions(flags.pca)
        shares = components.shares_Z[: flags.pca]
        return found, {"fitted_on": len(codes.z_NZ), "variance_share": float(shares.sum())}
    assert flags.label is not None
    number = command.class_number(flags.label, codes.origin.classes, "--label")
    is_class_N = codes.labels_N == number
    found = d.class_direction(codes.z_NZ, is_class_N, flags.label, flags.method)
    return found, {
        "fitted_on": len(codes.z_NZ),
        "separation": d.separation(codes.z_NZ, is_class_N, found.steps_KZ[0]),
        "step_length": float(np.linalg.norm(found.steps_KZ[0])),
    }


def _fitted(model: "Model", flags: EditFlags) -> "Codes":
    """The latents that directions are learnt from."""
    from agehpc.latent.codes import read_npz
    from agehpc.latent.encode import encode

    if flags.fit_latents is not None:
        codes = read_npz(flags.fit_latents)
        codes.tensor(model)  # refuses latents of another size
        return codes
    command.require(model, "encode")
    fit = flags.model_copy(update={"split": flags.fit_split, "n": flags.fit_n})
    data = command.split_data(model.config, fit)
    return encode(model, command.split_batches(data, fit), command.origin_of(data, fit))
