"""Files fetched once a node: named by their content, whole or not there, the oldest leave first.

CACHE/NAME is a file, CACHE/NAME.SIZE.part one on its way, CACHE/locks/NAME is held by whoever
fetches it. A file that some process reads is locked by it (shared) and not evicted: all locks are
`flock`s, which end with their process. Files without a lock's name are somebody else's: they are
neither counted nor removed.
"""

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from agehpc.data.fetch import Figures, Patience
from agehpc.errors import DataError

ENVIRONMENT = "AGEHPC_CACHE"
GIB = 2**30
PART = ".part"
LOCKS = "locks"
POLL_SECONDS = 0.05
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class CacheFull(DataError):
    """There is no room for a file, though all that nobody reads was evicted."""


def default_directory() -> Path:
    """Return $AGEHPC_CACHE, else `agehpc` in the user's cache folder ($XDG_CACHE_HOME)."""
    if given := os.environ.get(ENVIRONMENT):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agehpc"


class Pinned:
    """An open file of the cache: while this lives, it is not evicted."""

    def __init__(self, descriptor: int, path: Path, fetched: bool) -> None:
        self.descriptor = descriptor
        self.path = path
        self.fetched = fetched
        """Whether it was fetched just now."""

    def close(self) -> None:
        """Let the file go."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __del__(self) -> None:
        self.close()


@dataclass(frozen=True)
class _Entry:
    path: Path
    used: float  # time of the last use
    reserved: int
    written: int


class Cache:
    """A folder of files that all processes of a node share.

    DataError where it cannot be written to, CacheFull where there is no room.
    """

    def __init__(self, directory: Path, limit: int, figures: Figures) -> None:
        self.directory = directory
        self.limit = limit
        self.figures = figures
        try:
            (directory / LOCKS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"the cache of shards {directory} cannot be made: {error.strerror}; set "
                f"--data.cache-dir or {ENVIRONMENT} to a folder on the node's own disk"
            ) from None

    def pin(
        self, name: str, size: int, fill: Callable[[BinaryIO], None], patience: Patience
    ) -> Pinned:
        """Return a file, fetched by `fill` where it is not there, once for all processes.

        `fill` is given the file to complete: it may hold the beginning already.
        """
        with self._usable():
            pinned = self._found(name, size)
            if pinned is None:
                with self._turn(name, patience):
                    pinned = self._found(name, size) or self._fetch(name, size, fill)
            return pinned

    def has(self, name: str, size: int) -> bool:
        """Tell whether a file is there, without using it."""
        with suppress(FileNotFoundError):
            return (self.directory / name).stat().st_size == size
        return False

    def small(self, name: str, fetch: Callable[[], bytes], patience: Patience) -> bytes:
        """Return the bytes of a small file, fetched where it is not there, once a node."""
        with self._usable():
            data = self._read(name)
            if data is None:
                with self._turn(name, patience):
                    data = self._read(name)
                    if data is None:
                        data = fetch()
                        self._write(name, data)
            return data

    @contextmanager
    def _usable(self) -> Iterator[None]:
        # A reader takes errors of the system for damage of the sample that it reads.
        try:
            yield
        except OSError as error:
            raise DataError(
                f"the cache of shards {self.directory} cannot be used: {error.strerror or error}; "
                f"set --data.cache-dir or {ENVIRONMENT} to a folder on the node's own disk"
            ) from None

    def _read(self, name: str) -> bytes | None:
        path = self.directory / name
        try:
            data = path.read_bytes()
            os.utime(path)
        except FileNotFoundError:  # evicted, maybe just now
            return None
        return data

    def _write(self, name: str, data: bytes) -> None:
        part = self._part(name, len(data))
        self._reserve(part, len(data))
        with self._space(name, len(data)):
            part.write_bytes(data)
        part.rename(self.directory / name)
        self.figures.add(fetched=1)

    def _found(self, name: str, size: int) -> Pinned | None:
        path = self.directory / name
        try:
            pinned = Pinned(os.open(path, os.O_RDONLY | os.O_CLOEXEC), path, fetched=False)
        except FileNotFoundError:
            return None
        self._flock(pinned.descriptor, fcntl.LOCK_SH)
        status = os.fstat(pinned.descriptor)
        if not status.st_nlink:  # evicted before it was locked
            return None
        if status.st_size != size:  # a crash of the machine may leave such
            path.unlink(missing_ok=True)
            return None
        os.utime(pinned.descriptor)
        return pinned

    def _fetch(self, name: str, size: int, fill: Callable[[BinaryIO], None]) -> Pinned:
        part, path = self._part(name, size), self.directory / name
        self._reserve(part, size)
        with self._space(name, size), part.open("r+b") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        pinned = Pinned(os.open(part, os.O_RDONLY | os.O_CLOEXEC), path, fetched=True)
        # Before others see it: it must not be evicted between fetching and reading.
        self._flock(pinned.descriptor, fcntl.LOCK_SH)
        part.rename(path)
        self.figures.add(fetched=1)
        return pinned

    def _part(self, name: str, size: int) -> Path:
        return self.directory / f"{name}.{size}{PART}"

    @contextmanager
    def _turn(self, name: str, patience: Patience) -> Iterator[None]:
        """Wait for this process's turn to fetch a file."""
        descriptor = os.open(self.directory / LOCKS / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            while not self._try_lock(descriptor):
                if patience.over():
                    raise DataError(
                        f"another process of this node has been fetching {name} into "
                        f"{self.directory} for {patience.minutes:g} minutes "
                        "(--data.fetch-minutes); see to the server and run again"
                    )
                time.sleep(POLL_SECONDS)
            yield
        finally:
            os.close(descriptor)

    def _try_lock(self, descriptor: int) -> bool:
        try:
            self._flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _flock(self, descriptor: int, how: int) -> None:
        try:
            fcntl.flock(descriptor, how)
        except BlockingIOError:
            raise
        except OSError as error:
            raise DataError(
                f"files in the cache of shards {self.directory} cannot be locked: "
                f"{error.strerror}; set --data.cache-dir to a folder on the node's own disk"
            ) from None

    def _reserve(self, part: Path, size: int) -> None:
        """Make room for `size` bytes, evicting what was used longest ago, and claim it."""
        descriptor = os.open(
            self.directory / LOCKS / ".room", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        )
        try:
            self._flock(descriptor, fcntl.LOCK_EX)
            entries = sorted(self._entries(), key=lambda entry: entry.used)
            others = [entry for entry in entries if entry.path != part]
            written = sum(entry.written for entry in entries if entry.path == part)
            while not self._fits(others, size, written):
                gone = next((entry for entry in others if self._evict(entry)), None)
                if gone is None:
                    raise self._full(part, size)
                others.remove(gone)
            part.touch()
        finally:
            os.close(descriptor)

    def _fits(self, others: list[_Entry], size: int, written: int) -> bool:
        claimed = sum(entry.reserved - entry.written for entry in others)
        free = shutil.disk_usage(self.directory).free
        used = sum(entry.reserved for entry in others)
        return used + size <= self.limit and size - written + claimed <= free

    def _entries(self) -> Iterator[_Entry]:
        own = {lock.name for lock in (self.directory / LOCKS).iterdir()}
        with os.scandir(self.directory) as found:
            for item in found:
                # The folder that the user gave may hold files of theirs.
                if _whole_name(item.name) not in own:
                    continue
                with suppress(FileNotFoundError):  # finished or abandoned meanwhile
                    status, path = item.stat(), Path(item.path)
                    reserved = (
                        int(path.name.split(".")[-2]) if path.suffix == PART else status.st_size
                    )
                    yield _Entry(path, status.st_mtime, reserved, status.st_size)

    def _evict(self, entry: _Entry) -> bool:
        """Remove a file that nobody reads or fetches."""
        held = entry.path
        if held.suffix == PART:
            held = self.directory / LOCKS / _whole_name(held.name)
        try:
            descriptor = os.open(held, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            if not self._try_lock(descriptor):
                return False
            entry.path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)
        self.figures.add(evicted=1)
        return True

    @contextmanager
    def _space(self, name: str, size: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in NO_SPACE:
                raise self._full(self.directory / name, size) from None
            raise

    def _full(self, path: Path, size: int) -> CacheFull:
        free = shutil.disk_usage(self.directory).free
        used = sum(entry.reserved for entry in self._entries() if entry.path != path)
        return CacheFull(
            f"the cache of shards {self.directory} has no room for {size / 1e6:.1f} MB more: its "
            f"limit is {self.limit / GIB:.3g} GiB (--data.cache-gib), {used / 1e6:.1f} MB of it "
            f"are in use by running processes, and {free / 1e6:.1f} MB of its disk are free; raise "
            "the limit, or set --data.cache-dir to a larger disk"
        )


def _whole_name(name: str) -> str:
    """Return the name that a file has or, on its way, will have."""
    whole, _, size = name.removesuffix(PART).rpartition(".")
    return whole if name.endswith(PART) and size.isdecimal() else name
