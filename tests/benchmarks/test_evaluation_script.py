"""The evaluation benchmark on few features: its rows, and that all compute the same."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_rows_of_few_features(tmp_path: Path):
    out = tmp_path / "rows.csv"
    words = ["--features", "48", "--rounds", "2", "--out", str(out), "--json"]
    done = subprocess.run(
        [sys.executable, "benchmarks/evaluation.py", *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *(p for p in sys.path if p)])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    found = [(row["case"], row["rival"]) for row in rows]
    regular = [("regular", "torchmetrics"), ("regular", "scipy sqrtm")]
    assert found == [*regular, ("singular", "torchmetrics")]
    for row in rows:
        assert row["met"] is True
        assert row["wanted"] == ""  # speed is asked of 2048 features
        assert row["difference"] < 1e-6
        assert 0 < row["low"] <= row["ratio"] <= row["high"]
    with out.open() as file:
        assert [row["rival"] for row in csv.DictReader(file)] == [row["rival"] for row in rows]
