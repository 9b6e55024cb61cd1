"""`agehpc data inspect`: what a folder of shards holds, as a table and as pictures."""

import json
import sys
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from agehpc.errors import EXIT_DONE, UsageError, redact

if TYPE_CHECKING:  # imported when there is something to show: help must answer at once
    from agehpc.data.shards import Manifest, Where

COUNT = {"video": 12, "image": 64}


@dataclass(frozen=True)
class Inspect:
    """Say what a folder of shards holds, and draw samples of it with their classes."""

    directory: Annotated[str, Positional, arg(metavar="DIR", help_behavior_hint="(required)")] = ""
    """Folder made by `agehpc data pack` or `index`, or its URL."""
    out: str | None = None
    """PNG to draw samples into: clips as rows of frames, images as a grid."""
    split: Literal["train", "validation"] = "train"
    """Which samples to draw."""
    samples: int | None = None
    """How many to draw, evenly spaced over the split; default: 12 clips or 64 images."""
    frames: int = 8
    """Frames of a clip to draw, from its first to its last."""
    allow_pipe: Annotated[bool, FlagCreatePairsOff] = False
    """Run the command of a folder given as `pipe:COMMAND`."""
    json: Annotated[bool, FlagCreatePairsOff] = False
    """Print the table as JSON."""


def main(argv: list[str]) -> int:
    """Run `agehpc data inspect`."""
    flags = tyro.cli(Inspect, prog="agehpc data inspect", args=argv)
    if not flags.directory:
        raise UsageError("agehpc data inspect needs DIR: name a folder of shards")
    for flag, value in (("--samples", flags.samples), ("--frames", flags.frames)):
        if value is not None and value < 1:
            raise UsageError(f"{flag} must be 1 or more: got {value}")
    if flags.out is not None and not flags.out.lower().endswith(".png"):
        raise UsageError(f"--out {flags.out}: the sheet is a PNG, name a .png file")
    from agehpc.config.schema import DataConfig
    from agehpc.data.shards import read_manifest

    data = DataConfig(kind="image", frames=1, shards=flags.directory, allow_pipe=flags.allow_pipe)
    manifest = read_manifest(data)
    about = _about(data, manifest)
    if flags.out is not None:
        _draw(flags, data, manifest, flags.out)
    sys.stdout.write(json.dumps(about, indent=2) + "\n" if flags.json else _table(about, flags))
    return EXIT_DONE


def _draw(flags: Inspect, where: "Where", manifest: "Manifest", out: str) -> None:
    from agehpc.data.sheet import sheet
    from agehpc.files import atomic_path

    if not manifest.samples(flags.split):
        raise UsageError(f"--split {flags.split}: {flags.directory} has no such samples")
    count = flags.samples or COUNT[manifest.kind]
    image = sheet(where, manifest, flags.split, count, flags.frames)
    with atomic_path(out) as path:
        image.save(path, "PNG")


def _about(where: "Where", manifest: "Manifest") -> dict[str, Any]:
    from agehpc.data.index import read_index

    shards = []
    classes = {name: Counter[str]() for name in manifest.classes}
    for split, infos in manifest.splits.items():
        for info in infos:
            labels = Counter(sample.label for sample in read_index(where, info.name).samples)
            for label, count in labels.items():
                if label >= 0:
                    classes[manifest.classes[label]][split] += count
            held = {"shard": info.name, "split": split, "samples": info.samples}
            held |= {"frames": info.frames, "bytes": info.bytes}
            shards.append(held | {"classes": len(labels.keys() - {-1})})
    kept = ("dataset_id", "origin", "kind", "size", "channels", "pairs", "fps", "encoder")
    about = manifest.model_dump(include=set(kept))
    return about | {
        "shards": shards,
        "classes": {name: dict(counts) for name, counts in classes.items()},
        "rejects": dict(manifest.rejects),
    }


def _table(about: dict[str, Any], flags: Inspect) -> str:
    fps = f", {about['fps']:g} frames/s" if about["fps"] else ""
    directory = redact(flags.directory)
    lines = [
        f"{directory}: {about['kind']}s of {about['size']} pixels, {about['channels']} "
        f"channel(s){fps}, {about['origin']}, dataset id {about['dataset_id']}",
        "",
        f"{'split':<12}{'samples':>9}{'frames':>10}{'MB':>9}{'classes':>9}  shard",
    ]
    lines += [
        f"{s['split']:<12}{s['samples']:>9}{s['frames']:>10}{s['bytes'] / 1e6:>9.1f}"
        f"{s['classes']:>9}  {s['shard']}"
        for s in about["shards"]
    ]
    if about["classes"]:
        lines += ["", f"{'train':>9}{'validation':>12}  class"]
    for name, counts in about["classes"].items():
        lines.append(f"{counts.get('train', 0):>9}{counts.get('validation', 0):>12}  {name}")
    if about["rejects"]:
        lines += ["", f"{'left out':>9}  reason (see {directory}/rejects.jsonl)"]
    lines += [f"{count:>9}  {reason}" for reason, count in sorted(about["rejects"].items())]
    lines += [
        "",
        f"samples drawn into {flags.out}" if flags.out else "draw samples: --out FILE.png",
    ]
    return "\n".join(lines) + "\n"
