"""The searcher that Ray asks: it hands on to a search algorithm, and writes everything down first.

Ray's own restore goes by snapshots that it takes now and then: what was suggested or ended after
the last one is lost, or done twice. Here every suggestion is on the disk, with the searcher that
made it, before its trial starts, and every end before the next suggestion.
"""

import secrets
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from ray.tune.search import Searcher

from agehpc.errors import RunError
from agehpc_tune.follow import last_words
from agehpc_tune.objectives import Objective
from agehpc_tune.record import Record, Trial


class Listener(Protocol):
    """Who is told of the trials."""

    def started(self, trial: Trial) -> None:
        """A trial was handed out."""
        ...

    def moved(self, trial: Trial) -> None:
        """A trial has come further."""
        ...

    def ended(self, trial: Trial) -> None:
        """A trial is over."""
        ...


class Recorded(Searcher):
    """Trials of a record: those that have not ended first, then what a search algorithm suggests.

    Args:
        inner: the search algorithm, as it was made; its state is restored.
        record: what is known of the sweep.
        objectives: what `inner` learns.
        out: the sweep directory.
        trials: how many in all.
        live: how many at once.
        config: Ray's configuration of a trial.
        counts: whether an end, with an error or without, is the trial's own: not where Ray is gone
            or a signal has come.
        listener: is told.
    """

    def __init__(
        self,
        inner: Searcher,
        record: Record,
        objectives: Sequence[Objective],
        out: Path,
        *,
        trials: int,
        live: int,
        config: Callable[[Trial], dict[str, Any]],
        counts: Callable[[bool], bool],
        listener: Listener,
    ) -> None:
        super().__init__()
        self._inner, self._record, self._out = inner, record, out
        self._names = [objective.name for objective in objectives]
        self._trials, self._live = trials, live
        self._config, self._counts, self._listener = config, counts, listener
        self._of: dict[str, Trial] = {}
        # Seconds of a trial before its present process, and of that one.
        self._seconds = {trial.number: (trial.seconds, 0.0) for trial in record.trials}
        self._waiting = [trial for trial in record.trials if not trial.ended]
        self.lock = threading.Lock()
        """Held while anything is written."""
        if record.searcher is not None:
            try:
                inner.restore(str(out / record.searcher))
            except Exception as error:  # whatever unpickling meets
                raise RunError(
                    f"the searcher's state {out / record.searcher} cannot be read ({error!r}); "
                    "use the versions that sweep.yaml names"
                ) from None

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return Ray's configuration of the next trial, None while enough run, or FINISHED."""
        with self.lock:
            if len(self._of) >= self._live:
                return None
            if self._waiting:
                trial = self._waiting.pop(0)
            elif len(self._record.trials) >= self._trials:
                return Searcher.FINISHED
            else:
                number = len(self._record.trials)
                values = self._inner.suggest(str(number))
                if values is None or values == Searcher.FINISHED:
                    return values
                assert isinstance(values, dict)
                trial = Trial(number, secrets.token_hex(2), values)
                self._record.trials.append(trial)
                self._save()
            self._of[trial_id] = trial
            self._listener.started(trial)
            return self._config(trial)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Take in how far a trial is."""
        with self.lock:
            trial = self._of[trial_id]
            self._take(trial, result)
            if self._names[0] in result:
                self._record.save()
            self._listener.moved(trial)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Take in how a trial has ended, and let the search algorithm learn it."""
        with self.lock:
            if not self._counts(error):
                return
            trial = self._of.pop(trial_id)
            result = result or {}
            self._take(trial, result)
            if error or result.get("state") == "diverged":
                trial.state = "failed"
                trial.error = last_words(self._record.run(trial) / "logs" / "trial.log")
            else:
                trial.state = "done" if result.get("state") == "done" else "stopped"
            failed = trial.state == "failed"
            learnt = None if failed else dict(trial.objectives)
            self._inner.on_trial_complete(str(trial.number), learnt, error=failed)
            self._save()
            self._listener.ended(trial)

    def _take(self, trial: Trial, result: dict[str, Any]) -> None:
        if "kimg" in result:
            trial.kimg, trial.node = max(trial.kimg, result["kimg"]), result["node"]
            before, last = self._seconds.get(trial.number, (0.0, 0.0))
            if result["seconds"] < last:
                before += last
            self._seconds[trial.number] = before, result["seconds"]
            trial.seconds = before + result["seconds"]
        if self._names[0] in result:
            trial.objectives = {name: result[name] for name in self._names}

    def _save(self) -> None:
        """Save the searcher under a new name, then the record that names it."""
        old = self._record.searcher
        turn = int(old.rpartition("-")[2].partition(".")[0]) + 1 if old else 1
        self._record.searcher = f"searcher-{turn:06d}.pkl"
        self._inner.save(str(self._out / self._record.searcher))
        self._record.save()
        if old:
            (self._out / old).unlink(missing_ok=True)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles its settings, and this among them, for a restore of its own

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: Ray's snapshots are not used."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: see :meth:`save`."""
