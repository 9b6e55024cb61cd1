"""Pairs of images: the input image that belongs to each sample, the target.

Inputs that are made (edges, grey, low resolution) come from the target as it is stored and are
stored as PNG: whoever has a target can make its input again, to the bit.
"""

import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from PIL import Image, ImageFilter

from agehpc.data.find import find
from agehpc.data.pictures import picture, png, store, upright
from agehpc.data.pieces import Pairs, Settings, UnusableError
from agehpc.data.sources import Source
from agehpc.errors import UsageError


def pair(data: bytes, given: bytes | None, settings: Settings) -> dict[str, bytes]:
    """Return the members of a pair by extension, the target first.

    `given` is the file of the input image where it has its own. UnusableError where one of the
    two cannot be decoded.
    """
    extension = settings.image_format
    assert settings.input_channels is not None
    if settings.pairs == "side-by-side":
        left, right = _halves(upright(data))
        first, second = (left, right) if settings.pairs_direction == "a2b" else (right, left)
        return {
            extension: store(second, settings, settings.channels),
            f"input.{extension}": store(first, settings, settings.input_channels),
        }
    target = picture(data, settings, settings.channels)
    if settings.pairs == "folders":
        assert given is not None
        return {
            extension: target,
            f"input.{extension}": picture(given, settings, settings.input_channels),
        }
    with Image.open(io.BytesIO(target)) as stored:
        made = _made(stored, settings)
    return {extension: target, "input.png": png(made)}


def match(inputs: str, targets: str, out: Path | None = None) -> list[Source]:
    """List the targets of two folders (or globs), each with its input image.

    A pair has the same path inside its folder, but for the suffix. UsageError where any is alone.
    """
    sides = [_by_stem(argument, out) for argument in (inputs, targets)]
    for found, other, missing in (
        (sides[0], sides[1], f"target in {targets}"),
        (sides[1], sides[0], f"input in {inputs}"),
    ):
        alone = sorted(found[stem].name for stem in found.keys() - other.keys())
        if alone:
            some = ", ".join(alone[:4]) + (", ..." if len(alone) > 4 else "")
            raise UsageError(
                f"{len(alone)} of {len(found)} images have no {missing}: {some}; --pairs folders "
                "needs the same names in both folders (suffixes may differ)"
            )
    return [replace(source, pair=sides[0][stem]) for stem, source in sides[1].items()]


def _by_stem(argument: str, out: Path | None) -> dict[str, Source]:
    _, sources = find([argument], "image", out=out)
    stems = [PurePosixPath(source.name).with_suffix("").as_posix() for source in sources]
    twice = sorted(stem for stem, count in Counter(stems).items() if count > 1)
    if twice:
        raise UsageError(
            f"{argument} holds {twice[0]} with more than one suffix: --pairs folders needs one "
            "image a name"
        )
    return dict(zip(stems, sources, strict=True))


def check_pairs(pairs: Pairs | None, factor: int, size: int, kind: str) -> None:
    """Refuse pairs that cannot be made of what there is."""
    if pairs is None:
        return
    if kind != "image":
        raise UsageError(f"--pairs {pairs} makes pairs of images: these are videos")
    if pairs == "lowres" and (factor not in (2, 4) or size % factor):
        raise UsageError(
            f"--pairs-factor must be 2 or 4 and divide --size {size}: got {factor}; choose "
            "another size or factor"
        )


def input_channels(
    settings: Settings,
    sources: Sequence[Source],
    channels_of: Callable[[Sequence[Source]], Literal[1, 3]],
) -> Literal[1, 3] | None:
    """Return the channels of the input images; `channels_of` looks at sources."""
    if settings.pairs is None:
        return None
    if settings.pairs == "side-by-side":
        return channels_of(sources)
    if settings.pairs == "folders":
        return channels_of([source.pair for source in sources if source.pair])
    if settings.pairs == "lowres":
        return settings.channels
    if settings.pairs == "grey" and settings.channels == 1:
        raise UsageError("--pairs grey needs colour images: these are grey (see --channels)")
    return 1


def _halves(image: Image.Image) -> tuple[Image.Image, Image.Image]:
    width, height = image.size
    if width % 2:
        raise UnusableError("unsupported", f"{width} pixels wide: two halves need an even width")
    half = width // 2
    return image.crop((0, 0, half, height)), image.crop((half, 0, width, height))


def _made(target: Image.Image, settings: Settings) -> Image.Image:
    if settings.pairs == "grey":
        return target.convert("L")
    if settings.pairs == "lowres":
        return lowres(target, settings.pairs_factor)
    return edges(target)


def lowres(image: Image.Image, factor: int) -> Image.Image:
    """Take detail away: scale down by `factor`, antialiased, and back up; bicubic both ways."""
    small = (image.width // factor, image.height // factor)
    return image.resize(small, Image.Resampling.BICUBIC).resize(
        image.size, Image.Resampling.BICUBIC
    )


def edges(image: Image.Image) -> Image.Image:
    """Return the edge map of an image: grey, bright lines on black.

    Pillow's FIND_EDGES, the Laplacian over the eight neighbours, of the luminance.
    """
    # Pillow's kernels leave the outermost pixels as they were: they must not look like edges.
    padded = Image.fromarray(np.pad(np.asarray(image.convert("L")), 1, mode="edge"))
    found = padded.filter(ImageFilter.FIND_EDGES)
    return found.crop((1, 1, image.width + 1, image.height + 1))
