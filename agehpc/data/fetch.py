"""Bringing files here whatever happens on the way: tried again, resumed, verified."""

import hashlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Lock
from typing import BinaryIO, NamedTuple, TypeVar

from agehpc.data.transport import Missing, Refused, Transient, Transport
from agehpc.errors import DataError

TRIES = 5  # in a row that brought nothing new
FIRST_PAUSE = 0.5  # seconds; doubled from try to try
LONGEST_PAUSE = 30.0

T = TypeVar("T")


class Counts(NamedTuple):
    """What was read of remote shards."""

    hits: int = 0
    """Times that a reader opened a shard that lay in the cache."""
    misses: int = 0
    """Times that it had to wait for one."""
    fetched: int = 0
    """Files that came into the cache, indices and what was fetched ahead included."""
    bytes_fetched: int = 0
    """Bytes received, those of tries that failed included."""
    retries: int = 0
    """Tries after the first."""
    evicted: int = 0
    """Files that made room for others."""

    def plus(self, other: "Counts") -> "Counts":
        """Return the sum."""
        return Counts(*(one + more for one, more in zip(self, other, strict=True)))

    def minus(self, other: "Counts") -> "Counts":
        """Return the difference."""
        return Counts(*(one - less for one, less in zip(self, other, strict=True)))


class Figures:
    """Counts of a process since it began, that any thread may add to."""

    def __init__(self) -> None:
        self.counts = Counts()
        self._lock = Lock()

    def add(self, **more: int) -> None:
        """Count."""
        with self._lock:
            self.counts = self.counts.plus(Counts(**more))


class Patience:
    """How long to go on trying for one file: tries in a row, and a deadline."""

    def __init__(self, minutes: float) -> None:
        self.minutes = minutes
        self._end = time.monotonic() + 60 * minutes
        self._failures = 0
        self._cancelled = Event()

    def over(self) -> bool:
        """Tell whether the deadline has passed, or nobody wants the file any more."""
        return time.monotonic() > self._end or self._cancelled.is_set()

    def cancel(self) -> None:
        """Give up, from another thread."""
        self._cancelled.set()

    def progress(self) -> None:
        """Begin to count tries anew: something came."""
        self._failures = 0

    def pause(self, error: Transient) -> bool:
        """Wait before the next try; False, at once, where there is to be none."""
        self._failures += 1
        # Jitter, from the system's entropy: ranks that failed together must not come together.
        pause = min(FIRST_PAUSE * 2 ** (self._failures - 1), LONGEST_PAUSE)
        pause = max(pause * random.SystemRandom().uniform(0.5, 1.0), error.wait)
        if self._failures >= TRIES or time.monotonic() + pause > self._end:
            return False
        return not self._cancelled.wait(pause)


def patiently(work: Callable[[], T], where: str, patience: Patience, figures: Figures) -> T:
    """Return the result of `work`, tried again while it fails by Transient.

    DataError, naming `where`, when patience ends or the source refuses.
    """
    began = time.monotonic()
    tries = 1
    while True:
        try:
            return work()
        except Missing as error:
            raise Absent(f"{where} cannot be fetched: {error}; is the URL right?") from None
        except Refused as error:
            raise DataError(
                f"{where} cannot be fetched: {error}; check the URL and the right to read it"
            ) from None
        except Transient as error:
            if not patience.pause(error):
                seconds = time.monotonic() - began
                raise DataError(
                    f"{where} cannot be fetched: {error} ({tries} tries in {seconds:.0f} s, "
                    f"deadline --data.fetch-minutes {patience.minutes:g}); see to the server and "
                    "run again"
                ) from None
            figures.add(retries=1)
            tries += 1


class Absent(DataError):
    """A file that the source does not have."""


@dataclass(frozen=True)
class Source:
    """The files under a URL, and how long to try for each."""

    transport: Transport
    shown: str
    """The URL as messages show it."""
    minutes: float
    figures: Figures

    def where(self, name: str) -> str:
        """Return a file's name for messages."""
        return f"{self.shown.rstrip('/')}/{name}"

    def patience(self) -> Patience:
        """Begin to wait for a file."""
        return Patience(self.minutes)

    def length(self, name: str, patience: Patience) -> int | None:
        """Return a file's length in bytes, None where the source does not tell."""
        return patiently(
            lambda: self.transport.length(name), self.where(name), patience, self.figures
        )

    def small(self, name: str, parse: Callable[[bytes], T], patience: Patience) -> T:
        """Fetch a file whole and read it by `parse`.

        `parse` raises ValueError for bytes that are not the file's: an HTML page, a half of it.
        They are fetched again like after any other failure.
        """

        def once() -> T:
            with self.transport.body(name) as body:
                data = b"".join(body.blocks)
            self.figures.add(bytes_fetched=len(data))
            if body.length not in (None, len(data)):
                raise Transient(f"it ended after {len(data)} of {body.length} bytes")
            try:
                return parse(data)
            except ValueError as error:
                raise Transient(f"it is {_page(body.kind, data) or error}") from None

        return patiently(once, self.where(name), patience, self.figures)

    def download(
        self, name: str, file: BinaryIO, size: int, sha256: str, patience: Patience
    ) -> None:
        """Complete `file`, which may hold the beginning: `size` bytes with the sum `sha256`."""
        download = _Download(file, size, sha256)
        patiently(
            lambda: download.go_on(self.transport, name, patience, self.figures),
            self.where(name),
            patience,
            self.figures,
        )


def _page(kind: str, data: bytes) -> str:
    html = kind == "text/html" or data.lstrip()[:1] == b"<"
    return "an HTML page" if html else ""


class _Download:
    """A file on its way."""

    def __init__(self, file: BinaryIO, size: int, sha256: str) -> None:
        self._file = file
        self._size = size
        self._sha256 = sha256
        self._have = 0
        self._digest = hashlib.sha256()
        file.seek(0)
        while block := file.read(1 << 20):
            self._digest.update(block)
            self._have += len(block)
        if self._have > size:
            self._restart()

    def go_on(self, transport: Transport, name: str, patience: Patience, figures: Figures) -> None:
        """Try once to fetch what is missing."""
        before = self._have
        try:
            if self._have < self._size:
                self._receive(transport, name, patience, figures)
            self._judge()
        except Transient as error:
            if error.stale:
                self._restart()
            elif self._have > before:
                patience.progress()
            raise

    def _receive(
        self, transport: Transport, name: str, patience: Patience, figures: Figures
    ) -> None:
        with transport.body(name, self._have) as body:
            if body.length not in (None, self._size):
                page = _page(body.kind, next(body.blocks, b""))
                raise Transient(
                    f"it is {page or 'a file'} of {body.length} bytes, the manifest says "
                    f"{self._size}"
                )
            if body.start != self._have:
                self._restart()
                if body.start:
                    raise Transient(f"the server began at byte {body.start}, unasked")
            for block in body.blocks:
                figures.add(bytes_fetched=len(block))
                if self._have + len(block) > self._size:
                    raise Transient(
                        f"it is longer than the {self._size} bytes of the manifest", stale=True
                    )
                self._file.write(block)
                self._digest.update(block)
                self._have += len(block)
                if patience.over():
                    raise Transient(f"it had {self._have} of {self._size} bytes by the deadline")

    def _judge(self) -> None:
        if self._have < self._size:
            raise Transient(f"it ended after {self._have} of {self._size} bytes")
        if self._digest.hexdigest() != self._sha256:
            raise Transient("its content is not what the manifest says (sha256)", stale=True)

    def _restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._digest = hashlib.sha256()
        self._have = 0
