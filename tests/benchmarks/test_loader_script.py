import csv
import json
from pathlib import Path

import loader
import loader_variants
import pytest

DECORD, SOURCE = "packed: bare decord", "source: bare decord"
OURS, STOCK = "2 workers: loader by decord", "2 workers: webdataset + decord"


def test_ratios_are_taken_within_rounds():
    """A machine that is three times slower in the second round changes no ratio."""
    measured = {
        SOURCE: loader.Measured(wall=[1.0, 3.0, 1.0], cpu=[0.10, 0.30, 0.12]),
        DECORD: loader.Measured(wall=[9.0, 9.0, 9.0], cpu=[0.01, 0.03, 0.01]),
        OURS: loader.Measured(wall=[0.01, 0.03, 0.01], cpu=[9.0, 9.0, 9.0]),
        STOCK: loader.Measured(wall=[0.02, 0.06, 0.01], cpu=[1.0, 1.0, 1.0]),
    }
    rows = {(row["variant"], row["ratio_to"]): row for row in loader.rows_of(measured)}
    packed = rows[DECORD, SOURCE]
    assert [packed[f"ratio{name}"] for name in ("_low", "", "_high")] == [10.0, 10.0, 12.0]
    assert packed["ms_cpu"] == 10.0
    clocked = rows[OURS, STOCK]  # on the clock: processor time does not show waiting workers
    assert [clocked[f"ratio{name}"] for name in ("_low", "", "_high")] == [1.0, 2.0, 2.0]
    assert clocked["per_s"] == 100.0
    assert set(rows) >= {(SOURCE, ""), (STOCK, "")}


def test_every_ratio_names_variants():
    for ratio in loader.RATIOS:
        assert {ratio.variant, ratio.over} <= set(loader_variants.VARIANTS)


@pytest.mark.slow
def test_one_round_of_everything(demo_clips: dict[str, Path], tmp_path: Path, capsys):
    out = tmp_path / "loader.csv"
    words = ["--rounds", "1", "--clips", "8", "--opens", "50", "--json", "--out", str(out)]
    assert loader.main(words) == 0
    rows = json.loads(capsys.readouterr().out)
    with out.open() as file:
        assert len(list(csv.DictReader(file))) == len(rows)
    assert {row["variant"] for row in rows} >= {ratio.variant for ratio in loader.RATIOS}
    assert all(row["per_s"] > 0 for row in rows if row["per_s"] != "")
    assert {row["size"] for row in rows} == {64}
