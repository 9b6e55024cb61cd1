"""How close the search algorithms of sweeps come to known minima, beside random search.

    python benchmarks/search.py
    python benchmarks/search.py --functions branin --searches bayes random --seeds 5 --json

Each search is the object that `agehpc tune` uses, told of each result before it suggests the next
point; the objective is a formula. Simple regret is the least value found less the true minimum.
`bayes` is held to at most a third of random's median regret, by a one-sided Mann-Whitney test with
p < 0.01; the exit code is 1 where it misses that. One row a function and search is added to
results/search.csv. Needs agehpc[tune], and agehpc[bayesopt] for that search.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from results_csv import append
from scipy.stats import mannwhitneyu

from agehpc.errors import EXIT_DONE, EXIT_FAILURE, AgehpcError
from agehpc.observe import environment
from agehpc_tune.objectives import Objective
from agehpc_tune.search import SEARCHES, searcher
from agehpc_tune.spaces import Space

RESULTS = Path(__file__).resolve().parent / "results" / "search.csv"
COLUMNS = (
    *("date", "function", "search", "trials", "seeds", "median", "q1", "q3", "ratio", "p"),
    *("wanted", "met", "ms_per_trial", "regrets", "device", "load_at_start"),
    *("optuna", "ray", "bayesian_optimization", "scipy", "torch", "agehpc", "revision"),
)
MEASURED = ("bayes", "tpe", "bayesopt", "random")
LARGEST_RATIO, LARGEST_P = 1 / 3, 0.01
Row = dict[str, Any]


@dataclass(frozen=True)
class Function:
    """A formula over a space, and its least value."""

    space: Space
    value: Callable[[Mapping[str, Any]], float]
    least: float


def branin(at: Mapping[str, Any]) -> float:
    """Branin's function on its usual domain: three equal minima (Dixon and Szego 1978)."""
    x, y = at["x"], at["y"]
    bend = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return bend**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10


_HARTMANN_WEIGHTS = np.array([1.0, 1.2, 3.0, 3.2])
_HARTMANN_A = np.array(
    [
        [10, 3, 17, 3.5, 1.7, 8],
        [0.05, 10, 17, 0.1, 8, 14],
        [3, 3.5, 1.7, 10, 17, 8],
        [17, 8, 0.05, 10, 0.1, 14],
    ]
)
_HARTMANN_P = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


def hartmann6(at: Mapping[str, Any]) -> float:
    """Hartmann's function of six variables in [0, 1] (Dixon and Szego 1978)."""
    x = np.array([at[f"x{n}"] for n in range(6)])
    return -float(_HARTMANN_WEIGHTS @ np.exp(-(_HARTMANN_A * (x - _HARTMANN_P) ** 2).sum(1)))


# What a network costs, its best learning rate (log10) and its best width (log2), by kind.
_KINDS = {"plain": (0.5, -2.0, 7.0), "residual": (0.0, -3.0, 6.0), "dense": (1.0, -4.0, 5.0)}


def mixed(at: Mapping[str, Any]) -> float:
    """A made-up loss of a training: its valley lies elsewhere for each kind, and has ripples."""
    cost, rate, width = _KINDS[at["kind"]]
    rate, width = math.log10(at["rate"]) - rate, math.log2(at["width"]) - width
    ripple = 0.3 * (1 - math.cos(2 * math.pi * rate))
    return cost + (rate + 0.3 * width) ** 2 + ripple + 0.5 * width**2 + 4 * (at["mix"] - 0.3) ** 2


FUNCTIONS = {
    "branin": Function(
        Space.parse({"x": {"uniform": [-5, 10]}, "y": {"uniform": [0, 15]}}, "branin"),
        branin,
        10 / (8 * math.pi),  # where the square is 0 and the cosine -1
    ),
    "hartmann6": Function(
        Space.parse({f"x{n}": {"uniform": [0, 1]} for n in range(6)}, "hartmann6"),
        hartmann6,
        -3.32236801141551,
    ),
    "mixed": Function(
        Space.parse(
            {
                "rate": {"log_uniform": [1e-6, 1]},
                "width": {"log_integer": [8, 512]},
                "mix": {"uniform": [0, 1]},
                "kind": {"choice": list(_KINDS)},
            },
            "mixed",
        ),
        mixed,
        0.0,
    ),
}


def regret(function: Function, search: str, seed: int, trials: int) -> float:
    """Return the least value that a search of so many trials finds, less the true minimum."""
    goal = Objective("loss", "min")
    one = searcher(search, function.space, [goal], seed=seed, trials=trials)
    found = math.inf
    for trial in map(str, range(trials)):
        at = one.suggest(trial)
        assert isinstance(at, dict), f"{search} gave {at} for trial {trial} of {trials}"
        value = function.value(at)
        one.on_trial_complete(trial, {goal.name: value})
        found = min(found, value)
    return found - function.least


def measure(name: str, search: str, seeds: int, trials: int) -> Row:
    """Return the row of a function and a search, without its comparison."""
    first = 1000 * SEARCHES.index(search)  # no search shares its first draws with another
    start = time.perf_counter()
    found = [regret(FUNCTIONS[name], search, first + n, trials) for n in range(seeds)]
    seconds = time.perf_counter() - start
    low, median, high = np.quantile(found, [0.25, 0.5, 0.75])
    return {
        "function": name,
        "search": search,
        "trials": trials,
        "seeds": seeds,
        "median": float(median),
        "q1": float(low),
        "q3": float(high),
        "ms_per_trial": 1000 * seconds / (seeds * trials),
        "regrets": found,
    }


def compare(row: Row, random: Row) -> Row:
    """Return how a search stands to random search, and whether that is enough."""
    better = mannwhitneyu(row["regrets"], random["regrets"], alternative="less")
    told = {"ratio": row["median"] / random["median"], "p": float(better.pvalue)}
    if row["search"] == "bayes":
        met = told["ratio"] <= LARGEST_RATIO and told["p"] < LARGEST_P
        told |= {"wanted": "<= 1/3, p < 0.01", "met": met}
    return told


def applies(search: str, function: Function) -> bool:
    """Whether a search takes a function's space: bayesopt takes no choices."""
    return search != "bayesopt" or not any(one.is_choice for one in function.space.parameters)


def rows_of(options: argparse.Namespace) -> list[Row]:
    """Measure and print all rows."""
    rows: list[Row] = []
    for name in options.functions:
        random = measure(name, "random", options.seeds, options.trials)
        for search in options.searches:
            if not applies(search, FUNCTIONS[name]):
                continue
            if search == "random":
                row = random
            else:
                row = measure(name, search, options.seeds, options.trials)
                row |= compare(row, random)
            rows.append(row)
            if not options.json:
                print(told(row), flush=True)
    return rows


def told(row: Row) -> str:
    """Return a row as a line."""
    text = f"{row['function']:<10} {row['search']:<9} median regret {row['median']:<9.3g} "
    text += f"({row['q1']:.3g} to {row['q3']:.3g}), {row['ms_per_trial']:.0f} ms a trial"
    if "ratio" in row:
        text += f", {row['ratio']:.3g} of random's, p {row['p']:.2g}"
    return text + ("" if row.get("met", True) else ", MISSED: at most 1/3, p < 0.01")


def about(load: float) -> Row:
    """Return what every row says of the machine and versions."""
    known = environment.describe()
    try:
        bayesopt = version("bayesian-optimization")
    except PackageNotFoundError:
        bayesopt = ""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "device": f"{known['cpu']} ({known['cores']} cores)",
        "load_at_start": load,
        "bayesian_optimization": bayesopt,
        **{name: version(name) for name in ("optuna", "ray", "scipy")},
        "torch": known["packages"]["torch"],
        "agehpc": known["agehpc"],
        "revision": known["revision"] or "none",
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--functions", nargs="+", choices=list(FUNCTIONS), default=list(FUNCTIONS))
    add("--searches", nargs="+", choices=MEASURED, default=["bayes", "tpe", "random"])
    add("--seeds", type=int, default=20, help="searches of each kind (default 20)")
    add("--trials", type=int, default=40, help="trials of a search (default 40)")
    add("--out", type=Path, default=RESULTS, help="CSV that rows are added to")
    add("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args(argv)
    if options.seeds < 2 or options.trials < 2:
        parser.error("--seeds and --trials are 2 or more")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and keep."""
    options = parse(argv)
    load = round(os.getloadavg()[0], 2)
    try:
        append(options.out, COLUMNS, [])  # what cannot be written is better known before
        found = rows_of(options)
        common = about(load)
        kept = [{**common, **row, **_short(row)} for row in found]
        append(options.out, COLUMNS, kept)
    except AgehpcError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if options.json:
        print(json.dumps([common | row for row in found], indent=2))
    return EXIT_DONE if all(row.get("met", True) for row in found) else EXIT_FAILURE


def _short(row: Row) -> Row:
    short = {k: float(f"{v:.4g}") for k, v in row.items() if isinstance(v, float)}
    return short | {"regrets": " ".join(f"{value:.4g}" for value in row["regrets"])}


if __name__ == "__main__":
    sys.exit(main())
