"""Tars that others made: which of their samples can be trained on where they are."""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from agehpc.data.groups import Group, folder_of, groups, named_label, read
from agehpc.data.index import Index, Member, describe, member_of
from agehpc.data.pieces import Reject, UnusableError
from agehpc.data.shards import Kind, ShardInfo
from agehpc.data.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from agehpc.data.tars import Entry, suffix
from agehpc.data.usable import Look, look
from agehpc.errors import UsageError

SUFFIXES: dict[Kind, tuple[str, ...]] = {"video": VIDEO_SUFFIXES, "image": IMAGE_SUFFIXES}


@dataclass(frozen=True)
class Wanted:
    """What to look for in a tar."""

    kind: Kind
    media: str | None
    """Extension of the sample, where one has several members of the kind."""
    label_key: str | None
    """Field of the json member that names the class."""


@dataclass(frozen=True)
class Found:
    """A sample that can be read where it is."""

    key: str
    folder: str
    label: str | None
    media: Member
    json_member: Member | None
    look: Look


@dataclass(frozen=True)
class Scanned:
    """A tar: what the manifest says of it, and its samples, usable and not, by key."""

    shard: ShardInfo
    samples: tuple[Found, ...]
    rejects: tuple[tuple[str, Reject], ...]


def kind_of(path: Path) -> Kind | None:
    """Return the kind of media that a tar holds; UsageError where it holds both."""
    seen = {suffix(extension) for group in groups(path).values() for extension in group}
    kinds: list[Kind] = [kind for kind, known in SUFFIXES.items() if seen & set(known)]
    if len(kinds) > 1:
        raise UsageError(f"{path} holds videos and images: choose with --kind video or image")
    return kinds[0] if kinds else None


def scan_tar(path: Path, name: str, wanted: Wanted) -> Scanned:
    """Read and decode every sample of a tar, which the manifest is to know by `name`."""
    samples, rejects = [], []
    with path.open("rb") as file:
        for key, group in groups(path).items():
            try:
                samples.append(_sample(path, file, key, group, wanted))
            except UnusableError as error:
                rejects.append((key, error.reject))
    bare = Index(shard=name, bytes=path.stat().st_size, samples=())
    return Scanned(describe(path, bare), tuple(samples), tuple(rejects))


def _sample(path: Path, file: BinaryIO, key: str, group: Group, wanted: Wanted) -> Found:
    entry = _media(path, key, group, wanted)
    seen = look(read(file, entry), wanted.kind)
    return Found(
        key=key,
        folder=folder_of(path, key),
        label=named_label(file, group, wanted.label_key),
        media=member_of(file, entry),
        json_member=member_of(file, group["json"]) if "json" in group else None,
        look=seen,
    )


def _media(path: Path, key: str, group: Group, wanted: Wanted) -> Entry:
    """Return the member that is the sample itself."""
    fitting = [
        extension
        for extension in group
        if (
            extension == wanted.media
            if wanted.media
            else suffix(extension) in SUFFIXES[wanted.kind]
        )
    ]
    if len(fitting) > 1:
        raise UsageError(
            f"{path}: sample {key} has {len(fitting)} {wanted.kind}s ({', '.join(fitting)}): say "
            "with --media which of them to train on"
        )
    if not fitting:
        what = wanted.media or wanted.kind
        raise UnusableError("incomplete", f"it has no {what} member, only {', '.join(group)}")
    return group[fitting[0]]
