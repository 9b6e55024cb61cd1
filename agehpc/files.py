"""Files that appear whole or not at all, folders that one process works in at a time."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agehpc.errors import RunError

LOCK = ".lock"
"""The file that holds a folder."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success its content is synced and takes the name.

    The temporary name keeps the suffix, as encoders choose their format by it. On any error the
    temporary file is removed and `path` stays as it was. Raises OSError as the file system does.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def unwritable(path: str | Path) -> str | None:
    """Say why a file cannot be made or written, or None where it can; touches nothing.

    Folders that it lies in may be missing: they can be made where the first that is there allows.
    """
    path = Path(path)
    if path.is_dir():
        return f"{path} is a folder"
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    if there != path and not there.is_dir():
        return f"{there} is no folder"
    needed = os.W_OK if there == path else os.W_OK | os.X_OK
    return None if os.access(there, needed) else f"{there} is not writable"


@contextmanager
def locked(folder: Path, doing: str) -> Iterator[None]:
    """Hold a folder inside; RunError, which names the holder, where another process does.

    Args:
        folder: it is there.
        doing: what is done with it, as in "is being trained in".
    """
    with (folder / LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            raise RunError(
                f"{folder} is being {doing} by {holder}; wait for it, or give another --out"
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        yield
