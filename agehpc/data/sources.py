"""What there is to pack: a source with its label, group and split."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from agehpc.data.shards import Kind, Split
from agehpc.errors import UsageError

VIDEO_SUFFIXES = (
    *(".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"),
)
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Source:
    """One file to pack, or one member of a tar; subclasses are rows of arrays and records."""

    path: Path
    """The file, or the tar that holds it."""
    name: str
    """Path inside SRC, with forward slashes."""
    folder: str
    """Name of the folder that holds the file."""
    offset: int | None = None
    """Where the member starts in its tar; None for a file."""
    size: int = 0
    """Bytes of the member."""
    pair: "Source | None" = None
    """The input image of this target, where it has a file of its own."""
    label: str | None = None
    """The class that the file itself names."""
    channels: int | None = None
    """Channels of its image where they are known without reading it."""

    @property
    def kind(self) -> Kind | None:
        """Kind by extension; None for a file that is neither."""
        suffix = PurePosixPath(self.name).suffix.lower()
        if suffix in VIDEO_SUFFIXES:
            return "video"
        return "image" if suffix in IMAGE_SUFFIXES else None

    def read(self) -> bytes:
        """Return the bytes of the source."""
        if self.offset is None:
            return self.path.read_bytes()
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def group_of(source: Source, pattern: re.Pattern[str] | None) -> str:
    """Return what ties a source to others: the pattern's first group, or the source's name."""
    if pattern is None:
        return source.name
    match = pattern.search(source.name)
    if match is None or match.group(1) is None:
        raise UsageError(
            f"--group-by '{pattern.pattern}' does not match {source.name}: it must match the "
            "path of every source inside its SRC"
        )
    return match.group(1)


def group_pattern(text: str | None) -> re.Pattern[str] | None:
    """Compile --group-by; UsageError unless it is a regular expression with a group."""
    if text is None:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise UsageError(f"--group-by '{text}' is not a regular expression: {error}") from None
    if not pattern.groups:
        raise UsageError(f"--group-by '{text}' has no group: put (...) around what ties sources")
    return pattern


def split_groups(groups: Iterable[str], fraction: float) -> dict[str, Split]:
    """Give each group its split.

    The groups are ranked by a hash of their name and the first round(n * fraction) are held out,
    but at least one and never all where there are two groups and the fraction is not 0.
    """
    ranked = sorted(set(groups), key=lambda name: (hash_of(name), name))
    held_out = 0
    if fraction > 0 and len(ranked) > 1:
        held_out = min(max(round(len(ranked) * fraction), 1), len(ranked) - 1)
    return {name: "validation" if i < held_out else "train" for i, name in enumerate(ranked)}


def hash_of(name: str) -> bytes:
    """Return what names are ranked by: 16 bytes."""
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).digest()
