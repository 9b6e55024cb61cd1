"""What there is to pack: files in folders, globs and tar archives, with label, group and split."""

import glob
import hashlib
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from agehpc.data.shards import Kind, Split
from agehpc.errors import DataError, UsageError

VIDEO_SUFFIXES = (
    *(".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"),
)
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
PACKED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")


@dataclass(frozen=True)
class Source:
    """One file to pack, or one member of a tar."""

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


def find(arguments: Sequence[str], kind: Kind | None) -> tuple[Kind, list[Source]]:
    """List the videos or images under every SRC, and say which of the two they are.

    The list is ordered by a hash of the name: neighbours in the shards are unrelated, and the
    order does not depend on the file system. UsageError where nothing, or both kinds, are found.
    """
    found = [source for argument in arguments for source in _expand(argument)]
    kinds: set[Kind] = {source.kind for source in found if source.kind}
    if kind is None and len(kinds) > 1:
        raise UsageError(
            f"{' '.join(arguments)} holds videos and images: choose with --kind video or "
            "--kind image"
        )
    if not kinds or (kind and kind not in kinds):
        raise UsageError(
            f"no {kind or 'video or image'} files in {' '.join(arguments)} "
            f"({len(found)} files seen); known extensions: "
            f"{' '.join(VIDEO_SUFFIXES + IMAGE_SUFFIXES)}"
        )
    chosen = kind or kinds.pop()
    unique = {(s.path.resolve(), s.offset): s for s in found if s.kind == chosen}
    return chosen, sorted(unique.values(), key=lambda s: (_hash(s.name), s.name, str(s.path)))


def _expand(argument: str) -> Iterator[Source]:
    path = Path(argument)
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            yield from _file(file, file.relative_to(path).as_posix())
    elif path.is_file():
        yield from _file(path, path.name)
    elif glob.has_magic(argument):
        matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207 (absolute patterns)
        if not matches:
            raise UsageError(f"no file matches {argument}")
        base = Path(*_plain_parts(path))
        for match in map(Path, matches):
            for file in sorted(match.rglob("*")) if match.is_dir() else [match]:
                yield from _file(file, file.relative_to(base).as_posix())
    else:
        raise UsageError(f"no such file, folder or pattern: {argument}")


def _plain_parts(pattern: Path) -> Iterator[str]:
    """Yield the leading parts of a pattern that hold no wildcard: what its matches lie under."""
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            return
        yield part


def _file(path: Path, name: str) -> Iterator[Source]:
    if not path.is_file():
        return
    if path.name.lower().endswith(PACKED_TARS):
        raise UsageError(f"{path} is a compressed tar: unpack it, or decompress it to a .tar")
    if path.suffix.lower() == ".tar":
        yield from _tar(path)
    else:
        yield Source(path, name, path.resolve().parent.name)


def _tar(path: Path) -> Iterator[Source]:
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                if info.isfile():
                    folder = PurePosixPath(info.name).parent.name or path.stem
                    yield Source(path, info.name, folder, info.offset_data, info.size)
    except tarfile.TarError as error:
        raise DataError(f"{path} is not a readable tar: {error}") from None


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
    ranked = sorted(set(groups), key=lambda name: (_hash(name), name))
    held_out = 0
    if fraction > 0 and len(ranked) > 1:
        held_out = min(max(round(len(ranked) * fraction), 1), len(ranked) - 1)
    return {name: "validation" if i < held_out else "train" for i, name in enumerate(ranked)}


def _hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).digest()
