"""Whether the ranks of a run are well: heartbeat, watchdog, stragglers.

`RUN/heartbeat.json` says how far the run is and when it last made progress; `RUN/health.jsonl`
keeps what was found wrong. Neither is read by a start.
"""

import math
import os
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import torch.distributed as dist

from agehpc import heartbeat
from agehpc.cluster.groups import Ranks
from agehpc.cluster.waits import Waits
from agehpc.cluster.watchdog import Place, Watchdog
from agehpc.config.schema import Config
from agehpc.data.shards import url_of
from agehpc.errors import EXIT_DIVERGED, EXIT_DONE, EXIT_RESTART, AgehpcError
from agehpc.observe.console import Console
from agehpc.observe.metrics import MetricsLog
from agehpc.observe.throughput import Meter, Rates
from agehpc.train.progress import Progress

_WORK = "work of rank "
_EVERY = 3.0  # seconds between two heartbeats, at least
_LEAST = 0.1  # seconds a tick that a slow rank costs at least: less is noise


class Health:
    """Watches a run while it is entered. Making it is collective.

    Args:
        config: the run's.
        ranks: this process's place and device.
        run: the run directory.
        groups: the process groups that training uses.
        meter: knows what the rank is doing.
        console: is told of stragglers.
        progress: the counters at the start.
    """

    def __init__(
        self,
        config: Config,
        ranks: Ranks,
        run: Path,
        groups: Iterable[dist.ProcessGroup],
        meter: Meter,
        console: Console,
        progress: Progress,
    ) -> None:
        self._config, self._env, self._run, self._meter = config, ranks.env, run, meter
        self._console = console
        self._hosts: list[str] = [ranks.env.hostname] * ranks.env.world_size
        dist.all_gather_object(self._hosts, ranks.env.hostname)
        self._waits = Waits(groups, ranks.device, lambda: meter.phase in ("train", "data"))
        self._progress = progress
        self._rates: Rates | None = None
        self._slow: dict[int, int] = {}
        self._written = 0.0
        self._told: dict[str, Any] = {"state": "running"}
        self._stack = ExitStack()
        cluster = config.cluster
        minutes = cluster.hang_minutes
        self._limit = 60 * (0.8 * cluster.timeout_minutes if minutes is None else minutes)
        given = self._env, run / "logs", self._limit or math.inf
        self._dog = Watchdog(*given, self._place, self._heartbeat, self._record, self._is_fetching)

    def __enter__(self) -> Self:
        self._stack.enter_context(self._waits)
        self._stack.enter_context(self._dog)
        self._write()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, _: object) -> None:
        self._stack.close()
        if isinstance(error, AgehpcError) and error.exit_code == EXIT_DIVERGED:
            self._told = {"state": "diverged", "why": str(error)}
        elif kind is not None:
            self._told = {"state": "failed", "why": str(error) or kind.__name__}
        self._write()

    def ended(self, code: int, *, whole: bool) -> int:
        """Take how training ended, by its exit code and whether it is done; return the code."""
        state = "done" if code == EXIT_DONE and whole else "stopped"
        why = "to be run again" if code == EXIT_RESTART else None
        self._told = {"state": state} | ({} if why is None else {"why": why})
        return code

    def beat(self, progress: Progress | None = None) -> None:
        """Something has been done: a step, after which the counters are these, or less. Cheap."""
        self._progress = self._progress if progress is None else progress
        self._dog.beat()

    def beating(self, check: Callable[[], None]) -> Callable[[], None]:
        """The check of a long work's every batch, which shows that it goes on."""

        def beats() -> None:
            self.beat()
            check()

        return beats

    def work(self, rates: Rates) -> dict[str, float]:
        """This rank's own seconds since the last tick, and zeros for the others: to be averaged."""
        self._rates = rates
        own = max(0.0, rates.seconds - self._waits.take())
        world = range(self._env.world_size)
        return {f"{_WORK}{rank}": own if rank == self._env.rank else 0.0 for rank in world}

    def tick(self, progress: Progress, means: dict[str, float]) -> dict[str, float]:
        """Take the ranks' own seconds out of the averages, and tell of slow ranks.

        Returns columns for the metrics: seconds of the slowest rank and of the median, and which
        rank it is. The same on all ranks; only rank 0 writes.
        """
        world = self._env.world_size
        own = [world * means.pop(f"{_WORK}{rank}") for rank in range(world)]
        usual, slowest = statistics.median_low(own), max(range(world), key=own.__getitem__)
        cluster = self._config.cluster
        for rank, seconds in enumerate(own):
            late = seconds > max(cluster.straggler_factor * usual, usual + _LEAST)
            self._slow[rank] = self._slow.get(rank, 0) + 1 if late else 0
            if self._slow[rank] == cluster.straggler_ticks:
                self._tell(progress, rank, seconds, usual)
        return {"work_s": own[slowest], "work_median_s": usual, "slowest_rank": slowest}

    def _tell(self, progress: Progress, rank: int, seconds: float, usual: float) -> None:
        ticks, host = self._slow[rank], self._hosts[rank]
        self._console.say(
            f"warning: rank {rank} on {host} is slow: its own work takes {seconds:.3g} s a tick, "
            f"that of the median {usual:.3g} s, for {ticks} ticks in a row"
        )
        row = {"event": "straggler", "kimg": progress.kimg, "step": progress.step, "rank": rank}
        row |= {"host": host, "work_s": seconds, "work_median_s": usual, "ticks": ticks}
        if self._env.rank == 0:
            self._record(row | {"time": time.time()})

    def _record(self, row: dict[str, Any]) -> None:
        with (
            suppress(OSError),
            MetricsLog(self._run / heartbeat.LOG) as log,
        ):  # a full disk ends the next tick
            log.append(row)

    def _place(self) -> Place:
        at = f"step {self._progress.step}, {self._meter.phase}"
        return Place(at, self._waits.within, self._waits.count)

    def _is_fetching(self) -> bool:
        """Whether the rank waits for a URL's file, which fails by a deadline of its own."""
        data = self._config.data
        remote = any(url_of(folder) for folder in data.folders)
        return remote and 0 < self._meter.waiting_s < 60 * (data.fetch_minutes + 1)

    def _heartbeat(self) -> None:
        if self._env.rank == 0 and time.time() - self._written > _EVERY:
            self._write()

    def _write(self) -> None:
        """Write the heartbeat, on rank 0; `progressed` is when any rank did something last."""
        if self._env.rank > 0:
            return
        now = self._written = time.time()
        left = self._config.train.kimg * 1000 - self._progress.samples_seen
        told: dict[str, Any] = {
            **self._told,
            "time": now,
            "progressed": now - self._dog.silent_s,
            "phase": self._meter.phase,
            "step": self._progress.step,
            "kimg": self._progress.kimg,
            "total_kimg": self._config.train.kimg,
            "samples_per_s": self._rates.samples_per_s if self._rates else None,
            "eta_s": self._rates.eta_s(round(left)) if self._rates else None,
            "hang_s": self._limit,
            "ranks": self._env.world_size,
            "hosts": list(dict.fromkeys(self._hosts)),
            "process": os.getpid(),
            "job": os.environ.get("SLURM_JOB_ID"),
        }
        with suppress(OSError):  # training says what is wrong with the disk
            heartbeat.write(self._run, told)
