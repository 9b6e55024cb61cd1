"""Search algorithms: what they suggest, how they end, that they go on after a restore."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest

from agehpc.errors import UsageError
from agehpc_tune import search
from agehpc_tune.objectives import Objective
from agehpc_tune.search import SEARCHES, Worst, check_search, searcher, starts
from agehpc_tune.spaces import Space

pytest.importorskip("ray")
optuna = pytest.importorskip("optuna")

LOSS = [Objective("loss", "min")]
RANGES = Space.parse(
    {"rate": {"log_uniform": [1e-5, 1e-1]}, "mix": {"uniform": [0, 1]}, "n": {"integer": [1, 9]}},
    "space.yaml",
)
MIXED = Space.parse(
    {
        "kind": {"choice": ["a", "b", ["a", "b"]]},
        "rate": {"log_uniform": [1e-5, 1e-1]},
        "mix": {"uniform": [0, 1], "when": {"kind": ["a"]}},
    },
    "space.yaml",
)
FINISHED = "FINISHED"


def loss(values: dict[str, Any]) -> float:
    """Least, 0, at rate 1e-3, mix 0.3, n 5, kind a."""
    rate = math.log10(values["rate"]) + 3
    rest = (values.get("mix", 0.9) - 0.3) ** 2 + (values.get("n", 5) - 5) ** 2 / 16
    return rate**2 + 4 * rest + (values.get("kind", "a") != "a")


def bayesopt_or_skip(name: str) -> None:
    if name == "bayesopt":
        pytest.importorskip("bayes_opt")


def taken(one: Any, names: Any, results: Any = loss) -> list[dict[str, Any]]:
    """Values that a searcher suggests, told of each result before the next."""
    found = []
    for name in names:
        values = one.suggest(name)
        if values == FINISHED:
            break
        found.append(values)
        one.on_trial_complete(name, {"loss": results(values)})
    return found


def ids(first: int = 0):
    return (f"trial-{number}" for number in itertools.count(first))


@pytest.mark.parametrize("name", SEARCHES)
def test_suggestions(name: str):
    bayesopt_or_skip(name)
    one = searcher(name, RANGES, LOSS, seed=3, trials=27)
    found = taken(one, ids())
    assert len(found) == 27
    for values in found:
        assert set(values) == set(RANGES.keys)
        assert all(parameter.holds(values[parameter.key]) for parameter in RANGES.parameters)
    assert one.suggest("one more") == FINISHED
    if name not in ("random", "grid"):
        assert min(map(loss, found)) < min(map(loss, found[: starts(27)]))


@pytest.mark.parametrize("name", ["bayes", "tpe", "random", "grid"])
def test_conditions_and_options(name: str):
    trials = 15 if name == "grid" else 20
    found = taken(searcher(name, MIXED, LOSS, seed=1, trials=trials), ids())
    assert len(found) == trials
    assert all(("mix" in values) == (values["kind"] == "a") for values in found)
    assert {str(values["kind"]) for values in found} == {"a", "b", "['a', 'b']"}


def test_grid_takes_each_point_once_and_ends():
    found = taken(searcher("grid", MIXED, LOSS, seed=0, trials=100), ids())
    assert found == MIXED.grid()
    assert len(found) == 3 * 3 + 2 * 3


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("stop", [2, 12])
def test_a_restored_search_goes_on_exactly(name: str, stop: int, tmp_path: Path):
    """Before and after the model leads, with a trial that runs while the state is saved."""
    bayesopt_or_skip(name)
    trials = 27 if name == "grid" else 17

    def make():
        return searcher(name, RANGES, LOSS, seed=5, trials=trials)

    whole, first = make(), make()
    wanted = taken(whole, (f"trial-{n}" for n in range(stop)))
    assert taken(first, (f"trial-{n}" for n in range(stop))) == wanted
    running = whole.suggest("running")
    assert first.suggest("running") == running
    first.save(str(tmp_path / "state.pkl"))
    assert first.suggest("lost") == whole.suggest("next")  # moves the generators of the first

    second = searcher(name, RANGES, LOSS, seed=6, trials=trials)
    taken(second, (f"other-{n}" for n in range(3)))
    second.restore(str(tmp_path / "state.pkl"))
    whole.on_trial_complete("next", {"loss": 0.5})
    assert second.suggest("next") is not None
    second.on_trial_complete("next", {"loss": 0.5})
    for one in (whole, second):
        one.on_trial_complete("running", {"loss": loss(running)})
    rest, again = taken(whole, ids(stop)), taken(second, ids(stop))
    assert len(rest) == trials - stop - 2
    assert again == rest


@pytest.mark.parametrize("name", ["bayes", "bayesopt", "random"])
def test_a_restored_search_may_have_more_trials(name: str, tmp_path: Path):
    bayesopt_or_skip(name)
    small = searcher(name, RANGES, LOSS, seed=5, trials=4)
    taken(small, ids())
    assert small.suggest("more") == FINISHED
    small.save(str(tmp_path / "state.pkl"))
    large = searcher(name, RANGES, LOSS, seed=5, trials=7)
    large.restore(str(tmp_path / "state.pkl"))
    assert len(taken(large, ids(4))) == 3


@pytest.mark.parametrize("name", ["bayes", "tpe", "random"])
def test_seeds_decide(name: str):
    def found(seed: int) -> list[dict[str, Any]]:
        return taken(searcher(name, MIXED, LOSS, seed=seed, trials=12), ids())

    assert found(0) == found(0)
    assert found(0) != found(1)


@pytest.mark.parametrize("name", ["bayes", "tpe", "grid", "bayesopt"])
def test_points_come_first(name: str):
    bayesopt_or_skip(name)
    trials = 29 if name == "grid" else 4
    points = [{"rate": 2e-3, "mix": 0.25, "n": 7}, {"rate": 1e-5, "mix": 1.0, "n": 1}]
    found = taken(searcher(name, RANGES, LOSS, seed=0, trials=trials, points=points), ids())
    assert len(found) == (28 if name == "grid" else 4)  # the second one is of the grid
    for values, point in zip(found, points, strict=False):
        assert values == pytest.approx(point, rel=1e-12)


@pytest.mark.parametrize("name", ["bayes", "bayesopt"])
def test_failures_repel(name: str):
    """Where every trial fails it does not go again, and it ends all the same."""
    bayesopt_or_skip(name)
    half = Space.parse({"x": {"uniform": [0, 1]}, "y": {"uniform": [0, 1]}}, "space.yaml")
    one = searcher(name, half, LOSS, seed=2, trials=20)
    inside = []
    for trial in itertools.islice(ids(), 21):
        values = one.suggest(trial)
        if values == FINISHED:
            break
        assert isinstance(values, dict)
        inside.append(values["x"] > 0.5)  # where it would be best
        if inside[-1]:
            one.on_trial_complete(trial, error=True)
        else:
            one.on_trial_complete(trial, {"loss": 1 - values["x"]})
    assert len(inside) == 20
    assert sum(inside[8:]) < 5


@pytest.mark.parametrize("name", ["bayes", "tpe", "bayesopt"])
@pytest.mark.parametrize("result", [None, {}, {"loss": math.nan}, {"loss": None}])
def test_a_search_goes_on_where_nothing_has_a_result(name: str, result: dict | None):
    bayesopt_or_skip(name)
    one = searcher(name, RANGES, LOSS, seed=2, trials=12)
    for trial in itertools.islice(ids(), 12):
        assert isinstance(one.suggest(trial), dict)
        one.on_trial_complete(trial, result, error=result is None)
    assert one.suggest("more") == FINISHED


def test_worst():
    worst = Worst([Objective("loss", "min"), Objective("speed", "max")])
    assert worst.stand_in(None) is None
    assert worst.stand_in({"loss": 1, "speed": 5, "kimg": 3}) == {"loss": 1, "speed": 5}
    assert worst.stand_in({"loss": 2, "speed": 9}) == {"loss": 2, "speed": 9}
    assert worst.stand_in({"loss": 0, "speed": math.inf}) == {"loss": 2, "speed": 5}
    assert worst.stand_in({"loss": 0}) == {"loss": 2, "speed": 5}


@pytest.mark.parametrize("name", ["bayes", "tpe", "random"])
def test_several_objectives(name: str):
    """x ** 2 against (1 - x) ** 2, y wasted: the front is 0 <= x <= 1."""
    plane = Space.parse({"x": {"uniform": [-4, 4]}, "y": {"uniform": [0, 4]}}, "space.yaml")
    goals = [Objective("one", "min"), Objective("other", "max")]
    one = searcher(name, plane, goals, seed=0, trials=24)
    near = []
    for trial in ids():
        values = one.suggest(trial)
        if values == FINISHED:
            break
        assert isinstance(values, dict)
        x, y = values["x"], values["y"]
        one.on_trial_complete(trial, {"one": x**2 + y, "other": -((1 - x) ** 2) - y})
        near.append(-0.5 < x < 1.5 and y < 1)
    assert len(near) == 24
    if name == "bayes":
        assert sum(near[starts(24) :]) > 9


def test_what_a_search_cannot_take():
    def refused(name: str, space: Space = RANGES, goals: Any = LOSS, trials: int = 9) -> str:
        with pytest.raises(UsageError) as error:
            check_search(name, space, goals, trials)
        return str(error.value)

    assert "did you mean bayes?" in refused("baye")
    assert "kind is a choice; use --search bayes" in refused("bayesopt", MIXED)
    two = [*LOSS, Objective("speed", "max")]
    assert "takes one objective, got loss speed" in refused("bayesopt", goals=two)
    assert "27 points, --trials 9" in refused("grid")
    when = Space.parse(
        {"n": {"integer": [1, 2]}, "x": {"uniform": [0, 1], "when": {"n": 1}}}, "space.yaml"
    )
    assert "x has a `when`" in refused("bayesopt", when)


@pytest.mark.parametrize("found", [None, "2.0.4", "3.4.0"])
def test_bayesopt_needs_its_extra(found: str | None, monkeypatch: pytest.MonkeyPatch):
    def version_of(name: str) -> str:
        assert name == "bayesian-optimization"
        if found is None:
            raise search.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(search, "version", version_of)
    with pytest.raises(UsageError, match=r"pip install 'agehpc\[bayesopt\]'") as error:
        searcher("bayesopt", RANGES, LOSS, seed=0, trials=9)
    assert (found or "not installed") in str(error.value)


def test_sweeps_need_their_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(search, "find_spec", lambda name: None if name == "optuna" else object())
    with pytest.raises(UsageError, match=r"sweeps need optuna: pip install 'agehpc\[tune\]'"):
        searcher("bayes", RANGES, LOSS, seed=0, trials=9)
