"""What a sweep says: a live table on a terminal, otherwise one line when a trial starts or ends."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from agehpc_tune.finished import short_names
from agehpc_tune.objectives import Objective
from agehpc_tune.record import Record, Trial

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table


class Display:
    """Speaks for a sweep.

    Args:
        record: the trials.
        objectives: the figures shown.
        keys: what is searched.
        total: kimg of a trial.
        stream: where to; `live` by default where it is a terminal.
    """

    def __init__(
        self,
        record: Record,
        objectives: Sequence[Objective],
        keys: Sequence[str],
        total: float,
        *,
        stream: TextIO | None = None,
        live: bool | None = None,
    ) -> None:
        self._record, self._names, self._keys = record, [o.name for o in objectives], keys
        self._short, self._total = short_names(keys), total
        self._stream = sys.stdout if stream is None else stream
        self._is_live = self._stream.isatty() if live is None else live
        self._live: Live | None = None

    def started(self, trial: Trial) -> None:
        """Tell that a trial was handed out."""
        values = ", ".join(f"{key} {short(value)}" for key, value in trial.values.items())
        again = f" goes on from {trial.kimg:g} kimg" if trial.kimg else ""
        self.say(f"trial {trial.number}{again}: {values}", quiet=self._is_live)
        self._draw()

    def moved(self, trial: Trial) -> None:
        """Show how far a trial is."""
        self._draw()

    def ended(self, trial: Trial) -> None:
        """Tell how a trial ended."""
        scores = ", ".join(f"{name} {short(trial.objectives.get(name))}" for name in self._names)
        best = self._record.best()
        what = trial.state if trial.state != "failed" else f"failed ({trial.error})"
        mark = "  (best so far)" if best is trial else ""
        line = (
            f"trial {trial.number} {what} at {trial.kimg:g} kimg, {trial.seconds:.0f} s: {scores}"
        )
        self.say(line + mark, quiet=self._is_live and trial.state != "failed")
        self._draw()

    def say(self, text: str, *, quiet: bool = False) -> None:
        """Say a line, above the table if there is one; quiet, nothing."""
        if quiet:
            return
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            self._stream.write(text + "\n")
            self._stream.flush()

    def close(self) -> None:
        """Take the table down, leaving its last state on the screen."""
        if self._live is not None:
            self._live.update(self._table())
            self._live.stop()
            self._live = None
            self._is_live = False

    def _draw(self) -> None:
        if not self._is_live:
            return
        if self._live is None:
            from rich.console import Console
            from rich.live import Live

            console = Console(file=self._stream, force_terminal=True)
            self._live = Live(console=console, auto_refresh=False, redirect_stdout=False)
            self._live.start()
        self._live.update(self._table(), refresh=True)

    def _table(self) -> "Table":
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for name in ("trial", "state", "kimg", *self._names, *self._short.values()):
            table.add_column(name, no_wrap=True)
        best = self._record.best()
        for trial in self._record.trials:
            scores = [short(trial.objectives.get(name)) for name in self._names]
            values = [short(trial.values[k]) if k in trial.values else "" for k in self._keys]
            state = "best" if trial is best else trial.state
            kimg = f"{trial.kimg:.3g}/{self._total:g}"
            table.add_row(str(trial.number), state, kimg, *scores, *values)
        return table


def short(value: Any) -> str:
    """Return a value in few letters."""
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
