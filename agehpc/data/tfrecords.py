"""TFRecord files: one encoded image a record, in a tf.train.Example.

`tfrecord` parses the examples and `crc32c` computes the checksums. The frame around a record
(length, its checksum, data, its checksum) is read here, because `tfrecord` ignores the checksums.
Format: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from agehpc.data.pieces import Reading, UnusableError
from agehpc.data.shards import Kind
from agehpc.data.sources import Source
from agehpc.data.walk import folder_name
from agehpc.errors import DataError, UsageError

NAME = re.compile(r"\.(tfrecords?|tfrec)(-\d+-of-\d+)?$", re.IGNORECASE)
PACKED = re.compile(r"\.(tfrecords?|tfrec)(-\d+-of-\d+)?\.gz$", re.IGNORECASE)
IMAGE = ("image/encoded", "image")
LABEL = ("image/class/label", "label")
FRAME = 12  # bytes before the data of a record, 4 more follow it
GZIP = b"\x1f\x8b"


@dataclass(frozen=True, kw_only=True)
class Record(Source):
    """One record; `offset` and `size` are those of its data."""

    feature: str
    """Name of the encoded image."""
    intact: bool
    """Whether the checksum of its data is right."""

    @property
    def kind(self) -> Kind:
        """Images: clips have no common form in TFRecord files."""
        return "image"

    def read(self) -> bytes:
        """Return the encoded image."""
        if not self.intact:
            raise UnusableError("damaged", "the bytes of the record do not match their checksum")
        values = _values(super().read(), self.feature)
        if values is None or len(values) != 1 or not isinstance(values[0], bytes):
            raise UnusableError("unsupported", f"the record has no encoded image {self.feature}")
        return values[0]


def is_one(path: Path) -> bool:
    """Tell by its name whether a file is a TFRecord file; UsageError for a compressed one."""
    if PACKED.search(path.name):
        raise UsageError(f"{path} is a compressed TFRecord file: decompress it with gunzip")
    return NAME.search(path.name) is not None


def records(path: Path, name: str, reading: Reading) -> Iterator[Record]:
    """List the records of a file with their labels; reads all of it.

    A record with a wrong checksum is listed and rejected where it is packed; DataError where the
    frame of a record is damaged, as nothing after it can be found.
    """
    image, label = reading.image_key, reading.label_key
    folder = folder_name(path)
    seen = False
    for number, (offset, data, intact) in enumerate(_frames(path)):
        if intact and not seen:
            image, label = _features(path, data, reading)
            seen = True
        yield Record(
            path=path,
            name=f"{name}/{number:08d}",
            folder=folder,
            offset=offset,
            size=len(data),
            label=_label(f"{path}: record {number}", data, label) if intact else None,
            feature=image or IMAGE[0],
            intact=intact,
        )


def _frames(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    """Yield offset and data of every record, and whether the data match their checksum."""
    crc32c, _ = _library()
    length = path.stat().st_size
    with path.open("rb") as file:
        offset = 0
        while offset < length:
            head = file.read(FRAME)
            if offset == 0 and head.startswith(GZIP):
                raise UsageError(f"{path} is compressed: name it .gz and decompress it with gunzip")
            size = int.from_bytes(head[:8], "little")
            if len(head) < FRAME or _masked(crc32c(head[:8])) != head[8:]:
                raise DataError(
                    f"{path} is damaged at byte {offset}: the length of a record does not match "
                    "its checksum; copy or write the file again"
                )
            if offset + FRAME + size + 4 > length:
                raise DataError(
                    f"{path} is truncated: it ends at byte {length}, inside a record of {size} "
                    f"bytes which starts at byte {offset}; copy or write the file again"
                )
            data = file.read(size)
            yield offset + FRAME, data, _masked(crc32c(data)) == file.read(4)
            offset += FRAME + size + 4


def _masked(crc: int) -> bytes:
    """Return a checksum as it is stored: turned and shifted, so that it can be summed again."""
    turned = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    return ((turned + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def _library() -> tuple[Any, Any]:
    """Return crc32c's function and the message tf.train.Example."""
    try:
        # By name, as protobuf makes the message at run time and no type checker knows it.
        crc32c = import_module("crc32c").crc32c
        example = import_module("tfrecord.example_pb2").Example
    except ImportError as error:
        raise UsageError(
            f"reading TFRecord files needs a library that is not installed ({error}): "
            "pip install 'agehpc[tfrecord]'"
        ) from None
    return crc32c, example


def _example(data: bytes) -> Any:
    from google.protobuf.message import DecodeError

    _, example = _library()
    try:
        return example.FromString(data).features.feature
    except DecodeError as error:
        raise UnusableError("undecodable", f"no tf.train.Example: {error}") from None


def _values(data: bytes, feature: str) -> list[Any] | None:
    features = _example(data)
    if feature not in features:
        return None
    held = features[feature]
    return list(getattr(held, held.WhichOneof("kind") or "bytes_list").value)


def _features(path: Path, data: bytes, reading: Reading) -> tuple[str, str | None]:
    """Return the names of image and label, by the first good record of a file."""
    try:
        features = _example(data)
    except UnusableError as error:
        raise DataError(f"{path}: its first record holds {error.reject.detail}") from None
    held = ", ".join(sorted(features))
    wanted = (reading.image_key,) if reading.image_key else IMAGE
    image = next((name for name in wanted if name in features), None)
    if image is None:
        raise UsageError(
            f"{path} has no feature {' or '.join(wanted)} (it has {held}): name the encoded image "
            "with --image-key"
        )
    label = reading.label_key or next((name for name in LABEL if name in features), None)
    if label is not None and label not in features:
        raise UsageError(f"{path} has no feature {label} (it has {held}): see --label-key")
    return image, label


def _label(where: str, data: bytes, feature: str | None) -> str | None:
    try:
        values = None if feature is None else _values(data, feature)
    except UnusableError:  # rejected where it is packed
        return None
    if values is None:
        return None
    if len(values) != 1 or isinstance(values[0], float):
        raise DataError(f"{where} has {len(values)} values of {feature}: one class is wanted")
    value = values[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
