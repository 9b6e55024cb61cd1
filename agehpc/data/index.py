"""The index of a shard: where the members of its samples lie, with their checksums."""

import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from agehpc.data.shards import Natural, Record, ShardInfo, Where, first_fault, path_of, url_of
from agehpc.data.tars import Entry, entries, split_name
from agehpc.errors import DataError

MEDIA = ("mp4", "jpg", "png", "webp")
INPUT = ("input.jpg", "input.png", "input.webp")  # of a pair: what the sample is to be made from
SOUND = ("flac",)
SUMS = {"media": "crc32", "input": "input_crc32", "sound": "sound_crc32"}  # in the json member


class Member(Record):
    """Where the bytes of one member lie in its shard."""

    name: str
    offset: Natural
    size: Natural
    crc32: Natural


class Sample(Record):
    """One sample: its members, frames counted by decoding, class (or -1).

    Packed samples have a json member; those of tars made by others need none.
    """

    key: str
    frames: Natural
    label: int
    media: Member
    json_member: Member | None = None
    input: Member | None = None  # of a pair
    sound: Member | None = None  # of a clip, where it was kept


class Index(Record):
    """The samples of one shard, in order; `shard` is its path inside the folder of shards."""

    shard: str
    bytes: Natural
    samples: tuple[Sample, ...]


def index_name(shard: str) -> str:
    """Return the name of a shard's index."""
    return f"{shard.removesuffix('.tar')}.idx.json"


def read_index(where: Where, shard: str) -> Index:
    """Read the index of a shard, or make it by scanning the tar where it has no index file."""
    if url_of(where):
        from agehpc.data.remote import remote_folder

        return remote_folder(where).index(shard)
    directory = path_of(where)
    path = directory / index_name(shard)
    try:
        return Index.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return scan(directory / shard)
    except ValidationError as error:
        raise DataError(
            f"{path} is damaged: {first_fault(error)}; delete it to index the tar by scanning, "
            "or pack the shards again"
        ) from None


def scan(path: Path) -> Index:
    """Index a tar of packed samples by reading all of it; DataError with the offset of a cut."""
    with path.open("rb") as file:
        samples = tuple(
            _packed_sample(path, file, key, found)
            for key, found in _by_key(path, _members(path)).items()
        )
    return Index(shard=path.name, bytes=path.stat().st_size, samples=samples)


def _packed_sample(path: Path, file: BinaryIO, key: str, found: dict[str, Member]) -> Sample:
    file.seek(found["json"].offset)
    try:
        about = json.loads(file.read(found["json"].size))
        label = about.get("label")
        frames = int(about["frames"])
        # As packed, not as found: damage since then must not go unseen.
        members = {
            name: found[name].model_copy(update={"crc32": int(about[field])})
            for name, field in SUMS.items()
            if name in found
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: {found['json'].name} is damaged: {error!r}") from None
    for name in SUMS:
        if name not in found and SUMS[name] in about:
            raise _incomplete(path, key, name)
    label = -1 if label is None else int(label)
    return Sample(key=key, frames=frames, label=label, json_member=found["json"], **members)


def _by_key(path: Path, members: list[Member]) -> dict[str, dict[str, Member]]:
    """Return the members of each sample that has media, by what they are."""
    extensions = {
        extension: name
        for name, known in (
            ("media", MEDIA),
            ("json", ("json",)),
            ("input", INPUT),
            ("sound", SOUND),
        )
        for extension in known
    }
    found: dict[str, dict[str, Member]] = {}
    for member in members:
        parts = split_name(member.name)
        if parts and parts[1] in extensions:
            found.setdefault(parts[0], {})[extensions[parts[1]]] = member
    for key in sorted(found):
        for needed in ("media", "json"):
            if needed not in found[key]:
                raise _incomplete(path, key, needed)
    return found


def _incomplete(path: Path, key: str, member: str) -> DataError:
    return DataError(
        f"{path}: sample {key} lacks its {member} member: the shard is incomplete; pack the "
        "shards again (or `agehpc data index`, where others made the tar)"
    )


def _members(path: Path) -> list[Member]:
    with path.open("rb") as file:
        return [member_of(file, entry) for entry in entries(path)]


def member_of(file: BinaryIO, entry: Entry) -> Member:
    """Return the place of a file in an open tar, with the checksum of its bytes."""
    file.seek(entry.offset)
    crc32 = zlib.crc32(file.read(entry.size))
    return Member(name=entry.name, offset=entry.offset, size=entry.size, crc32=crc32)


def read_member(descriptor: int, member: Member) -> bytes | None:
    """Read a member by its place in an open shard; None unless length and checksum are right."""
    data = os.pread(descriptor, member.size, member.offset)
    if len(data) != member.size or zlib.crc32(data) != member.crc32:
        return None
    return data


def describe(path: Path, index: Index) -> ShardInfo:
    """Return what the manifest says of a shard on disk, under the name that the index gives it."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    frames = [sample.frames for sample in index.samples]
    return ShardInfo(
        name=index.shard,
        bytes=path.stat().st_size,
        sha256=digest,
        samples=len(frames),
        frames=sum(frames),
        least_frames=min(frames, default=0),
    )
