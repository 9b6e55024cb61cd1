"""`agehpc data verify`: every byte of a folder of shards, and every sample decoded."""

import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from agehpc.errors import EXIT_DONE, EXIT_FAILURE, DataError, UsageError, redact

if TYPE_CHECKING:  # imported when there is something to verify: help must answer at once
    from agehpc.data.index import Index, Member, Sample
    from agehpc.data.shards import Manifest, ShardInfo, Where


@dataclass(frozen=True)
class Verify:
    """Check a folder of shards: manifest, checksums, tars, indices, and every sample decoded.

    Prints one line a problem and exits 1 where there is any.
    """

    directory: Annotated[str, Positional, arg(metavar="DIR", help_behavior_hint="(required)")] = ""
    """Folder made by `agehpc data pack` or `index`, or its URL: its shards are then fetched, one at
    a time."""
    quick: Annotated[bool, FlagCreatePairsOff] = False
    """Check lengths and checksums of the shards only."""
    allow_pipe: Annotated[bool, FlagCreatePairsOff] = False
    """Run the command of a folder given as `pipe:COMMAND`."""
    json: Annotated[bool, FlagCreatePairsOff] = False
    """Print the result as JSON."""


def main(argv: list[str]) -> int:
    """Run `agehpc data verify`."""
    flags = tyro.cli(Verify, prog="agehpc data verify", args=argv)
    if not flags.directory:
        raise UsageError("agehpc data verify needs DIR: name a folder of shards")
    from agehpc.config.schema import DataConfig
    from agehpc.data.shards import read_manifest, url_of

    data = DataConfig(kind="image", frames=1, shards=flags.directory, allow_pipe=flags.allow_pipe)
    manifest = read_manifest(data)
    all_problems = remote_problems if url_of(data) else problems
    found = []
    for problem in all_problems(data, manifest, quick=flags.quick):
        found.append(problem)
        if not flags.json:
            sys.stdout.write(problem + "\n")
    samples = sum(manifest.samples(split) for split in manifest.splits)
    if flags.json:
        about = {"dataset_id": manifest.dataset_id, "samples": samples, "problems": found}
        sys.stdout.write(json.dumps(about, indent=2) + "\n")
    else:
        verdict = f"{len(found)} problem(s)" if found else "no problems"
        sys.stdout.write(f"{redact(flags.directory)}: {samples} samples, {verdict}\n")
    return EXIT_FAILURE if found else EXIT_DONE


def problems(where: "Where", manifest: "Manifest", *, quick: bool) -> Iterator[str]:
    """Yield one line for everything that is wrong in a folder of this machine."""
    from agehpc.data.shards import own_id, path_of

    directory = path_of(where)
    identity = own_id(manifest)
    if identity != manifest.dataset_id:
        yield (
            f"{directory}: dataset id {identity} by its shards, the manifest says "
            f"{manifest.dataset_id}"
        )
    for shards in manifest.splits.values():
        for shard in shards:
            yield from _shard(directory, manifest, shard, quick)


def remote_problems(where: "Where", manifest: "Manifest", *, quick: bool) -> Iterator[str]:
    """Yield one line for everything that is wrong behind a URL; what is cached counts for nothing.

    Fetches one shard at a time, into a folder beside the cache that is removed.
    """
    from agehpc.data.remote import remote_folder

    folder = remote_folder(where)
    for shards in manifest.splits.values():
        for shard in shards:
            with tempfile.TemporaryDirectory(prefix="verify-", dir=folder.cache.directory) as made:
                try:
                    folder.copy(shard, Path(made))
                    found = list(_shard(Path(made), manifest, shard, quick))
                except DataError as error:
                    found = [str(error)]
                yield from (line.replace(made, folder.source.shown.rstrip("/")) for line in found)


def _shard(directory: Path, manifest: "Manifest", shard: "ShardInfo", quick: bool) -> Iterator[str]:
    from agehpc.data.index import describe, index_name, read_index, scan

    path = directory / shard.name
    place = directory / index_name(shard.name)
    if not path.is_file():
        yield f"{path}: missing"
        return
    if not place.is_file():
        yield f"{path}: its index {place.name} is missing"
        if manifest.origin == "indexed":  # the tar alone does not tell the classes
            return
    try:
        index = read_index(directory, shard.name)
    except DataError as error:
        yield str(error)
        return
    seen = describe(path, index)
    if shard.index_sha256 is not None:
        seen = seen.model_copy(update={"index_sha256": sha256(place.read_bytes()).hexdigest()})
    for field in type(seen).model_fields:
        found, wanted = getattr(seen, field), getattr(shard, field)
        if found != wanted:
            yield f"{path}: {field} {found}, the manifest says {wanted}"
    if quick:
        return
    try:
        if manifest.origin == "indexed":
            yield from _places(path, index)
        else:
            yield from _members(path, index, scan(path))
    except DataError as error:
        yield str(error)
    yield from _samples(path, manifest, index)


def _places(path: Path, index: "Index") -> Iterator[str]:
    """Compare the places in the index of a tar made by others with those in the tar."""
    from agehpc.data.tars import entries

    held = set(entries(path))
    for sample in index.samples:
        for member in (sample.media, sample.json_member):
            if member and (member.name, member.offset, member.size) not in held:
                yield f"{path}: {member.name} does not lie where the index says"


def _members(path: Path, index: "Index", scanned: "Index") -> Iterator[str]:
    """Compare the index with what the tar holds."""
    keys = [sample.key for sample in index.samples]
    if keys != [sample.key for sample in scanned.samples]:
        yield f"{path}: its samples are not those of its index"
        return
    for wanted, found in zip(index.samples, scanned.samples, strict=True):
        for field in type(wanted).model_fields:
            if getattr(wanted, field) != getattr(found, field):
                yield f"{path}: sample {wanted.key}: {field} is not what the index says"


def _samples(path: Path, manifest: "Manifest", index: "Index") -> Iterator[str]:
    """Decode every sample."""
    with path.open("rb") as file:
        for sample in index.samples:
            try:
                _sample(file.fileno(), f"{path}: sample {sample.key}", manifest, sample)
            except DataError as error:
                yield str(error)


def _sample(descriptor: int, where: str, manifest: "Manifest", sample: "Sample") -> None:
    import numpy as np

    from agehpc.data.decode import decode_image, decode_video
    from agehpc.data.index import read_member

    media = read_member(descriptor, sample.media)
    if media is None:
        raise DataError(f"{where}: its media bytes do not match their checksum")
    if manifest.kind == "video":
        frames = np.arange(sample.frames)
        x_THWC = decode_video(media, frames, sample.frames, where, manifest.size)
    else:
        x_THWC = decode_image(media, where)
    if x_THWC.shape[1:3] != (manifest.size, manifest.size):
        raise DataError(f"{where}: {x_THWC.shape[2]}x{x_THWC.shape[1]} pixels")
    about = sample.json_member and read_member(descriptor, sample.json_member)
    if manifest.origin == "indexed":
        if sample.json_member and about is None:
            raise DataError(f"{where}: its json bytes do not match their checksum")
        return
    wanted = {"frames": sample.frames, "label": sample.label, "crc32": sample.media.crc32}
    if sample.input is not None:
        _input(descriptor, where, manifest, sample.input)
        wanted["input_crc32"] = sample.input.crc32
    elif manifest.pairs:
        raise DataError(f"{where}: it has no input image, the manifest says {manifest.pairs}")
    if sample.sound is not None:
        wanted["sound_crc32"] = sample.sound.crc32
        if read_member(descriptor, sample.sound) is None:
            raise DataError(f"{where}: the bytes of its sound do not match their checksum")
    if about is None or wanted.items() - json.loads(about).items():
        raise DataError(f"{where}: its json member is not what the index says")


def _input(descriptor: int, where: str, manifest: "Manifest", member: "Member") -> None:
    from agehpc.data.decode import decode_image
    from agehpc.data.index import read_member

    media = read_member(descriptor, member)
    if media is None:
        raise DataError(f"{where}: the bytes of its input image do not match their checksum")
    height, width = decode_image(media, f"{where}: its input image").shape[1:3]
    if (height, width) != (manifest.size, manifest.size):
        raise DataError(f"{where}: its input image has {width}x{height} pixels")
