"""Samples that cannot be used: which they are, what is read in their place, how many are too many.

A sample is quarantined from the position on where it was found to be bad. The ranks tell each
other at every step, and a resumed run is given all that were found: it reads the same samples as
one that ran through.
"""

from collections.abc import Iterable, Iterator

from agehpc.config.schema import DataConfig
from agehpc.data.damage import Damage
from agehpc.data.keyed import philox
from agehpc.data.mixture import read_shards
from agehpc.data.samples import DOMAINS, Samples, Unit
from agehpc.data.shards import Natural, Record
from agehpc.data.stream import Stream
from agehpc.errors import DataError

LISTED = 12  # samples that an error names


class Fault(Record):
    """A bad sample: its shard, key and index in it, what is wrong, the position it was met at."""

    shard: str
    key: str
    index: Natural
    kind: Damage
    message: str
    position: Natural

    def __str__(self) -> str:
        return f"{self.shard}: sample {self.key} ({self.kind}: {self.message})"


class Quarantine:
    """The bad samples of the training split.

    Args:
        data: says how many are too many.
        known: found by earlier starts of the run.
    """

    def __init__(self, data: DataConfig, known: Iterable[Fault] = ()) -> None:
        self._data = data
        self._samples = read_shards(data).samples("train")
        self._noted: dict[tuple[str, int], Fault] = {}
        self._found: list[Fault] = []
        self._agreed: dict[tuple[str, int], Fault] = {}
        self.agree(known)

    def skips(self, shard: str, index: int, position: int) -> bool:
        """Tell whether a sample is not to be read at a position."""
        fault = self._noted.get((shard, index))
        return fault is not None and fault.position <= position

    def note(self, fault: Fault) -> None:
        """Skip a sample from now on; DataError where there are too many in this rank alone."""
        self._note(fault)
        bad = self._bad(self._noted, fault.position + 1)
        if len(bad) > self.allowed(fault.position + 1):
            self._found = [f for key, f in self._noted.items() if key not in self._agreed]
            raise self._error(bad, fault.position + 1)

    def deliver(self, fault: Fault) -> None:
        """Count a fault that a batch has met; before, reading ahead has only noted it."""
        self._found.append(fault)

    def take(self) -> list[Fault]:
        """Return what was delivered since the last call, for the other ranks."""
        found, self._found = self._found, []
        return found

    def agree(self, found: Iterable[Fault]) -> list[Fault]:
        """Take in what all ranks found; return what is new, each sample once."""
        new = []
        for fault in sorted(found, key=lambda f: (f.position, f.shard, f.index)):
            self._note(fault)
            if self._agreed.setdefault((fault.shard, fault.index), fault) is fault:
                new.append(fault)
        return new

    def count(self, cursor: int) -> int:
        """Return how many samples all ranks have found at positions before `cursor`."""
        return len(self._bad(self._agreed, cursor))

    def check(self, cursor: int) -> None:
        """Raise DataError where too many were found before `cursor`; alike on every rank."""
        bad = self._bad(self._agreed, cursor)
        if len(bad) > self.allowed(cursor):
            raise self._error(bad, cursor)

    def allowed(self, cursor: int) -> int:
        """Return how many bad samples are let pass in `cursor` positions.

        A sample counts once, however many epochs it is met in.
        """
        share = int(self._data.max_bad_fraction * min(cursor, self._samples))
        return max(self._data.bad_allowance, share)

    def _note(self, fault: Fault) -> None:
        before = self._noted.setdefault((fault.shard, fault.index), fault)
        if fault.position < before.position:
            self._noted[fault.shard, fault.index] = fault

    def _bad(self, faults: dict[tuple[str, int], Fault], cursor: int) -> list[Fault]:
        return [fault for fault in faults.values() if fault.position < cursor]

    def _error(self, bad: list[Fault], cursor: int) -> DataError:
        listed = "; ".join(str(fault) for fault in bad[:LISTED])
        more = f"; and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
        return DataError(
            f"{len(bad)} of the {min(cursor, self._samples)} samples read from "
            f"{self._data.where} cannot be used, and --data.max-bad-fraction "
            f"{self._data.max_bad_fraction:g} with --data.bad-allowance {self._data.bad_allowance} "
            f"lets {self.allowed(cursor)} pass: {listed}{more}; pack or copy the shards again "
            "(`agehpc data verify` lists all damage), or raise the limit"
        )


class Places:
    """Which sample is read for a position: the order's own, or a substitute for a bad one.

    Without a quarantine there are no substitutes.
    """

    def __init__(self, samples: Samples, quarantine: Quarantine | None = None) -> None:
        data, self._samples, self.quarantine = samples.data, samples, quarantine
        domains: tuple[str | None, ...] = (None,)
        if data.pairing == "unpaired":
            assert data.domains is not None, "check fills them in"
            domains = data.domains
        self._streams = [
            Stream(data, samples.manifest, samples.split, samples.seed, domain)
            for domain in domains
        ]
        self.domains = len(domains)
        self._names = [shard.name for shard in samples.manifest.splits[samples.split]]

    def __len__(self) -> int:
        """Return the samples that can be had without repeating one: of the smaller domain."""
        return min(map(len, self._streams))

    def shards(self, positions: Iterable[int]) -> Iterator[int]:
        """Yield the shards of the samples at positions, whether or not these are bad."""
        for position in positions:
            for stream in self._streams:
                yield stream.place(position)[0]

    def unit(self, position: int, domain: int) -> Unit:
        """Return what to load; DataError where every sample is bad."""
        for shard, index in self._candidates(position, domain):
            unit = Unit(position, domain, shard, index)
            if not self.skips(unit):
                return unit
        raise DataError(
            f"{self._samples.data.where} has no sample left that can be used; pack it again"
        )

    def skips(self, unit: Unit) -> bool:
        """Tell whether a sample has been found to be bad."""
        name = self._names[unit.shard]
        return self.quarantine is not None and self.quarantine.skips(
            name, unit.index, unit.position
        )

    def fault(self, unit: Unit, kind: Damage, reason: str) -> Fault:
        """Return the record of a bad sample."""
        return Fault(
            shard=self._names[unit.shard],
            key=self._samples.reader.sample(unit.shard, unit.index).key,
            index=unit.index,
            kind=kind,
            message=reason,
            position=unit.position,
        )

    def _candidates(self, position: int, domain: int) -> Iterator[tuple[int, int]]:
        """Yield the sample of a position, then those near it, its shard first."""
        stream = self._streams[domain]
        yield stream.place(position)
        # Drawn by position: two positions whose samples are bad get different ones.
        rng = philox(self._samples.seed or 0, f"substitute{DOMAINS[domain]}", position)
        for near, indices in stream.near(position):
            for i in rng.permutation(indices):
                yield near, int(i)
