"""Search algorithms, all as Ray Tune's searchers: the objects that sweeps and benchmarks use.

`suggest` gives flat dicts of dotted keys, and FINISHED once the trials are used up. What a
searcher has learnt is kept by `save`; after `restore` it goes on as if it had never stopped.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from packaging.version import Version

from agehpc.errors import UsageError, hint
from agehpc_tune.objectives import Objective
from agehpc_tune.spaces import Space

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from ray.tune.search import Searcher

SEARCHES = ("bayes", "tpe", "bayesopt", "random", "grid")
_STARTS = 10


def starts(trials: int) -> int:
    """Random trials before a model of the objective leads: a quarter of all, 3 to 10."""
    return min(_STARTS, max(3, trials // 4))


def check_search(name: str, space: Space, objectives: Sequence[Objective], trials: int) -> None:
    """Raise UsageError where a search cannot do what is asked, or is not installed."""
    if name not in SEARCHES:
        raise UsageError(f"--search {name}: no such search; {hint(name, SEARCHES)}")
    for package in ("ray", "optuna"):
        if find_spec(package) is None:
            raise UsageError(f"sweeps need {package}: pip install 'agehpc[tune]'")
    if name == "bayesopt":
        _check_bayesopt(space, objectives)
    if name == "grid" and (points := len(space.grid())) > trials:
        raise UsageError(
            f"the grid has {points} points, --trials {trials}: raise --trials, or lower `points` "
            "or options in the space"
        )


def _check_bayesopt(space: Space, objectives: Sequence[Objective]) -> None:
    for one in space.parameters:
        if one.is_choice:
            raise UsageError(
                f"--search bayesopt takes ranges only, and {one.key} is a choice; use --search "
                "bayes, or take it out of the space"
            )
        if one.when:
            raise UsageError(
                f"--search bayesopt takes no conditions, and {one.key} has a `when`; use --search "
                "bayes"
            )
    if len(objectives) > 1:
        names = " ".join(objective.name for objective in objectives)
        raise UsageError(f"--search bayesopt takes one objective, got {names}; use --search bayes")
    try:
        found = version("bayesian-optimization")
    except PackageNotFoundError:
        found = None
    if found is None or Version(found) >= Version("2"):
        seen = f"found {found}" if found else "which is not installed"
        raise UsageError(
            f"--search bayesopt needs bayesian-optimization below 2, {seen}: "
            "pip install 'agehpc[bayesopt]'"
        )


def searcher(
    name: str,
    space: Space,
    objectives: Sequence[Objective],
    *,
    seed: int,
    trials: int,
    points: Sequence[Mapping[str, Any]] = (),
) -> "Searcher":
    """Return a search of a space.

    Args:
        name: one of SEARCHES.
        space: what is searched.
        objectives: what is made better; several give a Pareto front.
        seed: of everything random: equal seeds and results give equal suggestions.
        trials: how many are suggested; a grid ends when it is used up.
        points: values that come first.

    UsageError as :func:`check_search`.
    """
    check_search(name, space, objectives, trials)
    from agehpc_tune.searchers import BayesOpt, Optuna

    if name == "bayesopt":
        return BayesOpt(space, objectives[0], seed, trials, starts(trials), points)
    if name == "grid":
        points = [*points, *(point for point in space.grid() if point not in points)]
        trials = min(trials, len(points))
    return Optuna(space, objectives, _sampler(name, seed, trials), trials, points)


def _sampler(name: str, seed: int, trials: int) -> "BaseSampler":
    from optuna.samplers import GPSampler, RandomSampler, TPESampler

    first = starts(trials)
    if name in ("random", "grid"):
        return RandomSampler(seed)
    tpe = TPESampler(seed=seed, n_startup_trials=first)
    if name == "tpe":
        return tpe
    # A Gaussian process takes the keys that every trial has; TPE draws the conditional ones.
    return GPSampler(
        seed=seed, n_startup_trials=first, independent_sampler=tpe, warn_independent_sampling=False
    )


class Worst:
    """The worst results so far, which failed trials count as.

    Left out, a model would go back to where they failed: nothing was learnt there.
    """

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self._pick: dict[str, Callable[..., float]] = {
            objective.name: max if objective.mode == "min" else min for objective in objectives
        }
        self._found: dict[str, float] = {}

    def stand_in(self, result: Mapping[str, Any] | None) -> dict[str, float] | None:
        """Return a trial's values, or the worst so far where it gave none; None before any."""
        values = {name: (result or {}).get(name) for name in self._pick}
        numbers = {k: float(v) for k, v in values.items() if v is not None and math.isfinite(v)}
        if len(numbers) < len(values):
            return dict(self._found) or None
        for name, value in numbers.items():
            self._found[name] = self._pick[name](self._found.get(name, value), value)
        return numbers
