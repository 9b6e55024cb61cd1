"""What a run says: a banner, its progress and where its results lie.

On a terminal a live bar, otherwise one line a tick, without carriage returns: Slurm's logs are
files. Only rank 0 speaks; every rank keeps a log file.
"""

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self, TextIO

from agehpc.observe.throughput import Rates

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LOGGER = logging.getLogger("agehpc")


@dataclass(frozen=True)
class Status:
    """A tick of a run."""

    kimg: float
    total_kimg: float
    step: int
    rates: Rates
    eta_s: float
    values: Mapping[str, float] = field(default_factory=dict)
    """Losses and other figures, by short name."""

    def line(self) -> str:
        """Return the tick as one line."""
        return "  ".join(
            [
                # A demo's few kimg need the second digit that a cluster's thousands do not.
                f"kimg {self.kimg:.{2 if self.total_kimg < 10 else 1}f}/{self.total_kimg:g}",
                f"step {self.step}",
                self.figures(),
                f"eta {duration(self.eta_s)}",
            ]
        )

    def figures(self) -> str:
        """Return speed and losses."""
        return "  ".join(
            [
                f"{self.rates.samples_per_s:.1f} samples/s",
                f"wait {100 * self.rates.wait_share:.1f}%",
                *(f"{name} {value:.3g}" for name, value in self.values.items()),
            ]
        )


class Console:
    """Speaks for a run; `speaks=False`, on every rank but 0, makes it silent."""

    def __init__(
        self, *, speaks: bool = True, stream: TextIO | None = None, live: bool | None = None
    ) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._speaks = speaks
        self._live = self._stream.isatty() if live is None else live
        self._bar: tuple[Progress, TaskID] | None = None

    def rows(self, title: str, rows: Mapping[str, object]) -> None:
        """Say a title and aligned name-value lines: the banner, the results."""
        width = max(map(len, rows), default=0)
        self.say("\n".join([title, *(f"  {name:<{width}}  {rows[name]}" for name in rows)]))

    def say(self, text: str) -> None:
        """Say one thing, above the bar if there is one; every rank's log gets it."""
        LOGGER.info("%s", text)
        if not self._speaks:
            return
        if self._bar is not None:
            self._bar[0].console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            self._stream.write(text + "\n")
            self._stream.flush()

    def progress(self, kimg: float, total_kimg: float) -> None:
        """Move the bar; without a terminal, nothing. Cheap: the bar redraws by its own clock."""
        if self._speaks and self._live:
            bar, task = self._bar or self._open_bar(total_kimg)
            bar.update(task, completed=kimg, total=total_kimg)

    def tick(self, status: Status) -> None:
        """Show a tick: in the bar, or as a line."""
        if not self._live:
            self.say(status.line())
            return
        LOGGER.info("%s", status.line())
        if self._speaks:
            bar, task = self._bar or self._open_bar(status.total_kimg)
            left = f"eta {duration(status.eta_s)}"
            bar.update(task, completed=status.kimg, figures=status.figures(), left=left)

    def close(self) -> None:
        """Take the bar down, leaving its last state on the screen."""
        if self._bar is not None:
            self._bar[0].stop()
            self._bar = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_bar(self, total_kimg: float) -> "tuple[Progress, TaskID]":
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        count = f"{total_kimg:.1f}"
        # On a narrow terminal the figures give way, never the count and the time left.
        bar = Progress(
            TextColumn(
                "kimg {task.completed:.1f}/{task.total:.1f}",
                table_column=Column(no_wrap=True, min_width=6 + 2 * len(count)),
            ),
            BarColumn(bar_width=12, table_column=Column(min_width=12)),
            TextColumn("{task.fields[left]}", table_column=Column(no_wrap=True, min_width=10)),
            TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True)),
            console=RichConsole(file=self._stream, force_terminal=True),
            # Other libraries' output goes where they send it, not into the bar.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        bar.start()
        self._bar = bar, bar.add_task("train", total=total_kimg, figures="starting", left="")
        return self._bar


def duration(seconds: float) -> str:
    """Return a time as 45s, 3m12s, 5h07m or 2d03h."""
    if seconds != seconds or seconds == float("inf"):
        return "unknown"
    s = round(seconds)
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m{s % 60:02d}s"
    if s < 86400:
        return f"{s // 3600}h{s % 3600 // 60:02d}m"
    return f"{s // 86400}d{s % 86400 // 3600:02d}h"


def size(count: float) -> str:
    """Return a number of bytes as 512.0 B, 3.2 KiB, 80.1 MiB or 1.25 GiB."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def setup_logging(run_dir: str | Path, rank: int) -> logging.Logger:
    """Send the logger `agehpc` to RUN/logs/rankN.log (appended) and, on rank 0, warnings to stderr.

    A second call replaces what the first set up.
    """
    close_logging()
    folder = Path(run_dir) / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(folder / f"rank{rank}.log", mode="a", encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    LOGGER.addHandler(file)
    if rank == 0:
        loud = logging.StreamHandler()
        loud.setLevel(logging.WARNING)
        loud.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        LOGGER.addHandler(loud)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    return LOGGER


def close_logging() -> None:
    """Close the files of :func:`setup_logging`."""
    for handler in list(LOGGER.handlers):
        LOGGER.removeHandler(handler)
        handler.close()
    LOGGER.propagate = True
