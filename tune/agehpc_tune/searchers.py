"""Ray's searchers as sweeps need them: bounded, over a Space, and told of trials that failed."""

import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from ray.tune.search import Searcher
from ray.tune.search.bayesopt import BayesOptSearch
from ray.tune.search.optuna import OptunaSearch

from agehpc_tune.objectives import Objective
from agehpc_tune.search import Worst
from agehpc_tune.spaces import Space


class Optuna(OptunaSearch):
    """A search by one of optuna's samplers."""

    def __init__(
        self,
        space: Space,
        objectives: Sequence[Objective],
        sampler: optuna.samplers.BaseSampler,
        trials: int,
        points: Sequence[Mapping[str, Any]],
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        names, modes = [o.name for o in objectives], [o.mode for o in objectives]
        super().__init__(
            space.suggest,
            metric=names if len(names) > 1 else names[0],
            mode=modes if len(modes) > 1 else modes[0],
            sampler=sampler,
            points_to_evaluate=[space.drawn(point) for point in points],
        )
        self._trials, self._worst = trials, Worst(objectives)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next values, or FINISHED."""
        if trial_id not in self._ot_trials and len(self._ot_trials) >= self._trials:
            return Searcher.FINISHED
        with warnings.catch_warnings():
            # Fitting a model takes its time, and ray takes that for the trial's own work.
            warnings.filterwarnings("ignore", "Define-by-run function", UserWarning)
            return super().suggest(trial_id)

    def restore(self, checkpoint_path: str) -> None:
        """Take up what another learnt; how many trials there are is this one's."""
        trials = self._trials
        super().restore(checkpoint_path)
        self._trials = trials

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing is learnt before the end: figures of unequal kimg do not compare."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Learn a trial's result."""
        values = self._worst.stand_in(None if error else result)
        super().on_trial_complete(trial_id, values, error=values is None)


class BayesOpt(BayesOptSearch):
    """The search of the package bayesian-optimization, each range on its own scale."""

    def __init__(
        self,
        space: Space,
        objective: Objective,
        seed: int,
        trials: int,
        first: int,
        points: Sequence[Mapping[str, Any]],
    ) -> None:
        self._ranges = {one.key: one for one in space.parameters}
        super().__init__(
            # One length scale serves all ranges: each is searched from 0 to 1.
            {key: (0.0, 1.0) for key in self._ranges},
            metric=objective.name,
            mode=objective.mode,
            points_to_evaluate=[
                {key: one.to_unit(point[key]) for key, one in self._ranges.items()}
                for point in points
            ],
            random_state=seed,
            random_search_steps=first,
            # Rounded to whole numbers, points come again: they end no sweep.
            patience=sys.maxsize,
            skip_duplicate=False,
        )
        self._trials, self._given, self._worst = trials, 0, Worst([objective])

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next values, None while the random ones are awaited, or FINISHED."""
        if self._given >= self._trials:
            return Searcher.FINISHED
        found = super().suggest(trial_id)
        if not isinstance(found, dict):
            return found
        self._given += 1
        return {key: one.from_unit(float(found[key])) for key, one in self._ranges.items()}

    def restore(self, checkpoint_path: str) -> None:
        """Take up what another learnt; how many trials there are is this one's."""
        trials = self._trials
        super().restore(checkpoint_path)
        self._trials = trials

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Learn a trial's result."""
        values = self._worst.stand_in(None if error else result)
        # The search waits for as many results as it drew at random: one that is none counts.
        super().on_trial_complete(trial_id, values or {self.metric: math.nan})
