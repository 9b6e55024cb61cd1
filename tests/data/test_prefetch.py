import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from agehpc.data.cache import Cache
from agehpc.data.fetch import Figures, Source
from agehpc.data.prefetch import Ahead, Wanted
from agehpc.data.remote import RemoteFolder
from agehpc.data.shards import ShardInfo
from agehpc.data.transport import Body, Missing

SIZE = 1000


@dataclass
class Memory:
    """A transport that hands out a kilobyte a name, and remembers what was asked."""

    asked: list[str]
    lacks: str = ""

    @contextmanager
    def body(self, name: str, start: int = 0) -> Iterator[Body]:
        self.asked.append(name)
        if name == self.lacks:
            raise Missing("no such file")
        yield Body(iter([content(name)]), 0, SIZE)

    def length(self, name: str) -> int | None:
        return SIZE


def content(name: str) -> bytes:
    return (name * SIZE)[:SIZE].encode()


def shard(name: str) -> ShardInfo:
    sha256 = hashlib.sha256(content(name)).hexdigest()
    return ShardInfo(name=name, bytes=SIZE, sha256=sha256, samples=1, frames=1, least_frames=1)


def started(
    tmp_path: Path,
    plan: list[str],
    depth: int,
    *,
    limit: int = 100,
    lacks: str = "",
    far: int = 99,
    there: str = "",
) -> tuple[Ahead, Memory, Cache]:
    """Batches need the shards named by letters: ["a", "ab"]; the cache holds those of `there`."""
    memory = Memory([], lacks)
    figures = Figures()
    cache = Cache(tmp_path, limit * SIZE, figures)
    folder = RemoteFolder(Source(memory, "memory", 1, figures), cache)
    for name in there:
        folder.pin(shard(name)).close()
    memory.asked.clear()
    needed = iter([[Wanted(folder, shard(name)) for name in names] for names in plan])
    return Ahead(needed, depth, far), memory, cache


def kept(cache: Cache) -> int:
    """How many files cannot be evicted; evicts the others."""
    return [cache._evict(entry) for entry in list(cache._entries())].count(False)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def stays(true: Callable[[], bool]) -> None:
    for _ in range(10):
        assert true()
        time.sleep(0.01)


def test_so_many_shards_in_the_order_of_need(tmp_path: Path):
    ahead, memory, _ = started(tmp_path, ["a", "a", "ab", "b", "c", "d", "e"], 2)
    until(lambda: memory.asked == ["a", "b"])
    stays(lambda: memory.asked == ["a", "b"])
    ahead.reached(0)  # a is in use: it no longer counts
    until(lambda: memory.asked == ["a", "b", "c"])
    stays(lambda: memory.asked == ["a", "b", "c"])
    ahead.reached(4)
    until(lambda: memory.asked == ["a", "b", "c", "d", "e"])
    ahead.close()


def test_what_is_to_come_is_kept_until_it_is_needed(tmp_path: Path):
    """What is in use is not held: with many shards side by side nothing could be evicted."""
    ahead, memory, cache = started(tmp_path, ["a", "b", "a", "c", "d"], 2, limit=3)
    until(lambda: memory.asked == ["a", "b"])
    assert kept(cache) == 2
    ahead.reached(0)
    until(lambda: memory.asked == ["a", "b", "c"])
    assert kept(cache) == 2
    assert not cache.has(f"{shard('a').sha256}.tar", SIZE)
    ahead.close()
    assert kept(cache) == 0


def test_shards_in_use_do_not_keep_it_from_looking_ahead(tmp_path: Path):
    """Every row of the order reads all columns again: these shards are not those to come."""
    plan = ["abc", "def", "abc", "def", "abg", "def", "h"]
    ahead, memory, _ = started(tmp_path, plan, 1, there="abcdef")
    until(lambda: memory.asked == ["g"])
    stays(lambda: memory.asked == ["g"])
    ahead.reached(4)
    until(lambda: memory.asked == ["g", "h"])
    ahead.close()


def test_it_looks_only_so_far(tmp_path: Path):
    ahead, memory, _ = started(tmp_path, ["a"] * 10 + ["b"], 2, far=5)
    until(lambda: memory.asked == ["a"])
    stays(lambda: memory.asked == ["a"])
    ahead.reached(6)
    until(lambda: memory.asked == ["a", "b"])
    ahead.close()


def test_a_shard_that_is_missing_is_the_readers_to_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    ahead, memory, _ = started(tmp_path, ["a", "b", "b", "c"], 3, lacks="b")
    until(lambda: memory.asked == ["a", "b", "c"])
    ahead.close()
    assert "could not be fetched ahead: memory/b cannot be fetched" in caplog.text


def test_a_cache_too_small_ends_it(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """What is read now needs the room."""
    ahead, memory, cache = started(tmp_path, ["a", "b", "c", "d"], 3, limit=2)
    until(lambda: "no shards are fetched ahead any more" in caplog.text)
    assert memory.asked == ["a", "b"]
    pinned = RemoteFolder(Source(memory, "memory", 1, cache.figures), cache).pin(shard("z"))
    pinned.close()
    ahead.close()


def test_closing_ends_it_at_once(tmp_path: Path):
    ahead, memory, _ = started(tmp_path, ["a", "b", "c"], 1)
    until(lambda: memory.asked == ["a"])
    ahead.close()
    assert not ahead._thread.is_alive()
    assert memory.asked == ["a"]
