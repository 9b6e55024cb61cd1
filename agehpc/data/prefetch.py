"""Fetching the shards that are needed next, while the ones before are read.

The order of samples is known, so are the next shards. One thread fetches them into the node's
cache, in the order of need, and keeps each from being evicted until it is needed. Those in use are
safe as long as the cache holds what is read side by side: what was used longest ago goes first.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import Condition, Thread
from typing import NamedTuple

from agehpc.data.cache import GIB, CacheFull, Pinned
from agehpc.data.mixture import parts_of
from agehpc.data.quarantine import Places
from agehpc.data.remote import RemoteFolder, remote_folder
from agehpc.data.samples import Samples
from agehpc.data.shards import ShardInfo, url_of
from agehpc.errors import DataError

LOOKED_AHEAD = 1 << 16  # samples of one rank, at most: where few shards hold all, none is next
LOGGER = logging.getLogger("agehpc")


class Wanted(NamedTuple):
    """A shard behind a URL."""

    folder: RemoteFolder
    shard: ShardInfo


@contextmanager
def fetched_ahead(
    samples: Samples, places: Places, batches: Iterable[range]
) -> Iterator[Callable[[int], None]]:
    """Fetch the shards of `batches`, positions without end; nothing where they lie here already.

    Gives a function to call with the number of each batch that was read.
    """
    data = samples.data
    shards = [
        Wanted(remote_folder(part.data), shard) if url_of(part.data) else None
        for part in parts_of(data, samples.manifest)
        for shard in part.manifest.splits[samples.split]
    ]
    if not any(shards):
        yield lambda batch: None
        return

    def needed() -> Iterator[list[Wanted]]:
        for positions in batches:
            numbers = dict.fromkeys(places.shards(positions))
            yield [wanted for number in numbers if (wanted := shards[number]) is not None]

    first = next(iter(batches))
    _warn_of_a_small_cache(needed(), -(-data.interleave // len(first)), data.cache_gib)
    if not data.fetch_ahead:
        yield lambda batch: None
        return
    ahead = Ahead(needed(), data.fetch_ahead, LOOKED_AHEAD // len(first) + 1)
    try:
        yield ahead.reached
    finally:
        ahead.close()


def _warn_of_a_small_cache(needed: Iterator[list[Wanted]], batches: int, gib: float) -> None:
    """Tell where every shard would be evicted before its next sample is read."""
    # A rank's batches may return to its columns sooner: then no more shards are met.
    together = {wanted.shard.sha256: wanted.shard.bytes for _, wanted in _first(needed, batches)}
    if sum(together.values()) > gib * GIB:
        _warn(
            f"{len(together)} shards of {sum(together.values()) / GIB:.3g} GiB are read side by "
            f"side, more than --data.cache-gib {gib:g} holds: they are fetched again and again; "
            "raise it, or set a smaller --data.interleave"
        )


def _first(needed: Iterator[list[Wanted]], batches: int) -> Iterator[tuple[int, Wanted]]:
    for batch, wanted in zip(range(batches), needed, strict=False):
        yield from ((batch, one) for one in wanted)


@cache
def _warn(text: str) -> None:
    LOGGER.warning("%s", text)


class Ahead:
    """A thread that holds the shards of the batches to come: `depth` that it had to fetch.

    Args:
        needed: the shards of each batch, in the order of need.
        depth: how many may be there before they are needed.
        farthest: how many batches to look ahead.
    """

    def __init__(self, needed: Iterator[list[Wanted]], depth: int, farthest: int) -> None:
        self._needed = needed
        self._depth = depth
        self._farthest = farthest
        self._reached = -1
        self._closed = False
        self._met: dict[str, _Met] = {}
        self._failed: set[str] = set()
        self._cancel: Callable[[], None] = lambda: None
        self._changed = Condition()
        self._thread = Thread(target=self._run, name="fetch ahead", daemon=True)
        self._thread.start()

    def reached(self, batch: int) -> None:
        """Say which batch was read last: what it needed is in use, and held no more."""
        with self._changed:
            self._reached = batch
            for sha256, met in list(self._met.items()):
                if met.first <= batch:
                    met.let_go()
                if met.last <= batch:
                    del self._met[sha256]
            self._changed.notify()

    def close(self) -> None:
        """End the thread and let everything go."""
        with self._changed:
            self._closed = True
            self._cancel()
            self._changed.notify()
        self._thread.join(timeout=5)  # it may be waiting for a silent server
        self._release()

    def _release(self) -> None:
        with self._changed:
            for met in self._met.values():
                met.let_go()
            self._met.clear()

    def _run(self) -> None:
        try:
            for batch, needed in enumerate(self._needed):
                for wanted in needed:
                    if not self._wait(batch, wanted):
                        return
                    self._meet(batch, wanted)
        except CacheFull as error:
            # What is read now goes before what is read next.
            self._release()
            LOGGER.warning("no shards are fetched ahead any more: %s", error)

    def _wait(self, batch: int, wanted: Wanted) -> bool:
        """Wait until a shard may be fetched; False when there is no more to do."""

        def may() -> bool:
            held = sum(met.pinned is not None for met in self._met.values())
            near = batch - self._reached <= self._farthest
            known = wanted.shard.sha256 in self._met
            return self._closed or (near and (known or held < self._depth))

        with self._changed:
            self._changed.wait_for(may)
            return not self._closed

    def _meet(self, batch: int, wanted: Wanted) -> None:
        sha256 = wanted.shard.sha256
        with self._changed:
            met = self._met.get(sha256)
            if met is not None:
                met.last = batch
            if met is not None or sha256 in self._failed or batch <= self._reached:
                return
            patience = wanted.folder.source.patience()
            self._cancel = patience.cancel
            if self._closed:
                return
        try:
            pinned = wanted.folder.pin(wanted.shard, patience)
        except CacheFull:
            raise
        except DataError as error:
            if not self._closed:  # the reader that needs it will meet the error itself
                self._failed.add(sha256)
                LOGGER.warning("a shard could not be fetched ahead: %s", error)
            return
        with self._changed:
            met = _Met(pinned, batch, batch)
            if self._closed or batch <= self._reached or not pinned.fetched:
                met.let_go()  # what lay in the cache is most likely in use: no reason to wait
            if not self._closed and batch > self._reached:
                self._met[sha256] = met


class _Met:
    """A shard that is needed, from the first to the last batch known to need it."""

    def __init__(self, pinned: Pinned | None, first: int, last: int) -> None:
        self.pinned = pinned
        """Its file where it was fetched and is not yet in use."""
        self.first = first
        self.last = last

    def let_go(self) -> None:
        if self.pinned is not None:
            self.pinned.close()
            self.pinned = None
