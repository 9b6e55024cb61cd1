"""`agehpc data index`: tars made by others, trained on where they are."""

import sys
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from agehpc.errors import EXIT_DONE, UsageError


@dataclass(frozen=True)
class IndexTars:
    """Make tars of others usable as shards, without a copy: an index of each, and a manifest.

    Tars by GNU tar, `webdataset.ShardWriter`, img2dataset or video2dataset fit where every sample
    can be trained on as it is: images (JPEG, PNG, WebP) and clips (mp4) that are upright, square
    and of one size, clips of a constant rate. The rest needs `agehpc data pack TARS OUT`.
    Damaged samples are left out and listed in OUT/rejects.jsonl.

    Example: agehpc data index /data/laion/ --out shards/laion --size 64
    """

    paths: Annotated[
        tuple[str, ...], Positional, arg(metavar="DIR|TAR...", help_behavior_hint="(required)")
    ] = ()
    """Tars, or folders that hold them at any depth."""
    out: Annotated[str, arg(help_behavior_hint="(required)")] = ""
    """Folder for indices, manifest and links to the tars; the folder of the tars itself is fine."""
    kind: Literal["video", "image"] | None = None
    """What to train on where the tars hold both."""
    media: str | None = None
    """Extension of the member to train on where samples have several, such as input.png."""
    size: int | None = None
    """Height and width that every sample must have; default: the commonest."""
    labels: Literal["folder", "none"] = "folder"
    """Class of a sample: what its .cls or json member says, or else its folder; or none."""
    label_key: str | None = None
    """Field of the json members that names the class (default: class or label)."""
    validation: str | None = None
    """Pattern of the names of tars to hold out, such as 'val*'; default: tars named val... or
    valid..., or else a share of them."""
    validation_fraction: float = 0.1
    """Share of the tars that is held out where no name says it: 1 or more where there are 2."""
    skip_unfit: Annotated[bool, FlagCreatePairsOff] = False
    """Leave out samples that would have to be packed, instead of stopping at them."""
    workers: int = 1
    """Processes that read and decode; 0 does it in this process."""
    overwrite: Annotated[bool, FlagCreatePairsOff] = False
    """Replace the index that OUT already holds."""
    dry_run: Annotated[bool, FlagCreatePairsOff] = False
    """Check everything, and write nothing."""
    json: Annotated[bool, FlagCreatePairsOff] = False
    """Print the manifest as JSON instead of a summary."""


def main(argv: list[str]) -> int:
    """Run `agehpc data index`."""
    flags = tyro.cli(IndexTars, prog="agehpc data index", args=argv)
    _check(flags)
    from agehpc.data.indexing import Choice, index_tars
    from agehpc.data.summary import indexed

    choice = Choice(
        kind=flags.kind,
        media=flags.media and flags.media.lstrip(".").lower(),
        size=flags.size,
        labelled=flags.labels == "folder",
        label_key=flags.label_key,
        validation=flags.validation,
        validation_fraction=flags.validation_fraction,
        skip_unfit=flags.skip_unfit,
    )
    manifest = index_tars(
        flags.paths,
        flags.out,
        choice,
        workers=flags.workers,
        overwrite=flags.overwrite,
        write=not flags.dry_run,
    )
    sys.stdout.write(
        manifest.model_dump_json(indent=2) + "\n" if flags.json else indexed(manifest, flags.out)
    )
    return EXIT_DONE


def _check(flags: IndexTars) -> None:
    if not flags.paths or not flags.out:
        raise UsageError(
            "agehpc data index needs tars and --out: agehpc data index DIR --out FOLDER"
        )
    if flags.workers < 0:
        raise UsageError(f"--workers must be 0 or more: got {flags.workers}")
    if flags.labels == "none" and flags.label_key:
        raise UsageError(f"--label-key {flags.label_key} contradicts --labels none: drop one")
    if not 0 <= flags.validation_fraction < 1:
        raise UsageError(
            f"--validation-fraction must be 0 or more and below 1: got {flags.validation_fraction}"
        )
