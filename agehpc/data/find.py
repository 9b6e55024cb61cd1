"""Finding sources: folders, files, globs, tar archives, and files that hold many samples."""

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from agehpc.data import arrays, idx, tfrecords
from agehpc.data.groups import folder_of, groups, named_label
from agehpc.data.journal import unfinished_of
from agehpc.data.pieces import Reading
from agehpc.data.shards import Kind
from agehpc.data.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Source, hash_of
from agehpc.data.walk import Identity, files_under, folder_name, identity
from agehpc.errors import UsageError

Apart = frozenset[Identity | None]
PACKED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")


def find(
    arguments: Sequence[str],
    kind: Kind | None,
    reading: Reading | None = None,
    out: Path | None = None,
) -> tuple[Kind, list[Source]]:
    """List the videos or images under every SRC, and say which of the two they are.

    `reading` says how files that hold many samples are read; NumPy's are read where they are named
    or matched themselves: in a folder they may be anything. `out`, the folder that they are packed
    into, and what a stopped packing left beside it are no sources though they lie in one.
    The list is ordered by a hash of the name: neighbours in the shards are unrelated, and the
    order does not depend on the file system. UsageError where nothing, or both kinds, are found.
    """
    reading = reading or Reading()
    made = (out, unfinished_of(out)) if out else ()
    apart = frozenset(map(identity, made)) - {None}
    found = [source for argument in arguments for source in _expand(argument, reading, apart)]
    _check_used(reading, found)
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
            f"{' '.join(VIDEO_SUFFIXES + IMAGE_SUFFIXES)} .tfrecord .npy .npz (the last two named "
            "themselves) and MNIST's -images-idx3-ubyte"
        )
    chosen = kind or kinds.pop()
    unique = {(s.path.resolve(), s.offset): s for s in found if s.kind == chosen}
    return chosen, in_order(unique.values())


def in_order(sources: Iterable[Source]) -> list[Source]:
    """Return sources in the order of packing, by a hash of their names."""
    return sorted(sources, key=lambda s: (hash_of(s.name), s.name, str(s.path)))


def _check_used(reading: Reading, found: Sequence[Source]) -> None:
    """Refuse flags for files that are not there."""
    files = {s.path for s in found if isinstance(s, arrays.Row) and s.load is idx.load_images}
    if reading.idx_labels and len(files) != 1:
        raise UsageError(
            f"--idx-labels goes with one IDX file of images: SRC holds {len(files)}; pack them one "
            "by one, or put each file of labels beside its images"
        )
    of_arrays = any(isinstance(s, arrays.Row) and s.load is not idx.load_images for s in found)
    if reading.layout and not of_arrays:
        raise UsageError(f"--layout {reading.layout} is for .npy and .npz files: SRC holds none")
    of_records = any(isinstance(s, tfrecords.Record) for s in found)
    of_tars = any(source.path.suffix.lower() == ".tar" for source in found)
    if reading.image_key and not of_arrays and not of_records:
        raise UsageError("--image-key is for .npz and TFRecord: SRC holds none")
    if reading.label_key and not of_arrays and not of_records and not of_tars:
        raise UsageError("--label-key is for .npz, TFRecord and tars: SRC holds none")


def _expand(argument: str, reading: Reading, apart: Apart) -> Iterator[Source]:
    path = Path(argument)
    if path.is_dir():
        yield from _folder(path, path, reading, apart)
    elif path.is_file():
        yield from _file(path, path.name, reading, named=True)
    elif glob.has_magic(argument):
        matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207 (absolute patterns)
        if not matches:
            raise UsageError(f"no file matches {argument}")
        base = Path(*_plain_parts(path))
        for match in map(Path, matches):
            if match.is_dir():
                yield from _folder(match, base, reading, apart)
            else:
                yield from _file(match, match.relative_to(base).as_posix(), reading, named=True)
    else:
        raise UsageError(f"no such file, folder or pattern: {argument}")


def _plain_parts(pattern: Path) -> Iterator[str]:
    """Yield the leading parts of a pattern that hold no wildcard: what its matches lie under."""
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            return
        yield part


def _folder(folder: Path, base: Path, reading: Reading, apart: Apart) -> Iterator[Source]:
    for file in files_under(folder, apart):
        yield from _file(file, file.relative_to(base).as_posix(), reading, named=False)


def _file(path: Path, name: str, reading: Reading, *, named: bool) -> Iterator[Source]:
    if not path.is_file():
        return
    if path.name.lower().endswith(PACKED_TARS):
        raise UsageError(f"{path} is a compressed tar: unpack it, or decompress it to a .tar")
    if path.suffix.lower() == ".tar":
        yield from _tar(path, reading)
    elif idx.holds_images(path):
        yield from idx.rows(path, name, reading)
    elif tfrecords.is_one(path):
        yield from tfrecords.records(path, name, reading)
    elif named and path.suffix.lower() in arrays.SUFFIXES:
        yield from arrays.rows(path, name, reading)
    else:
        yield Source(path, name, folder_name(path))


def _tar(path: Path, reading: Reading) -> Iterator[Source]:
    with path.open("rb") as file:
        for key, group in groups(path).items():
            sources = [
                Source(path, entry.name, folder_of(path, key), entry.offset, entry.size)
                for entry in group.values()
            ]
            if any(source.kind for source in sources):
                label = named_label(file, group, reading.label_key)
                sources = [replace(source, label=label) for source in sources]
            yield from sources
