"""A thread of each rank that ends a job which hangs, and says which rank hangs where.

A job hangs when no rank has made progress for a while: the count of what the ranks have done lies
in the store that they met by, so that a rank which waits for a long evaluation of another knows.
Then every rank writes the stacks of its threads to a file, tells the others whether it waits for
them in a collective, and ends; a rank that does not, or does not answer, is the one that hangs.

A rank that waits for no other keeps its interpreter from running a thread: its stacks are then
written by a thread of C (faulthandler), and others, or srun, end it.
"""

import contextlib
import faulthandler
import json
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO, TypeVar

import torch.distributed as dist

from agehpc.cluster.environment import Environment
from agehpc.errors import EXIT_LOST

T = TypeVar("T")
_PATIENCE = 5.0  # seconds for a file or a message, which may be what hangs
_COUNT, _HUNG = "agehpc/progress", "agehpc/hung"


@dataclass(frozen=True)
class Place:
    """Where a rank is: what it tells when the job hangs.

    Attributes:
        at: what it does, as `step 12, save`.
        waits: the kind of the collective that it is in; None where it is in none.
        calls: collectives that it has begun: ranks that are behind did not come so far.
    """

    at: str
    waits: str | None
    calls: int


class Watchdog:
    """Watches the progress of the ranks while it is entered.

    Args:
        env: this rank's place.
        folder: of the files of stacks, `rankN.stacks`.
        limit_s: seconds without progress of any rank that are a hang; infinite for never.
        place: where this rank is.
        often: called every few seconds, on the watchdog's thread.
        record: keeps a row about a hang; one rank calls it.
        bounded: whether this rank is in what ends by itself, and so counts as progress.
        end: ends the process; given by tests.
    """

    def __init__(
        self,
        env: Environment,
        folder: Path,
        limit_s: float,
        place: Callable[[], Place],
        often: Callable[[], None],
        record: Callable[[dict[str, Any]], None],
        bounded: Callable[[], bool] = lambda: False,
        end: Callable[[int], Any] = os._exit,
    ) -> None:
        self._env, self._folder, self._limit = env, folder, limit_s
        self._place, self._often, self._record = place, often, record
        self._bounded, self._end = bounded, end
        self._period = min(5.0, max(0.05, limit_s / 40))
        self._beats = 0
        self._told = 0
        self._all = 0
        self._since = time.monotonic()
        self._store: Any = None
        self._asking: threading.Thread | None = None
        self._over = threading.Event()
        self._hangs = False
        self._stacks: TextIO | None = None
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def beat(self) -> None:
        """Something has been done. Cheap."""
        self._beats += 1

    def __enter__(self) -> "Watchdog":
        self._folder.mkdir(parents=True, exist_ok=True)
        self._stacks = self._path.open("a")
        if self._env.world_size > 1:
            # A connection of its own: the group's may be held by what hangs.
            self._store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
                self._env.master_addr,
                self._env.master_port,
                is_master=False,
                wait_for_workers=False,
                timeout=timedelta(seconds=_PATIENCE + min(self._limit, 3600.0)),
            )
        self._since = time.monotonic()
        self._arm()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._hangs:  # it ends the process, and says what an error of the main thread cannot
            self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        self._thread.join(_PATIENCE)
        assert self._stacks is not None
        self._stacks.close()
        with contextlib.suppress(FileNotFoundError):  # the folder may have been cleared
            if self._path.stat().st_size == 0:
                self._path.unlink()

    @property
    def silent_s(self) -> float:
        """Seconds since any rank made progress, as far as this one knows."""
        return max(0.0, time.monotonic() - self._since)

    @property
    def _done(self) -> int:
        """Grows with everything that is done; a collective that has begun ended those before it."""
        return self._beats + self._place().calls

    @property
    def _path(self) -> Path:
        return self._folder / f"rank{self._env.rank}.stacks"

    def _watch(self) -> None:
        woke, done = time.monotonic(), self._done
        while not self._over.wait(self._period):
            now = time.monotonic()
            if now - woke > self._period + _PATIENCE:  # stopped, and gone on with: nothing hung
                self._since += now - woke
            woke = now
            self._arm()
            if self._bounded():
                self.beat()
            if (new := self._done) != done:
                done, self._since = new, now
            self._ask()
            self._often()
            if now - self._since > self._limit:
                self._hangs = True
                self._report(now - self._since)
                return

    def _arm(self) -> None:
        """Let a thread of C write the stacks, where none of Python comes to do so in time."""
        assert self._stacks is not None
        if math.isfinite(self._limit):
            faulthandler.dump_traceback_later(self._limit, file=self._stacks)

    def _ask(self) -> None:
        """Tell the others of progress, and hear of theirs; never waits."""
        if self._store is None or (self._asking is not None and self._asking.is_alive()):
            return

        def ask() -> None:
            done = self._done
            new, self._told = done > self._told, done
            with contextlib.suppress(RuntimeError):  # rank 0 is gone: collectives tell of that
                count = self._store.add(_COUNT, int(new))
                if count != self._all:
                    self._all, self._since = count, time.monotonic()

        self._asking = threading.Thread(target=ask, daemon=True)
        self._asking.start()

    def _report(self, silent_s: float) -> None:
        """Write the stacks, find out together who hangs, say it and end."""
        place, env = self._place(), self._env
        mine = {"rank": env.rank, "host": env.hostname, **vars(place)}
        _within(_PATIENCE, lambda: self._write(place, silent_s))
        told = _within(self._grace + _PATIENCE, lambda: self._exchange(mine))
        if told is None:  # rank 0 or its node keeps the store: of the others nothing is known
            known = [0] if env.rank == 0 else range(1, env.world_size)
            told = dict.fromkeys(known, mine)
        if env.rank == min(told) or (0 not in told and env.local_rank == 0):
            text, hung = verdict(told, env.world_size, silent_s)
            text += f"; stacks of all ranks: {self._folder}/rank*.stacks"
            os.write(2, f"error: {text}\n".encode())
            if env.rank == min(told):
                row = {"event": "hang", "time": time.time(), "seconds": silent_s, "ranks": hung}
                _within(_PATIENCE, lambda: self._record(row))
        if env.rank == 0:  # the others may still read what lies in its store
            time.sleep(self._grace)
        self._end(EXIT_LOST)

    @property
    def _grace(self) -> float:
        """Seconds after which every rank that can has noticed."""
        return 3 * self._period + 0.5

    def _write(self, place: Place, silent_s: float) -> None:
        assert self._stacks is not None
        waits = f"waits in {place.waits}" if place.waits else "waits for no other rank"
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        self._stacks.write(
            f"{stamp} rank {self._env.rank} on {self._env.hostname}: no progress for "
            f"{silent_s:.0f} s, at {place.at}, {waits}\n"
        )
        self._stacks.flush()
        faulthandler.dump_traceback(self._stacks)
        os.fsync(self._stacks.fileno())

    def _exchange(self, mine: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
        """What the ranks tell of themselves, by rank; those that tell nothing are missing."""
        ranks = range(self._env.world_size)
        if self._store is None:
            return {self._env.rank: dict(mine)}
        self._store.set(f"{_HUNG}/{self._env.rank}", json.dumps(mine))
        deadline = time.monotonic() + self._grace
        there: list[int] = []
        while len(there) < len(ranks) and time.monotonic() < deadline:
            time.sleep(self._period / 4)
            there = [rank for rank in ranks if self._store.check([f"{_HUNG}/{rank}"])]
        return {rank: json.loads(self._store.get(f"{_HUNG}/{rank}")) for rank in there}


def verdict(
    told: Mapping[int, Mapping[str, Any]], world_size: int, silent_s: float
) -> tuple[str, list[dict[str, Any]]]:
    """Which ranks hang by what the ranks tell of themselves: as a sentence, and as rows.

    Those that tell nothing; else those that wait for nobody; else, where all wait, those that have
    begun the fewest collectives.
    """
    silent = [rank for rank in range(world_size) if rank not in told]
    rows: list[dict[str, Any]] = [
        {"rank": rank, "host": None, "at": "it does not answer", "waits": None} for rank in silent
    ]
    if not rows:
        free = [dict(row) for row in told.values() if row["waits"] is None]
        behind = min(row["calls"] for row in told.values())
        late = [dict(row) for row in told.values() if row["calls"] == behind]
        rows = free if 0 < len(free) < world_size else late
    names = ", ".join(map(_named, rows[:8]))
    more = f" and {len(rows) - 8} more" if len(rows) > 8 else ""
    verb = "hangs" if len(rows) == 1 else "hang"
    others = world_size - len(rows)
    waiting = f"; the other {others} wait for it" if others and len(rows) == 1 else ""
    return f"no progress for {silent_s:.0f} s: {names}{more} {verb}{waiting}", rows


def _named(row: Mapping[str, Any]) -> str:
    host = f" on {row['host']}" if row["host"] else ""
    waits = f", in {row['waits']}" if row["waits"] else ""
    return f"rank {row['rank']}{host} ({row['at']}{waits})"


def _within(seconds: float, work: Callable[[], T]) -> T | None:
    """The result of work that may hang or fail; None where it has not come in time."""
    results: list[T] = []

    def run() -> None:
        with contextlib.suppress(OSError, RuntimeError):
            results.append(work())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return results[0] if results else None
