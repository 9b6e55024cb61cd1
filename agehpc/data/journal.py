"""What a stopped packing had done, so that the same command goes on from there.

Finished shards are kept as they are. Sources with a sample in an unfinished shard are encoded
again: their bytes depend on nothing but the plan, so the shards come out as if never stopped.
"""

import dataclasses
import errno
import fcntl
import hashlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agehpc import __version__
from agehpc.data.index import index_name
from agehpc.data.pieces import Reject
from agehpc.data.shards import SPLITS, Record, ShardInfo, Split
from agehpc.data.sources import Source
from agehpc.errors import UsageError

if TYPE_CHECKING:
    from agehpc.data.pack import Plan

NAME = "journal.jsonl"
ENCODERS = ("av", "numpy", "pillow")
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


class Outcome(Record):
    """What became of a source: rate and frames of each of its samples, or why there are none."""

    samples: tuple[tuple[str, int], ...] = ()
    reject: Reject | None = None


class Journal:
    """The outcomes of the first sources of a plan, and the shards that were finished."""

    def __init__(self, directory: Path, key: str) -> None:
        """Go on with the journal in `directory` where its key is `key`; otherwise empty both."""
        self.outcomes: list[Outcome] = []
        self.shards: dict[Split, list[ShardInfo]] = {split: [] for split in SPLITS}
        self.path = directory / NAME
        lines = list(_lines(self.path))
        if lines[:1] == [{"key": key}]:
            for line in lines[1:]:
                if "split" in line:
                    self.shards[line["split"]].append(ShardInfo.model_validate(line["shard"]))
                else:
                    self.outcomes.append(Outcome.model_validate(line))
            for split, shards in self.shards.items():
                self.shards[split] = list(_still_there(directory, shards))
        else:
            _empty(directory)
            lines = [{"key": key}]
        # Written anew: a line that was cut short must not run into the next.
        self._file = self.path.open("w", encoding="utf-8")
        self._file.writelines(json.dumps(line) + "\n" for line in lines)
        self._file.flush()

    def encoded(self, splits: Sequence[Split], samples_per_shard: int) -> frozenset[int]:
        """Return the sources, by number, of which every sample lies in a finished shard."""
        ends = {split: len(shards) * samples_per_shard for split, shards in self.shards.items()}
        filled: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        found = set()
        for number, outcome in enumerate(self.outcomes):
            split = splits[number]
            filled[split] += len(outcome.samples)
            if filled[split] <= ends[split] or not outcome.samples:
                found.add(number)
        return frozenset(found)

    def add(self, number: int, outcome: Outcome) -> None:
        """Note the outcome of a source, unless it was known."""
        if number == len(self.outcomes):
            self.outcomes.append(outcome)
            self._note(outcome.model_dump(mode="json"))

    def finish(self, split: Split, shard: ShardInfo) -> None:
        """Note a shard that is complete on the disk."""
        self.shards[split].append(shard)
        self._note({"split": split, "shard": shard.model_dump(mode="json")})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _note(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a journal up to the first that is not whole."""
    if not path.is_file():
        return
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            yield json.loads(line)
        except ValueError:
            return


def _still_there(directory: Path, shards: Sequence[ShardInfo]) -> Iterator[ShardInfo]:
    for shard in shards:
        path = directory / shard.name
        indexed = (directory / index_name(shard.name)).is_file()
        if not indexed or not path.is_file() or path.stat().st_size != shard.bytes:
            return
        yield shard


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()


def key_of(plan: "Plan", splits: Mapping[str, Split]) -> str:
    """Return the identity of a plan: equal where the same shards would come out."""
    digest = hashlib.sha256()
    stats: dict[Path, tuple[int, int]] = {}
    for source in plan.sources:
        digest.update(repr(_identity(source, stats)).encode("utf-8", "surrogateescape"))
    versions = [__version__, *map(importlib.metadata.version, ENCODERS)]
    settings = plan.settings, plan.samples_per_shard, list(plan.labels), list(plan.groups)
    digest.update(repr((versions, settings, sorted(splits.items()))).encode())
    return digest.hexdigest()


def _identity(source: Source, stats: dict[Path, tuple[int, int]]) -> list[Any]:
    if source.path not in stats:
        try:
            about = source.path.stat()
            stats[source.path] = about.st_size, about.st_mtime_ns
        except OSError:  # it will be rejected, if it is still missing then
            stats[source.path] = -1, -1
    found: list[Any] = [type(source).__name__, stats[source.path]]
    for field in dataclasses.fields(source):
        value = getattr(source, field.name)
        if isinstance(value, Source):
            value = _identity(value, stats)
        found.append(value.__qualname__ if callable(value) else str(value))
    return found


def unfinished_of(out: Path) -> Path:
    """Return the folder in which `out` comes to be."""
    whole = out.resolve()
    return whole.with_name(f".{whole.name}.partial")


@contextmanager
def locked(directory: Path, out: Path) -> Iterator[None]:
    """Make a folder and keep it to this process; UsageError where another process holds it."""
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"another process is packing into {out}: wait for it, or choose another folder"
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            sys.stderr.write(f"no locks on this file system: see that nobody packs into {out}\n")
        if not directory.exists() or not os.path.samestat(os.fstat(descriptor), directory.stat()):
            raise UsageError(f"another process has just packed into {out}")
        yield
    finally:
        os.close(descriptor)
