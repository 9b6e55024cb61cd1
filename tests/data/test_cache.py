import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from agehpc.data.cache import Cache, CacheFull, default_directory
from agehpc.data.fetch import Figures, Patience
from agehpc.errors import DataError

KIB = 1024


def cache(folder: Path, limit: int) -> Cache:
    return Cache(folder, limit, Figures())


def filled(size: int) -> Callable[[BinaryIO], None]:
    def fill(file: BinaryIO) -> None:
        file.write(bytes(size))

    return fill


def never(file: BinaryIO) -> None:
    raise AssertionError("it was there")


def add(made: Cache, name: str, size: int = KIB) -> None:
    made.pin(name, size, filled(size), Patience(1)).close()
    old = time.time() - 1000 + len(list(made.directory.iterdir()))
    os.utime(made.directory / name, (old, old))


def names(made: Cache) -> list[str]:
    return sorted(path.name for path in made.directory.iterdir() if path.is_file())


def test_what_was_used_longest_ago_makes_room(tmp_path: Path):
    made = cache(tmp_path, 3 * KIB)
    for name in "abc":
        add(made, name)
    made.pin("a", KIB, never, Patience(1)).close()  # used again
    add(made, "d")
    assert names(made) == ["a", "c", "d"]
    add(made, "e", 2 * KIB)
    assert names(made) == ["a", "e"]
    assert made.figures.counts.evicted == 3
    assert made.figures.counts.fetched == 5


def test_files_of_others_are_neither_counted_nor_removed(tmp_path: Path):
    """The folder that was given may be a home."""
    theirs = ("thesis.tex", "film.mp4.part", "film.7.part", "locks.old")
    for name in theirs:
        (tmp_path / name).write_bytes(bytes(9 * KIB))
        os.utime(tmp_path / name, (1, 1))
    made = cache(tmp_path, KIB)
    add(made, "a")
    add(made, "b")
    assert names(made) == sorted([*theirs, "b"])


def test_what_is_read_stays(tmp_path: Path):
    """By this process, and by another, until that has ended."""
    made = cache(tmp_path, 2 * KIB)
    add(made, "a")
    add(made, "b")
    code = (
        "import sys, pathlib\n"
        "from agehpc.data.cache import Cache\n"
        "from agehpc.data.fetch import Figures, Patience\n"
        "pin = Cache(pathlib.Path(sys.argv[1]), 1, Figures()).pin('a', 1024, None, Patience(1))\n"
        "print('pinned', flush=True)\n"
        "sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "pinned\n"
    add(made, "c")
    assert names(made) == ["a", "c"]
    mine = made.pin("c", KIB, never, Patience(1))
    with pytest.raises(CacheFull) as caught:
        add(made, "d")
    assert "no room for 0.0 MB more" in str(caught.value)
    assert "--data.cache-gib" in str(caught.value)
    assert names(made) == ["a", "c"]
    other.kill()
    other.communicate()
    add(made, "d")
    assert names(made) == ["c", "d"]
    mine.close()


def test_a_shard_larger_than_the_limit(tmp_path: Path):
    made = cache(tmp_path, KIB)
    with pytest.raises(CacheFull, match=r"raise the limit, or set --data.cache-dir"):
        add(made, "a", 2 * KIB)
    assert names(made) == []


def test_a_disk_that_is_full_makes_room_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The limit may be more than the disk holds."""
    made = cache(tmp_path, 1 << 40)
    for name in "ab":
        add(made, name)

    class Disk:
        def __init__(self) -> None:
            held = sum(path.stat().st_size for path in tmp_path.iterdir() if path.is_file())
            self.free = 2 * KIB + 100 - held

    monkeypatch.setattr("agehpc.data.cache.shutil.disk_usage", lambda path: Disk())
    add(made, "c")
    assert names(made) == ["b", "c"]
    with pytest.raises(CacheFull):
        add(made, "d", 3 * KIB)


def test_a_disk_that_fills_up_meanwhile(tmp_path: Path):
    made = cache(tmp_path, 10 * KIB)

    def fill(file: BinaryIO) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CacheFull, match=r"has no room"):
        made.pin("a", KIB, fill, Patience(1))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a tmpfs")
def test_a_real_small_disk(tmp_path: Path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("cannot mount a tmpfs")
    try:
        made = cache(tmp_path / "cache", 1 << 40)
        for name in "abcde":
            add(made, name, 16 * KIB)
        assert made.figures.counts.evicted >= 1
        held = made.pin("e", 16 * KIB, never, Patience(1))
        with pytest.raises(CacheFull, match=r"MB of its disk are free"):
            add(made, "f", 60 * KIB)
        held.close()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_download_under_way_keeps_its_place(tmp_path: Path):
    """It counts with its full size, and is not evicted; one that was abandoned is."""
    made = cache(tmp_path, 3 * KIB)

    def fill(file: BinaryIO) -> None:
        file.write(bytes(10))
        file.flush()
        with pytest.raises(CacheFull):
            add(made, "b", 2 * KIB)
        add(made, "c")
        file.write(bytes(2 * KIB - 10))

    made.pin("a", 2 * KIB, fill, Patience(1)).close()
    assert names(made) == ["a", "c"]

    def stop(file: BinaryIO) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.pin("d", KIB, stop, Patience(1))
    assert f"d.{KIB}.part" in names(made)
    add(made, "e", 3 * KIB)
    assert names(made) == ["e"]


def test_a_file_of_the_wrong_length_is_fetched_again(tmp_path: Path):
    made = cache(tmp_path, 3 * KIB)
    add(made, "a")
    (tmp_path / "a").write_bytes(b"half")
    assert not made.has("a", KIB)
    made.pin("a", KIB, filled(KIB), Patience(1)).close()
    assert made.has("a", KIB)


def test_a_pinned_file_can_be_read_after_all(tmp_path: Path):
    """Even where somebody empties the folder by hand."""
    made = cache(tmp_path, 3 * KIB)
    pinned = made.pin("a", KIB, filled(KIB), Patience(1))
    (tmp_path / "a").unlink()
    assert os.pread(pinned.descriptor, KIB, 0) == bytes(KIB)


def test_small_files(tmp_path: Path):
    made = cache(tmp_path, 3 * KIB)
    assert made.small("x", lambda: b"once", Patience(1)) == b"once"
    assert made.small("x", lambda: b"twice", Patience(1)) == b"once"


def test_waiting_for_another_ends_with_the_deadline(tmp_path: Path):
    made = cache(tmp_path, 3 * KIB)

    def fill(file: BinaryIO) -> None:
        with pytest.raises(DataError, match=r"another process of this node has been fetching"):
            made.pin("a", KIB, never, Patience(0.001))
        file.write(bytes(KIB))

    made.pin("a", KIB, fill, Patience(1)).close()


def test_a_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be made.*--data.cache-dir or AGEHPC_CACHE"):
        cache(tmp_path / "file" / "cache", KIB)


def test_the_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AGEHPC_CACHE", "/a")
    assert default_directory() == Path("/a")
    monkeypatch.delenv("AGEHPC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert default_directory() == Path("/b/agehpc")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/c")
    assert default_directory() == Path("/c/.cache/agehpc")
