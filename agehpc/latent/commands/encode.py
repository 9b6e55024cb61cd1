"""`agehpc encode RUN`: the latents of a split in a file."""

from pathlib import Path
from typing import Literal

from agehpc.errors import UsageError
from agehpc.latent import command


class EncodeFlags(command.SplitFlags):
    """Encode a split and write its latents with labels and positions to .npz or .parquet."""

    out: str | None = None
    """File to write, .npz or .parquet; default RUN/latents-SPLIT.npz."""
    format: Literal["npz", "parquet"] | None = None
    """Format of the file; default by the suffix of --out."""


def main(argv: list[str]) -> int:
    """Run `agehpc encode`."""
    run, flags = command.parse(EncodeFlags, argv, "agehpc encode")
    path, form = _target(run, flags)
    model = command.load_model(run, flags, "encode")
    data = command.split_data(model.config, flags)
    from agehpc.latent import codes
    from agehpc.latent.encode import encode, moments_match

    if form == "parquet":
        codes.import_pyarrow()
    if flags.dry_run:
        told = {"run": str(run), "split": flags.split, "would_write_to": str(path)}
        return command.say(flags, told)
    made = encode(model, command.split_batches(data, flags), command.origin_of(data, flags))
    path.parent.mkdir(parents=True, exist_ok=True)
    (codes.save_parquet if form == "parquet" else codes.save_npz)(path, made)
    figures = {"split": flags.split, "n": len(made.z_NZ), "latent": made.z_NZ.shape[1]}
    match = moments_match(made.z_NZ, model.config.model.prior)
    return command.say(flags, figures | match | {"paths": [str(path)]})


def _target(run: Path, flags: EncodeFlags) -> tuple[Path, str]:
    """The file to write and its format."""
    if flags.out is None:
        form = flags.format or "npz"
        return run / f"latents-{flags.split}.{form}", form
    path = Path(flags.out)
    form = flags.format or path.suffix.removeprefix(".")
    if form not in ("npz", "parquet"):
        raise UsageError(
            f"--out {path} does not say the format: end it in .npz or .parquet, or add --format"
        )
    return path, form
