"""Samples in the order of positions, decoded here or ahead of time by other processes.

S slots, N bytes of a sample.
"""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from agehpc.data.damage import DamagedError, damaged
from agehpc.data.pool import QUEUE, Figures, Pool
from agehpc.data.quarantine import Fault, Places
from agehpc.data.samples import Samples, Unit
from agehpc.errors import ConfigError

MIB = 2**20


class Loaded(NamedTuple):
    """A sample's pixels, valid until the next sample is asked for, and its label."""

    pixels_N: np.ndarray
    label: int


class Feed(Protocol):
    """Where batches get their samples from."""

    def sample(self, position: int, domain: int) -> Loaded:
        """Return the next sample; DamagedError for a bad one without a quarantine."""
        ...

    def refill(self) -> None:
        """Keep the decoding processes busy while batches are trained on."""
        ...

    def close(self) -> None:
        """End the decoding processes."""
        ...


class Here:
    """Decodes in this process, when asked."""

    def __init__(self, samples: Samples, places: Places, figures: Figures) -> None:
        self._samples, self._places, self._figures = samples, places, figures
        self._out_N = np.empty(samples.nbytes, np.uint8)

    def sample(self, position: int, domain: int) -> Loaded:
        """Return a sample."""
        while True:
            unit = self._places.unit(position, domain)
            start = time.monotonic()
            try:
                label = self._samples.load(unit, self._out_N)
            except DamagedError as error:
                quarantine = self._places.quarantine
                if quarantine is None:
                    raise
                fault = self._places.fault(unit, error.kind, error.reason)
                quarantine.note(fault)
                quarantine.deliver(fault)
                continue
            self._figures.decoded += 1
            self._figures.seconds += time.monotonic() - start
            return Loaded(self._out_N, label)

    def refill(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


@dataclass
class _Ahead:
    """A sample that was asked for ahead of time."""

    unit: Unit
    slot: int
    label: int = -1
    done: bool = False
    error: DamagedError | None = None
    faults: list[Fault] = field(default_factory=list)
    """Bad samples that stood here before."""


class Ahead:
    """Decodes ahead in a pool of processes.

    Args:
        samples: what they load from.
        places: which sample to load.
        order: the (position, domain) of all calls of `sample` to come, in order.
        batch: samples of a batch, of which each process keeps `data.prefetch`.
        figures: counts what is done.
    """

    def __init__(
        self,
        samples: Samples,
        places: Places,
        order: Iterator[tuple[int, int]],
        batch: int,
        figures: Figures,
    ) -> None:
        data = samples.data
        self._samples, self._places, self._order = samples, places, order
        room = data.buffer_mib * MIB // samples.nbytes
        if not room:
            raise ConfigError(
                f"a sample takes {samples.nbytes / MIB:.1f} MiB, more than --data.buffer-mib "
                f"{data.buffer_mib}; raise it"
            )
        slots = min(data.prefetch * data.workers * batch, QUEUE * data.workers, room)
        self._free = deque(range(slots))
        self._ahead: dict[tuple[int, int], _Ahead] = {}
        self._pool = Pool(samples, data.workers, slots, data.deadline_s, figures)
        self._given: int | None = None

    def sample(self, position: int, domain: int) -> Loaded:
        """Return the next sample in order."""
        key = position, domain
        self._take_back()
        while not self._is_good(key):
            self._submit()
            for unit, slot, label, kind, reason in self._pool.results():
                ahead = self._ahead[unit.position, unit.domain]
                assert ahead.slot == slot
                if kind is None:
                    ahead.label, ahead.done = label, True
                elif self._places.quarantine is None:
                    ahead.error, ahead.done = damaged(self._samples.where(unit), reason, kind), True
                else:
                    fault = self._places.fault(unit, kind, reason)
                    self._places.quarantine.note(fault)
                    ahead.faults.append(fault)
                    self._again(ahead)
        ahead = self._ahead.pop(key)
        if ahead.error is not None:
            raise ahead.error
        for fault in ahead.faults:
            assert self._places.quarantine is not None
            self._places.quarantine.deliver(fault)
        self._given = ahead.slot
        return Loaded(self._pool.slots_SN[ahead.slot], ahead.label)

    def refill(self) -> None:
        """Give the processes all that the slots hold."""
        self._take_back()
        self._submit()
        self._pool.send()

    def close(self) -> None:
        """End the processes."""
        self._pool.close()

    def _is_good(self, key: tuple[int, int]) -> bool:
        ahead = self._ahead.get(key)
        if ahead is None or not ahead.done:
            return False
        if not self._places.skips(ahead.unit):
            return True
        self._again(ahead)  # since it was decoded, it was found to be bad
        return False

    def _again(self, ahead: _Ahead) -> None:
        ahead.unit = self._places.unit(ahead.unit.position, ahead.unit.domain)
        ahead.done = False
        self._pool.submit(ahead.unit, ahead.slot)

    def _take_back(self) -> None:
        if self._given is not None:
            self._free.append(self._given)
            self._given = None

    def _submit(self) -> None:
        while self._free:
            key = next(self._order)
            ahead = _Ahead(self._places.unit(*key), self._free.popleft())
            self._ahead[key] = ahead
            self._pool.submit(ahead.unit, ahead.slot)
