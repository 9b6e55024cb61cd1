"""How fast a run is: samples a second, the share of time spent waiting for data, the time left.

Saving, sampling and evaluating are spans that do not count, so that the figures of runs with
different cadences compare. A tick's figures are right only if the device has caught up with the
host when it is taken, as it has where the tick fetches its metrics.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Rates:
    """What happened between two ticks; times in seconds."""

    samples: int
    """Samples over all ranks."""
    seconds: float
    """Time that counts: training, without the spans."""
    wait_seconds: float
    """Part of `seconds` spent waiting for data."""
    spans: dict[str, float] = field(default_factory=dict)
    """Time that does not count, by the span's name."""

    @property
    def samples_per_s(self) -> float:
        """Samples a second over all ranks; 0 where no time passed."""
        return self.samples / self.seconds if self.seconds > 0 else 0.0

    @property
    def s_per_kimg(self) -> float:
        """Seconds a thousand samples take; infinite where there were none."""
        return 1000.0 * self.seconds / self.samples if self.samples else float("inf")

    @property
    def wait_share(self) -> float:
        """Share of the time spent waiting for data, in [0, 1]."""
        return self.wait_seconds / self.seconds if self.seconds > 0 else 0.0

    def eta_s(self, samples_left: int, at_most_s: float | None = None) -> float:
        """Return the seconds left at this rate, or until a time limit if that comes first."""
        left = self.s_per_kimg * samples_left / 1000.0 if samples_left > 0 else 0.0
        return left if at_most_s is None else min(left, max(at_most_s, 0.0))

    def row(self) -> dict[str, float]:
        """Return the figures under their names in metrics.jsonl."""
        return {
            "samples_per_s": self.samples_per_s,
            "s_per_kimg": self.s_per_kimg,
            "wait_share": self.wait_share,
            "tick_s": self.seconds,
            **{f"{name}_s": seconds for name, seconds in self.spans.items()},
        }


class Meter:
    """Counts samples and time between ticks."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._outside: str | None = None
        self._waiting: float | None = None
        self._reset()

    @property
    def phase(self) -> str:
        """What is going on: a span's name, `data` where it is waited for, else `train`."""
        return self._outside or ("train" if self._waiting is None else "data")

    @property
    def waiting_s(self) -> float:
        """Seconds that data has been waited for now; 0 where it is not."""
        began = self._waiting
        return 0.0 if began is None else self._clock() - began

    def add(self, samples: int) -> None:
        """Count the samples of a finished step, over all ranks."""
        self._samples += samples

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent inside is waiting for data."""
        start = self._waiting = self._clock()
        try:
            yield
        finally:
            self._waiting = None
            self._waited += self._clock() - start

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Time spent inside is kept under `name` and does not count; spans do not nest."""
        assert self._outside is None, f"span {name} inside span {self._outside}"
        self._outside = name
        start = self._clock()
        try:
            yield
        finally:
            self._spans[name] = self._spans.get(name, 0.0) + self._clock() - start
            self._outside = None

    def tick(self) -> Rates:
        """Return what happened since the last tick (or the start) and count afresh."""
        seconds = self._clock() - self._start - sum(self._spans.values())
        rates = Rates(self._samples, seconds, self._waited, dict(self._spans))
        self._reset()
        return rates

    def _reset(self) -> None:
        self._start = self._clock()
        self._samples, self._waited = 0, 0.0
        self._spans: dict[str, float] = {}
