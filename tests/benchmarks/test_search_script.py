"""benchmarks/search.py: its formulas, its comparison, its rows."""

import csv
import json
import math
import random
from pathlib import Path

import pytest

pytest.importorskip("ray")
pytest.importorskip("optuna")
import search

# From Surjanovic and Bingham's library of test functions.
MINIMA = {
    "branin": [
        {"x": -math.pi, "y": 12.275},
        {"x": math.pi, "y": 2.275},
        {"x": 9.42478, "y": 2.475},
    ],
    "hartmann6": [
        {
            f"x{n}": x
            for n, x in enumerate([0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573])
        }
    ],
    "mixed": [{"rate": 1e-3, "width": 64, "mix": 0.3, "kind": "residual"}],
}


@pytest.mark.parametrize("name", search.FUNCTIONS)
def test_least_values_lie_where_they_are_known_to(name: str):
    function = search.FUNCTIONS[name]
    for at in MINIMA[name]:
        assert function.value(at) == pytest.approx(function.least, abs=2e-5)
    draw = random.Random(0)
    for at in MINIMA[name]:
        for one in function.space.parameters:
            for _ in range(200):
                near = one.values if one.is_choice else [one.from_unit(draw.random())]
                moved = at | {one.key: draw.choice(near)}
                assert function.value(moved) > function.least - 1e-9


def test_comparison():
    def row(name: str, found: list[float]) -> dict:
        return {"search": name, "regrets": found, "median": sorted(found)[len(found) // 2]}

    many = row("random", [1 + n / 100 for n in range(20)])
    good = search.compare(row("bayes", [0.1 + n / 100 for n in range(20)]), many)
    assert good["met"]
    assert good["ratio"] == pytest.approx(0.2 / 1.1)
    # No overlap: one order of C(40, 20) is as extreme, by the normal approximation 3e-8.
    assert good["p"] < 1e-7
    near = search.compare(row("bayes", [0.5 + n / 100 for n in range(20)]), many)
    assert (near["met"], near["p"] < 0.01) == (False, True)
    few = search.compare(row("bayes", [0.1, 0.2]), row("random", [1.0, 2.0]))
    assert few["p"] == pytest.approx(1 / 6)  # exact
    assert not few["met"]
    assert "met" not in search.compare(row("tpe", [0.1, 0.2]), row("random", [1.0, 2.0]))


def test_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "rows.csv"
    words = ["--functions", "mixed", "--searches", "bayes", "random", "--seeds", "3"]
    assert search.main([*words, "--trials", "9", "--out", str(out), "--json"]) == 1  # p is 1/20
    rows = json.loads(capsys.readouterr().out)
    assert [(row["search"], row["trials"]) for row in rows] == [("bayes", 9), ("random", 9)]
    for row in rows:
        assert len(row["regrets"]) == 3
        assert row["median"] == sorted(row["regrets"])[1]
        assert row["median"] > 0
    kept = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["met"] for row in kept] == ["False", ""]
    assert len(kept[0]["regrets"].split()) == 3
    again = search.regret(search.FUNCTIONS["mixed"], "random", 3000, 9)
    assert again == rows[1]["regrets"][0]
