"""The index of a shard: where the members of its samples lie, with their checksums."""

import hashlib
import json
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from agehpc.data.shards import Natural, Record, ShardInfo, first_fault
from agehpc.errors import DataError

BLOCK = 512  # of a tar archive
MEDIA = ("mp4", "jpg", "png")
INPUT = ("input.jpg", "input.png")  # of a pair: the image that the sample is to be made from


class Member(Record):
    """Where the bytes of one member lie in its shard."""

    name: str
    offset: Natural
    size: Natural
    crc32: Natural


class Sample(Record):
    """One sample: its media member, its json member, frames counted by decoding, class (or -1)."""

    key: str
    frames: Natural
    label: int
    media: Member
    json_member: Member
    input: Member | None = None  # of a pair


class Index(Record):
    """The samples of one shard, in order."""

    shard: str
    bytes: Natural
    samples: tuple[Sample, ...]


def index_name(shard: str) -> str:
    """Return the name of a shard's index."""
    return f"{shard.removesuffix('.tar')}.idx.json"


def read_index(directory: str | Path, shard: str) -> Index:
    """Read the index of a shard, or make it by scanning the tar where it has no index file."""
    path = Path(directory) / index_name(shard)
    try:
        return Index.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return scan(Path(directory) / shard)
    except ValidationError as error:
        raise DataError(
            f"{path} is damaged: {first_fault(error)}; delete it to index the tar by scanning, "
            "or pack the shards again"
        ) from None


def scan(path: Path) -> Index:
    """Index a tar of samples by reading all of it; DataError with the offset where it is cut."""
    members = list(_members(path))
    samples = []
    with path.open("rb") as file:
        for key, (media, json_member, given) in _by_key(path, members).items():
            file.seek(json_member.offset)
            try:
                about = json.loads(file.read(json_member.size))
                label = about.get("label")
                frames = int(about["frames"])
                # As packed, not as found: damage since then must not go unseen.
                media = media.model_copy(update={"crc32": int(about["crc32"])})
                if given is not None:
                    given = given.model_copy(update={"crc32": int(about["input_crc32"])})
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DataError(f"{path}: {json_member.name} is damaged: {error!r}") from None
            if given is None and "input_crc32" in about:
                raise _incomplete(path, key, "input")
            samples.append(
                Sample(
                    key=key,
                    frames=frames,
                    label=-1 if label is None else int(label),
                    media=media,
                    json_member=json_member,
                    input=given,
                )
            )
    return Index(shard=path.name, bytes=path.stat().st_size, samples=tuple(samples))


def _by_key(path: Path, members: list[Member]) -> dict[str, tuple[Member, Member, Member | None]]:
    """Return the media, json and input member of each sample."""
    media, about, inputs = {}, {}, {}
    for member in members:
        key, _, extension = member.name.partition(".")
        for extensions, found in ((MEDIA, media), (("json",), about), (INPUT, inputs)):
            if extension in extensions:
                found[key] = member
    lonely = sorted((media.keys() ^ about.keys()) | (inputs.keys() - media.keys()))
    if lonely:
        raise _incomplete(path, lonely[0], "json" if lonely[0] in media else "media")
    return {key: (member, about[key], inputs.get(key)) for key, member in media.items()}


def _incomplete(path: Path, key: str, member: str) -> DataError:
    return DataError(
        f"{path}: sample {key} lacks its {member} member: the shard is incomplete; pack the "
        "shards again"
    )


def _members(path: Path) -> Iterator[Member]:
    """Yield the members of a tar; unlike tarfile, complain when it ends early."""
    length = path.stat().st_size
    end = 0
    try:
        with tarfile.open(path, "r:") as tar, path.open("rb") as file:
            for info in tar:
                end = info.offset_data + -(-info.size // BLOCK) * BLOCK
                if end > length:
                    raise DataError(_cut(path, length, info.name, info.offset))
                file.seek(info.offset_data)
                crc32 = zlib.crc32(file.read(info.size))
                yield Member(name=info.name, offset=info.offset_data, size=info.size, crc32=crc32)
            file.seek(end)
            # Two empty blocks end a tar: without them it may have been cut between two members.
            closed = file.read(2 * BLOCK) == bytes(2 * BLOCK)
    except tarfile.TarError as error:
        raise DataError(f"{path} is not a readable tar: {error}; pack the shards again") from None
    if not closed:
        raise DataError(_cut(path, length, "the end mark", end))


def _cut(path: Path, length: int, name: str, offset: int) -> str:
    return (
        f"{path} is truncated: it ends at byte {length}, inside {name} which starts at byte "
        f"{offset}; copy it again or pack the shards again"
    )


def read_member(descriptor: int, member: Member) -> bytes | None:
    """Read a member by its place in an open shard; None unless length and checksum are right."""
    data = os.pread(descriptor, member.size, member.offset)
    if len(data) != member.size or zlib.crc32(data) != member.crc32:
        return None
    return data


def describe(path: Path, index: Index) -> ShardInfo:
    """Return what the manifest says of a shard on disk."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    frames = [sample.frames for sample in index.samples]
    return ShardInfo(
        name=path.name,
        bytes=path.stat().st_size,
        sha256=digest,
        samples=len(frames),
        frames=sum(frames),
        least_frames=min(frames, default=0),
    )
