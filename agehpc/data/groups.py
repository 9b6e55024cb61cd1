"""The samples of a tar, and the class that stands beside each.

Members of one sample share a key, everything up to the first dot of the file's name, as in
webdataset; they may stand anywhere in the tar. img2dataset and video2dataset write a `.json` and a
`.txt` beside each file, `webdataset.ShardWriter` whatever it is given, a `.cls` among it.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from agehpc.data.tars import Entry, entries, split_name
from agehpc.errors import DataError

CLASS = ("cls", "class")  # extensions of a member that holds the class as text
FIELDS = ("class", "label")  # of the json member
NO_CLASS = -1  # as packing and many others number it
# What numbers the shards of a set: it tells nothing of what they hold.
SHARD_NUMBER = re.compile(r"(?:^|[-_.])\d{4,}$")
SPLIT = re.compile(r"train(?:ing)?|val(?:id(?:ation)?)?|test", re.IGNORECASE)

Group = Mapping[str, Entry]
"""The members of a sample by extension."""


def groups(path: Path) -> dict[str, dict[str, Entry]]:
    """Return the members of each sample of a tar; DataError where the tar is damaged."""
    found: dict[str, dict[str, Entry]] = {}
    for entry in entries(path):
        parts = split_name(entry.name)
        if parts is None:
            continue
        members = found.setdefault(parts[0], {})
        if parts[1] in members:  # they differ in the case of their letters
            raise DataError(
                f"{path}: {members[parts[1]].name} and {entry.name} are the same member of one "
                "sample: rename one of them"
            )
        members[parts[1]] = entry
    return found


def named_label(file: BinaryIO, group: Group, label_key: str | None) -> str | None:
    """Return the class that a sample's own members name; None where they name none.

    With `label_key` that field of the json member; otherwise the text of a `.cls` member, or the
    json member's field `class` or `label`.
    """
    if label_key is None:
        for extension in CLASS:
            if extension in group:
                return read(file, group[extension]).decode("utf-8", "replace").strip() or None
    if "json" not in group:
        return None
    try:
        about = json.loads(read(file, group["json"]))
    except ValueError:
        return None
    if not isinstance(about, dict):
        return None
    for name in FIELDS if label_key is None else (label_key,):
        value = about.get(name)
        if isinstance(value, bool) or value in ("", NO_CLASS):
            continue
        if isinstance(value, str | int):
            return str(value)
    return None


def folder_of(path: Path, key: str) -> str:
    """Return the folder that a sample lies in: inside the tar, or else the tar's own name.

    Without its number, by which the shards of one set differ; nothing where it names a split.
    """
    name = SHARD_NUMBER.sub("", path.stem)
    return PurePosixPath(key).parent.name or ("" if SPLIT.fullmatch(name) else name)


def read(file: BinaryIO, entry: Entry) -> bytes:
    """Return the bytes of a file in an open tar."""
    file.seek(entry.offset)
    return file.read(entry.size)
