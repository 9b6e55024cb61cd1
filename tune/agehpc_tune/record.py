"""What a sweep knows of its trials: state.json, the truth that a restart goes on from.

The searcher is saved beside it, and state.json names that file: whenever the driver is killed, one
state.json holds that belongs to one searcher. trials.csv, best.yaml and pareto.csv follow from it.
"""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from agehpc.config.run_files import NAME as CONFIG
from agehpc.errors import RunError
from agehpc.files import write_text
from agehpc_tune.objectives import Objective
from agehpc_tune.parameters import label

State = Literal["running", "done", "stopped", "failed"]
ENDED = ("done", "stopped", "failed")
STATE, TRIALS, BEST, PARETO = "state.json", "trials.csv", "best.yaml", "pareto.csv"


@dataclass
class Trial:
    """One trial; running is what has not ended, whether or not anything runs."""

    number: int
    id: str
    values: dict[str, Any]
    state: State = "running"
    kimg: float = 0.0
    seconds: float = 0.0
    objectives: dict[str, float] = field(default_factory=dict)
    error: str = ""
    node: str = ""
    """Where it ran last."""

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.number:03d}-{self.id}"

    @property
    def ended(self) -> bool:
        """Whether it is over, one way or another."""
        return self.state in ENDED


class Record:
    """The trials of a sweep directory, read where it has some."""

    def __init__(self, out: Path, objectives: Sequence[Objective], keys: Sequence[str]) -> None:
        self._out, self._objectives, self._keys = out, tuple(objectives), tuple(keys)
        self.trials: list[Trial] = []
        self.searcher: str | None = None
        """Name of the searcher's file in the sweep directory."""
        if (path := out / STATE).exists():
            try:
                held = json.loads(path.read_text())
                self.trials = [Trial(**one) for one in held["trials"]]
                self.searcher = held["searcher"]
            except (ValueError, TypeError, KeyError) as error:
                raise RunError(
                    f"{path} is damaged ({error!r}); restore it from a backup, or start the sweep "
                    "anew in another --out"
                ) from None

    def run(self, trial: Trial) -> Path:
        """Return the run directory of a trial."""
        return self._out / "trials" / trial.name

    def save(self) -> None:
        """Write state.json, and what follows from it."""
        held = {"searcher": self.searcher, "trials": [asdict(trial) for trial in self.trials]}
        write_text(self._out / STATE, json.dumps(held, indent=1) + "\n")
        write_text(self._out / TRIALS, self._table(self.trials))
        if best := self.best():
            write_text(self._out / BEST, self._best_config(best))
        if len(self._objectives) > 1:
            write_text(self._out / PARETO, self._table(self.front()))

    def best(self) -> Trial | None:
        """Return the trial with the best first objective among those that were trained to the end.

        Where none was, None: a trial that was stopped early has a score of another kimg.
        """
        first = self._objectives[0]
        done = self._scored()
        worse = -math.inf if first.mode == "max" else math.inf
        pick = max if first.mode == "max" else min

        def value(trial: Trial) -> float:
            found = trial.objectives[first.name]
            return worse if math.isnan(found) else found

        return pick(done, key=value) if done else None

    def front(self) -> list[Trial]:
        """Return the trials that no other is better than by every objective."""
        done = self._scored()
        return [one for one in done if not any(self._dominates(other, one) for other in done)]

    def _scored(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.state == "done"]

    def _dominates(self, one: Trial, other: Trial) -> bool:
        gains = [
            (one.objectives[o.name] - other.objectives[o.name]) * (1 if o.mode == "max" else -1)
            for o in self._objectives
        ]
        return all(gain >= 0 for gain in gains) and any(gain > 0 for gain in gains)

    def _table(self, trials: Sequence[Trial]) -> str:
        text = io.StringIO()
        names = [objective.name for objective in self._objectives]
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["number", "id", "state", "kimg", "seconds", *self._keys, *names, "run"])
        for trial in trials:
            values = [label(trial.values[k]) if k in trial.values else "" for k in self._keys]
            scores = [trial.objectives.get(name, "") for name in names]
            about = [trial.number, trial.id, trial.state, trial.kimg, round(trial.seconds, 1)]
            rows.writerow([*about, *values, *scores, self.run(trial)])
        return text.getvalue()

    def _best_config(self, trial: Trial) -> str:
        scores = ", ".join(f"{name} {value!r}" for name, value in trial.objectives.items())
        config = (self.run(trial) / CONFIG).read_text()
        return f"# trial {trial.number} of {self._out}: {scores} at {trial.kimg:g} kimg\n{config}"
