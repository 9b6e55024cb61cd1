"""Writing shards: tars by webdataset, an index beside each, checksums for the manifest."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from agehpc.data.index import describe, index_name, scan
from agehpc.data.journal import Journal
from agehpc.data.shards import ShardInfo, Split

if TYPE_CHECKING:
    from webdataset.writer import TarWriter

OWNER = "agehpc"
MODE = 0o444


class ShardWriter:
    """Writes the samples of one split into shards of `samples_per_shard`; call `close` at the end.

    The bytes depend on the samples alone: fixed owner, mode and time, USTAR headers. The shards
    that `journal` knows as finished are left as they are: their samples are only counted.
    """

    def __init__(
        self, directory: Path, split: Split, samples_per_shard: int, journal: Journal
    ) -> None:
        self.directory = directory
        self.split: Split = split
        self.samples_per_shard = samples_per_shard
        self._journal = journal
        self._tar: TarWriter | None = None
        self._output: _Output | None = None
        self._count = 0

    @property
    def shards(self) -> list[ShardInfo]:
        """The shards that are finished."""
        return self._journal.shards[self.split]

    def skip(self, count: int) -> None:
        """Count samples that lie in finished shards."""
        self._count += count

    def write(self, media: dict[str, bytes], about: dict[str, Any]) -> None:
        """Append one sample: its media members by extension, and what its json member says."""
        shard, index = divmod(self._count, self.samples_per_shard)
        self._count += 1
        if shard < len(self.shards):
            return
        if self._tar is None:
            assert index == 0
            self._open()
        key = f"{self.split}-{shard:06d}-{index:06d}"
        text = json.dumps(about, sort_keys=True, separators=(",", ":"))
        assert self._tar is not None
        self._tar.write({"__key__": key, **media, "json": text.encode()})
        if index + 1 == self.samples_per_shard:
            self._finish()

    def close(self) -> tuple[ShardInfo, ...]:
        """Finish the last shard and return all of them."""
        if self._tar is not None:
            self._finish()
        return tuple(self.shards)

    def abandon(self) -> None:
        """Let go of what is open, whatever state it is in."""
        if self._tar is not None and self._output is not None:
            # The tar writes its end when it is closed, at the latest by the garbage collector.
            self._output.write = len
            self._tar.close()
            with suppress(OSError):  # what is in the buffer may not fit on the disk
                self._output.file.close()

    @property
    def _path(self) -> Path:
        return self.directory / f"{self.split}-{len(self.shards):06d}.tar"

    def _open(self) -> None:
        # webdataset imports torch: seconds that a refusal or --dry-run need not wait.
        from webdataset.writer import TarWriter

        self._output = _Output(self._path.open("wb"))
        self._tar = TarWriter(
            cast(BinaryIO, self._output), user=OWNER, group=OWNER, mode=MODE, mtime=0, encoder=False
        )

    def _finish(self) -> None:
        assert self._tar is not None
        assert self._output is not None
        self._tar.close()
        sync(self._output.file)
        self._output.file.close()
        path = self._path
        index = scan(path)
        with (self.directory / index_name(path.name)).open("w", encoding="utf-8") as file:
            file.write(index.model_dump_json(exclude_none=True))
            sync(file)
        self._tar = self._output = None
        self._journal.finish(self.split, describe(path, index))


class _Output:
    """The file under a tar; its `write` can be replaced."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.write: Callable[[bytes], int] = file.write


def sync(file: Any) -> None:
    """Bring an open file to the disk."""
    file.flush()
    os.fsync(file.fileno())
