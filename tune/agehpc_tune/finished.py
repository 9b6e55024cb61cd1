"""The trials of a sweep directory, as optuna's studies: what reports are drawn from."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agehpc.config.text import read_yaml
from agehpc.errors import ConfigError, RunError
from agehpc_tune.objectives import Objective
from agehpc_tune.record import TRIALS
from agehpc_tune.spaces import Space
from agehpc_tune.spec import SPEC

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class Finished:
    """A sweep as its files tell it."""

    settings: Mapping[str, Any]
    """sweep.yaml."""
    space: Space
    objectives: tuple[Objective, ...]
    rows: Sequence[Mapping[str, str]]
    """trials.csv, in the order of numbers."""

    @classmethod
    def read(cls, sweep: Path) -> "Finished":
        """Read a sweep directory; RunError where a file is missing or damaged."""
        settings, trials = sweep / SPEC, sweep / TRIALS
        for path in (settings, trials):
            if not path.is_file():
                raise RunError(f"{sweep} is no sweep directory: it has no {path.name}")
        try:
            found = read_yaml(settings)
            space = Space.parse(found["space"], str(settings))
            objectives = tuple(Objective(one["name"], one["mode"]) for one in found["objectives"])
        except (ConfigError, KeyError, TypeError) as error:
            raise RunError(f"{settings} is damaged: {error!r}") from None
        with trials.open(encoding="utf-8", newline="") as file:
            rows = sorted(csv.DictReader(file), key=lambda row: int(row["number"]))
        return cls(found, space, objectives, rows)

    @property
    def scored(self) -> list[Mapping[str, str]]:
        """Trials that were trained to the end and have every objective: their figures compare."""
        return [row for row in self.rows if row["state"] == "done" and self._values(row)]

    def best(self, objective: Objective) -> Mapping[str, str] | None:
        """Return the best trial by an objective, or None where none was trained to the end."""
        pick = max if objective.mode == "max" else min
        return pick(self.scored, key=lambda row: float(row[objective.name]), default=None)

    def study(self, *objectives: Objective) -> "Study":
        """Return a study of some objectives; keys have their :attr:`names`, trials their numbers.

        Trials that were not trained to the end have failed in it.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        ways = optuna.study.StudyDirection
        directions = [ways.MINIMIZE if one.mode == "min" else ways.MAXIMIZE for one in objectives]
        study = optuna.create_study(directions=directions)
        wanted = iter(range(len(self.rows) and int(self.rows[-1]["number"]) + 1))
        for row in self.rows:
            for number in wanted:
                whole = number == int(row["number"])
                study.add_trial(self._trial(row if whole else None, objectives))
                if whole:
                    break
        return study

    @property
    def names(self) -> dict[str, str]:
        """Short names of keys: as many of their last words as tell them apart."""
        return short_names(self.space.keys)

    def _trial(
        self, row: Mapping[str, str] | None, objectives: Sequence[Objective]
    ) -> "FrozenTrial":
        from optuna.trial import TrialState, create_trial

        if row is None or not (values := self._values(row)):
            return create_trial(state=TrialState.FAIL)
        params, distributions = {}, {}
        for one in self.space.parameters:
            if text := row[one.key]:
                name = self.names[one.key]
                # Options are in the file as optuna knows them, by their labels.
                number = int if one.is_integer else float
                params[name] = text if one.is_choice else number(text)
                distributions[name] = one.distribution()
        return create_trial(
            values=[values[one.name] for one in objectives],
            params=params,
            distributions=distributions,
        )

    def _values(self, row: Mapping[str, str]) -> dict[str, float]:
        """Return the objectives of a trial trained to the end; none where one is missing."""
        if row["state"] != "done":
            return {}
        found = {one.name: float(row[one.name] or "nan") for one in self.objectives}
        return found if all(map(math.isfinite, found.values())) else {}


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return for each dotted key its shortest ending that no other key shares."""
    found = {}
    for key in keys:
        words = key.split(".")
        endings = [".".join(words[at:]) for at in reversed(range(len(words)))]
        others = [other for other in keys if other != key]
        found[key] = next(
            (e for e in endings if not any(f".{other}".endswith(f".{e}") for other in others)), key
        )
    return found
