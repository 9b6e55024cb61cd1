"""What packing makes: the settings of samples, the pieces of a source, and why one gives none."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from agehpc.data.shards import Kind

Fit = Literal["crop", "pad"]
Pairs = Literal["edges", "grey", "lowres", "side-by-side", "folders"]
Direction = Literal["a2b", "b2a"]


@dataclass(frozen=True)
class Settings:
    """How samples are made."""

    kind: Kind
    size: int
    fit: Fit
    channels: Literal[1, 3]
    fps: Fraction | None
    clip_len: int
    gop: int
    crf: int
    image_format: Literal["jpg", "png", "webp"]
    enlarge: bool = True
    """Whether `pad` may enlarge; pictures out of arrays keep their pixels."""
    pairs: Pairs | None = None
    """Where the input image of each sample comes from; None makes no pairs."""
    pairs_factor: int = 4
    """Of `lowres`."""
    pairs_direction: Direction = "a2b"
    """Of `side-by-side`: a2b has the input on the left."""
    input_channels: Literal[1, 3] | None = None
    """Channels of the input image; None without pairs."""
    sound: bool = False
    """Whether the sound of videos is kept."""


Layout = Literal["NHW", "NHWC", "NCHW", "NTHWC"]


@dataclass(frozen=True)
class Reading:
    """How files that hold many samples are read; None leaves a choice to what they hold."""

    layout: Layout | None = None
    """Order of an array's dimensions: N samples, T frames, H height, W width, C channels."""
    image_key: str | None = None
    """Name of the images, in an .npz or in the records of a TFRecord."""
    label_key: str | None = None
    """Name of the labels, likewise."""
    idx_labels: Path | None = None
    """The labels of an IDX file of images."""


@dataclass(frozen=True)
class Piece:
    """One sample: its media members by extension, the first of them the sample itself, and what
    the json member says.
    """

    media: dict[str, bytes]
    about: dict[str, Any]


@dataclass(frozen=True)
class Reject:
    """A source that gives no samples, and why."""

    reason: str
    detail: str


class UnusableError(Exception):
    """Raised for a source that cannot be packed."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reject = Reject(reason, detail)
