"""What the commands that use a trained model share: flags, RUN, shards, classes, figures.

Imports nothing heavy, so that help answers at once.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import Field

from agehpc.config.schema import Config, DataConfig, Section
from agehpc.errors import EXIT_DONE, DataError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from agehpc.data.loader import Batch
    from agehpc.latent.codes import Codes, Origin
    from agehpc.trained import Model

Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]


class RunFlags(Section):
    """Flags of every command that reads a run."""

    out: str | None = None
    """Directory to write to; default a folder of the run named after the command."""
    checkpoint: str = "latest"
    """Checkpoint to use: latest, best (of a run trained with --evaluate.best), or a name as
    step-00001000."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    batch: Count = 32
    """Samples computed at once."""
    json_: bool = False
    """Print the figures and paths as JSON."""
    dry_run: bool = False
    """Load the run and what the command reads, say what would be written, and write nothing."""


class SplitFlags(RunFlags):
    """Flags of the commands that read a split."""

    shards: str | None = None
    """Directory or URL of shards; default the run's own."""
    allow_pipe: bool = False
    """Run the command of --shards `pipe:COMMAND`."""
    split: Literal["train", "validation"] = "validation"
    """Split to read."""
    n: Count | None = None
    """Samples to read, at most; default all."""


def parse(model: type[Any], argv: list[str], prog: str) -> tuple[Path, Any]:
    """Return the run directory and the flags of `prog RUN [flags]`; UsageError without RUN."""
    from agehpc.config.load import parse_command

    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
        raise UsageError(f"name a run directory first: {prog} RUN [flags]")
    run, words = (argv[0], argv[1:]) if not argv[0].startswith("-") else ("", argv)
    return Path(run), parse_command(words, prog=f"{prog} RUN", model=model)


def load_model(run: Path, flags: RunFlags, *uses: str) -> "Model":
    """The run's model on the device asked for; UsageError where it lacks one of `uses`."""
    from agehpc.trained import load

    if flags.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UsageError("--device cuda, but torch sees no GPU; use --device cpu")
    model = load(run, checkpoint=flags.checkpoint, device=flags.device)
    for use in uses:
        require(model, use)
    return model


def require(model: "Model", use: str) -> None:
    """Raise UsageError where a model cannot encode, generate, translate, restore or critique."""
    if not model.can(use):
        raise model.system.lacks(use)


def destination(run: Path, flags: RunFlags, name: str) -> Path:
    """Directory that a command writes to: --out, or RUN/name."""
    return Path(flags.out) if flags.out else run / name


def split_data(config: Config, flags: SplitFlags) -> DataConfig:
    """Checked settings of the data that a command reads.

    DataError where the shards are missing or the split is empty, ConfigError where they do not
    fit the model.
    """
    from agehpc.data.check import check
    from agehpc.data.mixture import read_shards

    data = config.data
    if flags.shards is not None:
        # Other shards than the run's are welcome here; only their form has to fit.
        data = data.at(flags.shards).model_copy(update={"allow_pipe": flags.allow_pipe})
    manifest = read_shards(data)
    checked = check(data, manifest)
    if config.model.conditional:
        same_classes(config, manifest.classes, data.where)
    if not manifest.samples(flags.split):
        other = "train" if flags.split == "validation" else "validation"
        raise DataError(f"the {flags.split} split of {data.where} is empty; use --split {other}")
    return checked


def same_classes(config: Config, classes: Sequence[str], where: str) -> None:
    """Raise DataError unless classes are numbered as a conditional run's generator knows them."""
    wanted = config.data.classes or ()
    if tuple(classes) != wanted:
        raise DataError(
            f"the run's generator knows the classes {', '.join(wanted)}, and {where} has "
            f"{', '.join(classes) or 'none'}: their numbers would stand for other classes; use "
            "shards with the run's classes"
        )


def split_batches(data: DataConfig, flags: SplitFlags) -> "Iterator[Batch]":
    """The first --n samples of a split, --batch at a time."""
    from agehpc.data.loader import validation_batches

    return validation_batches(data, split=flags.split, batch=flags.batch, limit=flags.n)


def first_samples(data: DataConfig, flags: SplitFlags, count: int) -> "Batch":
    """The first `count` samples of a split in one batch, or all where it has fewer."""
    from agehpc.data.loader import validation_batches

    return next(iter(validation_batches(data, split=flags.split, batch=count, limit=count)))


def chosen_samples(data: DataConfig, flags: SplitFlags, positions: Sequence[int]) -> "Batch":
    """Samples by their index in the split; UsageError for one that it does not have."""
    from agehpc.data.loader import samples_at
    from agehpc.data.mixture import read_shards

    total = read_shards(data).samples(flags.split)
    outside = [p for p in positions if not 0 <= p < total]
    if outside:
        raise UsageError(
            f"no sample {outside[0]} in the {flags.split} split of {data.where}: it has {total}, "
            f"counted from 0"
        )
    return samples_at(data, split=flags.split, positions=positions)


def classes_of(data: DataConfig) -> tuple[str, ...]:
    """Names of the classes of the shards that are read."""
    from agehpc.data.mixture import read_shards

    return read_shards(data).classes


def origin_of(data: DataConfig, flags: SplitFlags, *, from_prior: bool = False) -> "Origin":
    """Where latents of the samples come from that a command reads."""
    from agehpc.latent.codes import Origin

    assert data.dataset_id is not None, "check fills it in"
    return Origin(classes_of(data), flags.split, data.dataset_id, from_prior)


def same_samples(codes: "Codes", data: DataConfig, flags: SplitFlags) -> None:
    """Raise UsageError unless latents are of the split and shards that a command reads."""
    origin = codes.origin
    if origin.dataset_id != data.dataset_id:
        raise UsageError(
            f"the latents are of the samples of dataset {origin.dataset_id or 'none (draws)'}, "
            f"{data.where} is {data.dataset_id}; set --shards to the shards they were made from"
        )
    if origin.split != flags.split:
        raise UsageError(f"the latents are of the {origin.split} split; add --split {origin.split}")


def class_number(name: str, classes: Sequence[str], flag: str) -> int:
    """Number of a class by name; UsageError for an unknown one, naming the classes."""
    if not classes:
        raise UsageError(
            f"{flag} {name}, but the shards have no classes; pack them with folders as classes"
        )
    if name not in classes:
        raise UsageError(f"{flag} {name}: no such class; there are {', '.join(classes)}")
    return classes.index(name)


def labels_for(model: "Model", labels_B: "torch.Tensor") -> "torch.Tensor | None":
    """Labels as a model's generator wants them: None unless it is conditional.

    DataError where a conditional model meets a sample without a class.
    """
    if not model.conditional:
        return None
    if bool((labels_B < 0).any()):
        raise DataError(
            "the run's generator needs the class of every sample, and the shards have samples "
            "without one; use shards with classes"
        )
    return labels_B.to(model.device)


def decode_all(
    model: "Model",
    z_NZ: "torch.Tensor",
    labels_N: "torch.Tensor | None",
    from_prior: bool,
    batch: int,
) -> "torch.Tensor":
    """G(z) of any number of latents, `batch` at a time: [N, C, S] in [-1, 1]."""
    import torch

    return torch.cat(
        [
            model.decode(
                z_NZ[i : i + batch],
                None if labels_N is None else labels_N[i : i + batch],
                from_prior=from_prior,
            )
            for i in range(0, len(z_NZ), batch)
        ]
    )


def frames_per_second(config: Config) -> float:
    """Playing speed of a run's clips; 1 for images."""
    from agehpc.data.mixture import read_shards

    if config.data.kind == "image":
        return 1.0
    try:
        fps = read_shards(config.data).fps or 25.0
    except DataError:  # a run outlives its shards: only the playing speed is lost
        fps = 25.0
    return fps / config.data.strides[0]


def columns(parts: "Sequence[Sequence[np.ndarray]]", count: int) -> "list[np.ndarray]":
    """Rows of pictures, joined over batches and cut to their first `count` columns."""
    import numpy as np

    return [np.concatenate(row)[:count] for row in zip(*parts, strict=True)]


def save_rows(
    stem: Path, rows: "Sequence[np.ndarray]", config: Config, *, along: bool = False
) -> list[str]:
    """Write rows of uint8 samples as a picture, and as MP4 for clips; return the paths.

    The film strip of clips shows columns (real above its reconstruction), or where the rows are
    walks, `along` them.
    """
    from agehpc.observe import grids

    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = grids.save_grid(stem, rows, frames_per_second(config))
    if along and config.data.kind == "video":
        import numpy as np

        grids.save_png(stem.with_suffix(".png"), grids.film_strip([np.concatenate(rows)]))
    return [str(path) for path in paths]


class _Telling(Protocol):
    @property
    def json_(self) -> bool: ...


def say(flags: _Telling, told: Mapping[str, Any]) -> int:
    """Print figures and paths, as lines or as JSON; return the exit code."""
    if flags.json_:
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
        return EXIT_DONE
    for name, value in told.items():
        if isinstance(value, list):
            sys.stdout.writelines(f"{item}\n" for item in value)
        else:
            shown = f"{value:.4g}" if isinstance(value, float) else value
            sys.stdout.write(f"{name}  {shown}\n")
    return EXIT_DONE
