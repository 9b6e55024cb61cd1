"""Anomaly scores against direct computation, AUROC against counting and SciPy."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from agehpc.data.loader import samples_at
from agehpc.data.pixels import to_float
from agehpc.latent.anomaly import auroc, combine, scores
from agehpc.trained import Model
from tests.latent.runs import figures, refusal


@given(
    st.lists(
        st.tuples(st.integers(-3, 3) | st.floats(-1e6, 1e6), st.booleans()), min_size=2
    ).filter(lambda rows: len({kind for _, kind in rows}) == 2)
)
def test_auroc_counts_pairs(rows):
    score_N = np.array([score for score, _ in rows], np.float64)
    anomaly_N = np.array([kind for _, kind in rows])
    pairs = [(a > b) + 0.5 * (a == b) for a in score_N[anomaly_N] for b in score_N[~anomaly_N]]
    assert auroc(score_N, anomaly_N) == pytest.approx(np.mean(pairs), abs=1e-12)


def test_auroc_is_the_statistic_of_mann_and_whitney():
    draws = np.random.default_rng(0)
    anomaly_N = draws.random(500) < 0.2
    score_N = (draws.normal(size=500) + anomaly_N).round(1) * 1000  # ties, and far from [0, 1]
    u = mannwhitneyu(score_N[anomaly_N], score_N[~anomaly_N]).statistic
    wanted = u / (anomaly_N.sum() * (~anomaly_N).sum())
    assert auroc(score_N, anomaly_N) == pytest.approx(wanted, abs=1e-12)
    assert 0.6 < wanted < 0.9


def test_parts_are_brought_to_one_scale():
    draws = np.random.default_rng(0)
    a, b = draws.normal(size=50), 1e6 + 1e-3 * draws.normal(size=50)
    found = combine({"a": a, "b": b, "c": np.ones(50)}, {"a": 2.0, "b": 1.0, "c": 5.0})
    wanted = 2 * (a - a.mean()) / a.std() + (b - b.mean()) / b.std()
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("loss", ["mse", "l1"])
def test_scores_are_those_of_one_sample_at_a_time(model: Model, loss):
    x = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found, y_BCS = scores(model, x, ("reconstruction", "features", "latent"), loss=loss)
    for n in range(3):
        one = x[n : n + 1]
        z = model.encode(one)
        y = model.decode(z)
        torch.testing.assert_close(y_BCS[n : n + 1], y)
        gap = (one - y).double()
        error = gap.square().mean() if loss == "mse" else gap.abs().mean()
        features = (model.critique(one)[1] - model.critique(y)[1]).square().mean()
        latent = (model.encode(y) - z).square().mean()
        for name, wanted in (
            ("reconstruction", error), ("features", features), ("latent", latent),
        ):  # fmt: skip
            assert found[name][n].item() == pytest.approx(wanted.item(), rel=1e-4)
    assert scores(model, x, ("features",))[0].keys() == {"features"}


def test_the_command_writes_every_score_and_finds_the_other_class(
    image_run: Path, model: Model, tmp_path, capsys
):
    told = figures(
        capsys, "anomaly", image_run, "--normal", "dark", "--weights", 1, 0, 2, "--batch", 5,
        "--columns", 3, "--out", tmp_path,
    )  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    assert [int(row["position"]) for row in rows] == list(range(told["n"]))
    assert rows[0].keys() == {"position", "class", "score", "reconstruction", "latent"}
    batch = samples_at(model.config.data, split="validation", positions=range(told["n"]))
    assert [row["class"] for row in rows] == [("dark", "light")[n] for n in batch.labels]
    anomaly_N = batch.labels.numpy() == 1
    found, _ = scores(model, to_float(batch.pixels), ("reconstruction", "latent"))
    parts = {name: values.numpy() for name, values in found.items()}
    total_N = combine(parts, {"reconstruction": 1, "latent": 2})
    np.testing.assert_allclose([float(row["score"]) for row in rows], total_N, atol=1e-4)
    assert told["auroc"] == pytest.approx(auroc(total_N, anomaly_N))
    assert told["auroc_latent"] == pytest.approx(auroc(parts["latent"], anomaly_N))
    assert told["anomalies"] == anomaly_N.sum()
    other = figures(
        capsys, "anomaly", image_run, "--abnormal", "dark", "--weights", 1, 0, 2, "--out", tmp_path
    )
    assert other["auroc"] == pytest.approx(1 - told["auroc"])
    assert (tmp_path / "most-anomalous.png").stat().st_size


def test_without_classes_there_is_no_auroc(clip_run: Path, tmp_path, capsys):
    told = figures(capsys, "anomaly", clip_run, "--n", 2, "--out", tmp_path)
    assert "auroc" not in told
    head = (tmp_path / "scores.csv").read_text().partition("\n")[0]
    assert head == "position,class,score,reconstruction,features"


def test_bad_questions_are_refused(image_run: Path, tmp_path, monkeypatch, capsys):
    words = ("anomaly", image_run, "--out", tmp_path)
    assert "not both" in refusal(capsys, *words, "--normal", "dark", "--abnormal", "light")
    assert "--normal grey: no such class; there are dark, light" in refusal(
        capsys, *words, "--normal", "grey"
    )
    assert "--weights takes three" in refusal(capsys, *words, "--weights", 1, 2)
    assert "not all 0" in refusal(capsys, *words, "--weights", 0, 0, 0)
    assert "anomalies only among" in refusal(capsys, *words, "--abnormal", "dark", "light")
    can = Model.can
    monkeypatch.setattr(Model, "can", lambda self, use: use != "critique" and can(self, use))
    assert "has no data discriminator" in refusal(capsys, *words, "--weights", 0, 1, 0)
    assert "auroc_features" not in figures(capsys, *words, "--normal", "dark")
