"""`agehpc interpolate RUN`: what lies between two samples, or two draws."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from agehpc.errors import UsageError
from agehpc.latent import command
from agehpc.latent.commands.inputs import InputFlags, inputs

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from agehpc.trained import Model

FRAMES_PER_SECOND = 24.0


class InterpolateFlags(InputFlags):
    """Walk between pairs of latents: a row of pictures a pair, and an MP4."""

    n: command.Count | None = 4
    """Pairs, where --index names none: the first with the second, the third with the fourth..."""
    path: Literal["spherical", "linear"] = "spherical"
    """The great arc, on which latents keep their length, or the straight line."""
    steps: Annotated[int, Field(ge=2)] = 8
    """Pictures of a row, both ends included."""
    frames: Annotated[int, Field(ge=2)] = 48
    """Frames from one end to the other in the MP4 of a run on images."""


def main(argv: list[str]) -> int:
    """Run `agehpc interpolate`."""
    run, flags = command.parse(InterpolateFlags, argv, "agehpc interpolate")
    out = command.destination(run, flags, "interpolated")
    if len(flags.index) % 2:
        raise UsageError(f"--index names pairs: got {len(flags.index)} indices, an odd number")
    model = command.load_model(run, flags, "generate")
    found = inputs(model, flags, 2 * (flags.n or 1))
    pairs = len(found.z_BZ) // 2
    if not pairs:
        raise UsageError("one latent has nothing to be interpolated with; name two")
    if flags.dry_run:
        return command.say(flags, {"run": str(run), "pairs": pairs, "would_write_to": str(out)})
    ends = found.z_BZ[0 : 2 * pairs : 2], found.z_BZ[1 : 2 * pairs : 2]
    # The label of the first end holds all the way.
    labels_N = None if found.labels_B is None else found.labels_B[0 : 2 * pairs : 2]

    def walk(count: int) -> "np.ndarray":
        return _walk(model, flags, ends, labels_N, found.from_prior, count)

    paths = command.save_rows(
        out / "interpolation", list(walk(flags.steps)), model.config, along=True
    )
    if model.config.data.kind == "image":
        paths.append(_film(out, walk(flags.frames)))
    return command.say(flags, {"pairs": pairs, "path": flags.path, "paths": paths})


def _walk(
    model: "Model",
    flags: InterpolateFlags,
    ends: "tuple[Tensor, Tensor]",
    labels_N: "torch.Tensor | None",
    from_prior: bool,
    count: int,
) -> "np.ndarray":
    """Samples on the way: uint8 [pairs, count, C, S]."""
    import numpy as np
    import torch

    from agehpc.latent.interpolate import lerp, slerp
    from agehpc.observe.grids import to_uint8

    way = slerp if flags.path == "spherical" else lerp
    z_NKZ = way(*ends, torch.linspace(0, 1, count))
    rows = []
    for n, z_KZ in enumerate(z_NKZ):
        labels_K = None if labels_N is None else labels_N[n].expand(count)
        rows.append(command.decode_all(model, z_KZ, labels_K, from_prior, flags.batch))
    return np.stack([to_uint8(row) for row in rows])


def _film(out: Path, x_NTCHW: "np.ndarray") -> str:
    """Write pictures on the way as an MP4 that goes there and back, the pairs side by side."""
    import numpy as np

    from agehpc.observe.grids import save_mp4, video_grid

    there = x_NTCHW.transpose(0, 2, 1, 3, 4)
    path = out / "interpolation.mp4"
    frames = video_grid([np.concatenate([there, there[:, :, ::-1]], axis=2)], zoom=2)
    save_mp4(path, frames, FRAMES_PER_SECOND)
    return str(path)
