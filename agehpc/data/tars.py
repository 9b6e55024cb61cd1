"""What lies in a tar: its members and their places, with everything that is wrong with it.

webdataset and tarfile end in silence where a tar is cut between two members, and at the end mark
of the first of two tars in one file; both are errors here.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from agehpc.errors import DataError

BLOCK = 512
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
CHUNK = 1 << 24  # bytes looked at together


class Entry(NamedTuple):
    """A file in a tar: its full name, and where its bytes lie."""

    name: str
    offset: int
    size: int


def entries(path: Path) -> Iterator[Entry]:
    """Yield the files of a tar (USTAR, PAX or GNU, whatever the length of their names), in order.

    Folders are left out. DataError where it is no tar, is cut, goes on after its end, or holds a
    file twice or in a form whose bytes do not lie together.
    """
    length = path.stat().st_size
    names: dict[str, int] = {}
    end = 0
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                end = info.offset_data + -(-info.size // BLOCK) * BLOCK
                if info.issparse() or not (info.isfile() or info.isdir()):
                    raise DataError(
                        f"{path}: {info.name} is no plain file (a link, or with holes): make "
                        "the tar anew with --dereference --hard-dereference and without --sparse"
                    )
                if end > length:
                    raise _cut(path, length, info.name, info.offset)
                if info.isdir():
                    continue
                if info.name in names:
                    raise DataError(
                        f"{path} holds {info.name} twice, at bytes {names[info.name]} and "
                        f"{info.offset_data}: which of the two is meant cannot be known; unpack "
                        "it and make the tar anew"
                    )
                names[info.name] = info.offset_data
                yield Entry(info.name, info.offset_data, info.size)
    except tarfile.TarError as error:
        raise DataError(f"{path} is not a readable tar: {_what(path) or error}") from None
    _check_end(path, length, end)


def split_name(name: str) -> tuple[str, str] | None:
    """Split a member's name into the key of its sample and its extension, as webdataset does.

    The key is everything up to the first dot of the file's own name, folders included; the
    extension is in lower case. None for a hidden file, which belongs to no sample.
    """
    folder, slash, file = name.rpartition("/")
    stem, dot, extension = file.partition(".")
    if not stem or not dot:
        return None
    return f"{folder}{slash}{stem}", extension.lower()


def suffix(extension: str) -> str:
    """Return the last part of an extension, as suffixes are written: `input.png` gives `.png`."""
    return PurePosixPath(f"x.{extension}").suffix


def _check_end(path: Path, length: int, end: int) -> None:
    """Raise DataError unless two empty blocks end a tar, and nothing but empty ones follow."""
    with path.open("rb") as file:
        file.seek(end)
        if file.read(2 * BLOCK) != bytes(2 * BLOCK):
            raise _cut(path, length, "the end mark", end)
        while rest := file.read(CHUNK):
            if rest.count(0) != len(rest):
                raise DataError(
                    f"{path} goes on after its end mark at byte {end}: two tars joined by cat? "
                    "Join them with `tar --concatenate`, or unpack them"
                )


def _cut(path: Path, length: int, name: str, offset: int) -> DataError:
    return DataError(
        f"{path} is truncated: it ends at byte {length}, inside {name} which starts at byte "
        f"{offset}; copy it again or pack the shards again"
    )


def _what(path: Path) -> str | None:
    """Say what a file is that was taken for a tar, where its first bytes tell."""
    with path.open("rb") as file:
        head = file.read(BLOCK)
    if not head:
        return "it is empty; copy it again"
    for magic, name in PACKED.items():
        if head.startswith(magic):
            return f"it is compressed by {name}; decompress it"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<error")):
        text = head.lstrip().splitlines()[0][:40].decode("utf-8", "replace")
        return f"it is a page of a web server ('{text}'), not the shard; download it again"
    return None
