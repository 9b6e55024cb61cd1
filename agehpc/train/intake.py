"""What a rank trains on, step by step; the ranks agree on what cannot be used."""

from collections.abc import Callable, Iterator

import torch.distributed as dist

from agehpc.cluster.collectives import any_rank, mean_over_ranks, raise_together, together
from agehpc.cluster.groups import Ranks
from agehpc.config.plan import Plan
from agehpc.config.schema import Config
from agehpc.data.fetch import Counts
from agehpc.data.loader import train_batches
from agehpc.data.pool import Figures
from agehpc.data.quarantine import Fault, Quarantine
from agehpc.data.remote import Tally
from agehpc.errors import DataError
from agehpc.observe.throughput import Meter
from agehpc.systems.base import Micro, System
from agehpc.train.micro import to_micro
from agehpc.train.progress import Progress


class Intake:
    """The batches of a rank and the bad samples of all ranks.

    Args:
        config: the run's.
        plan: batch arithmetic.
        ranks: this process's place and device.
        system: says which draws its micro-batches need.
        quarantine: what earlier starts found; it grows.
        start: position of the first sample.
        meter: counts the time spent waiting.
        record: writes new bad samples down, on rank 0.
    """

    def __init__(
        self,
        config: Config,
        plan: Plan,
        ranks: Ranks,
        system: System,
        quarantine: Quarantine,
        start: int,
        meter: Meter,
        record: Callable[[list[Fault]], None],
    ) -> None:
        self._config, self._plan, self._device, self._system = config, plan, ranks.device, system
        self._quarantine, self._meter, self._record = quarantine, meter, record
        self._figures, self._tally = Figures(), Tally(config.data)
        self._batches = train_batches(
            config.data,
            config.run.seed,
            start=start,
            global_batch=plan.global_batch,
            micro_batch=plan.micro_batch,
            accumulation=plan.accumulation,
            rank=ranks.env.rank,
            world_size=ranks.env.world_size,
            quarantine=quarantine,
            figures=self._figures,
        )
        self._silent = ranks.env.rank > 0

    def step(self, progress: Progress) -> list[list[Micro]]:
        """Return the micro-batches of the next step, by batch. Collective.

        DataError on every rank where one rank cannot go on, or where too many samples are bad.
        """
        loaded: list[list[Micro]] = []
        error = None
        try:
            loaded = list(self._load(progress))
        except DataError as raised:
            error = raised
        found = self._quarantine.take()
        if any_rank(bool(found) or error is not None):
            self._agree(found)
            raise_together(error)
        try:
            read = self._plan.global_batch * self._plan.batches
            self._quarantine.check(progress.samples_read + read)
        except DataError as error:
            error.silent = self._silent
            raise
        return loaded

    def tick(self, progress: Progress) -> dict[str, float]:
        """Return the figures since the last tick, over all ranks. Collective.

        `decode_ms` for one sample, `decode_per_s` that all workers together could decode,
        `retries`, and `quarantined` samples since the run began. Where shards lie behind URLs, also
        `shard_hits` and `shard_misses` in the cache, `fetched_mb` and `fetch_retries`.
        """
        figures = self._figures
        workers = max(1, self._config.data.workers)
        names = ("decoded", "seconds", "retries")
        own = {name: float(getattr(figures, name)) for name in names}
        read = figures.read.plus(self._tally.take())
        own |= {f"read {name}": float(count) for name, count in read._asdict().items()}
        means = mean_over_ranks(own)
        figures.decoded, figures.seconds, figures.retries, figures.read = 0, 0.0, 0, Counts()
        rate = means["decoded"] / means["seconds"] if means["seconds"] else 0.0
        world = dist.get_world_size()
        remote = {
            "shard_hits": round(world * means["read hits"]),
            "shard_misses": round(world * means["read misses"]),
            "fetched_mb": world * means["read bytes_fetched"] / 1e6,
            "fetch_retries": round(world * means["read retries"]),
        }
        return (remote if self._tally else {}) | {
            "decode_ms": 1000 / rate if rate else 0.0,
            "decode_per_s": world * workers * rate,
            "retries": round(world * means["retries"]),
            "quarantined": self._quarantine.count(progress.samples_read),
        }

    def close(self) -> None:
        """End the decoding processes."""
        self._batches.close()

    def _load(self, progress: Progress) -> Iterator[list[Micro]]:
        for _ in range(self._plan.batches):
            yield [self._next(progress) for _ in range(self._plan.accumulation)]

    def _next(self, progress: Progress) -> Micro:
        with self._meter.waiting():
            batch = next(self._batches)
        return to_micro(
            batch,
            self._system,
            self._device,
            seed=self._config.run.seed,
            samples_seen=progress.samples_seen,
            step=progress.step,
        )

    def _agree(self, found: list[Fault]) -> None:
        everyone: list[list[Fault]] = [found] * dist.get_world_size()
        dist.all_gather_object(everyone, found)
        new = self._quarantine.agree(fault for faults in everyone for fault in faults)
        together(lambda: self._record(new))
