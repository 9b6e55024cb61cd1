"""Shards on disk: the manifest of a folder.

A folder holds `<split>-<shard>.tar` (USTAR, readable by webdataset), `<split>-<shard>.idx.json`
beside each, `rejects.jsonl` and `manifest.json`, which is written last. Of tars made by others it
holds links, under the names that they have.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agehpc.config.schema import DataConfig
from agehpc.errors import DataError

FORMAT: Literal["agehpc-wds/1"] = "agehpc-wds/1"
MANIFEST = "manifest.json"
REJECTS = "rejects.jsonl"

Kind = Literal["video", "image"]
Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")
Natural = Annotated[int, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""Names files in a cache: what a manifest fetched from elsewhere says must not be a path."""
Where = str | Path | DataConfig
"""A folder of shards: its path, its URL, or the settings that name it alone and how it is read."""


class Record(BaseModel):
    """A frozen JSON object; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ShardInfo(Record):
    """One shard as the manifest knows it."""

    name: str
    bytes: Natural
    sha256: Sha256
    samples: Natural
    frames: Natural
    least_frames: Natural  # of its shortest sample
    index_sha256: Sha256 | None = None  # of a tar made by others: classes are in its index alone


Shards = dict[Split, tuple[ShardInfo, ...]]


class Manifest(Record):
    """What a folder of shards holds."""

    format: Literal["agehpc-wds/1"]
    dataset_id: str
    origin: Literal["packed", "indexed"] = "packed"  # indexed: tars made by others, as they are
    kind: Kind
    size: int
    channels: Literal[1, 3]
    pairs: str | None = None  # how the input images were made: "edges", "lowres 4"; None: no pairs
    input_channels: Literal[1, 3] | None = None
    fps: float | None  # the commonest of the clips; None for images
    classes: tuple[str, ...]
    splits: Shards
    sources: Natural  # packed, without the rejected ones
    groups: dict[Split, Natural]
    rejects: dict[str, Natural]  # sources left out, by reason
    encoder: dict[str, str | int | float | None]

    def samples(self, split: Split) -> int:
        """Return how many samples a split has."""
        return sum(shard.samples for shard in self.splits[split])


def dataset_id(
    kind: Kind,
    size: int,
    channels: int,
    classes: Sequence[str],
    shards: Shards,
    pairs: tuple[str | None, int | None] = (None, None),
) -> str:
    """Return the identity of a folder of shards: 32 hex digits, equal where every byte is.

    `pairs`: how the input images were made, and their channels.
    """
    sums = {
        split: [shard.sha256 + (shard.index_sha256 or "") for shard in shards[split]]
        for split in sorted(shards)
    }
    parts = [FORMAT, kind, size, channels, list(classes), sums]
    text = json.dumps(parts if pairs == (None, None) else [*parts, *pairs])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def own_id(manifest: Manifest) -> str:
    """Return the identity that a manifest's shards come to."""
    return dataset_id(
        manifest.kind,
        manifest.size,
        manifest.channels,
        manifest.classes,
        manifest.splits,
        (manifest.pairs, manifest.input_channels),
    )


def url_of(where: Where) -> str | None:
    """Return the URL of a folder of shards, None where it is a path."""
    text = _named(where)
    return text if re.match(r"pipe:|[a-zA-Z][a-zA-Z0-9+.-]*://", text) else None


def path_of(where: Where) -> Path:
    """Return the path of a folder of shards that has no URL."""
    return Path(_named(where))


def _named(where: Where) -> str:
    if not isinstance(where, DataConfig):
        return str(where)
    (folder,) = where.folders
    return folder


def read_manifest(where: Where) -> Manifest:
    """Read the manifest of a folder of shards; DataError where there is none or it is damaged."""
    if url_of(where):
        from agehpc.data.remote import remote_folder

        return remote_folder(where).manifest()
    directory = path_of(where)
    path = directory / MANIFEST
    if not directory.is_dir():
        raise DataError(
            f"no folder of shards at {directory}: make one with `agehpc data pack SRC {directory}`"
        )
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise DataError(
            f"{directory} has no {MANIFEST}, so it is not a complete folder of shards: "
            "make one with `agehpc data pack SRC OUT`, or `agehpc data index` for tars of others"
        ) from None
    except ValidationError as error:
        raise DataError(f"{path} is damaged: {first_fault(error)}; pack the shards again") from None


def first_fault(error: ValidationError) -> str:
    """Return where and why a record was refused, in one line."""
    detail = error.errors()[0]
    place = ".".join(str(part) for part in detail["loc"])
    return f"{place}: {detail['msg']}" if place else detail["msg"]
