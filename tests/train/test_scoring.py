"""Metrics of generated samples during training equal those of `agehpc evaluate` afterwards."""

import json
from pathlib import Path

import pytest

from agehpc import cli
from agehpc.observe import metrics
from tests.latent.runs import pack_images
from tests.train.runs import Training, rows, train_in_fork
from tests.train.small import flags, kimg

GENERATED, STEPS = 9, 6
SCORED = [
    *("--evaluate.metrics", "frechet_lite0", "precision_recall_lite0"),
    *("--evaluate.generated", str(GENERATED), "--evaluate.every-kimg", kimg(2)),
    *("--evaluate.best", "frechet_lite0", "--train.save-every-kimg", kimg(2)),
    *("--train.keep-last", "9"),
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_images(tmp_path_factory.mktemp("pictures"))


def test_two_ranks_measure_what_the_command_does(
    shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("AGEHPC_CACHE", str(tmp_path / "cache"))
    run = tmp_path / "run"
    ended = Training(flags(shards, run, STEPS, *SCORED), tmp_path / "log", 2).end()
    assert ended.codes == [0, 0], ended.output
    measured = [row for row in rows(run / "evaluations.jsonl") if "protocol" in row]
    names = ["frechet_lite0", "precision_lite0", "recall_lite0"]
    assert [(row["step"], row["metric"]) for row in measured] == [
        (step, name) for step in (2, 4, 6) for name in names
    ]
    best = json.loads((run / "checkpoints" / "best.json").read_text())
    assert best["value"] == min(row["value"] for row in measured if row["metric"] == names[0])
    capsys.readouterr()
    count = str(GENERATED)
    words = ["--checkpoint", "all", "--n-real", count, "--n-fake", count, "--fresh", "--json"]
    words += ["--metrics", "frechet_lite0", "precision_recall_lite0"]
    assert cli.main(["evaluate", str(run), *words]) == 0
    after = json.loads(capsys.readouterr().out)
    assert [row["fingerprint"] for row in after] == [row["fingerprint"] for row in measured]
    for mine, theirs in zip(measured, after, strict=True):
        assert mine["value"] == pytest.approx(theirs["value"], rel=1e-3, abs=1e-6)
    assert len(metrics.read(run / "evaluations.jsonl")) > len(after)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--evaluate.metrics", "frechet_lite"], "no such metric; did you mean frechet_lite0?"),
        (["--evaluate.metrics", "fid"], "the weights of inception are missing"),
        (["--evaluate.metrics", "fvd"], "fvd is taken of clips"),
        (["--evaluate.best", "frechet_lite0"], "--evaluate.best frechet_lite0"),
        (["--evaluate.metrics", "kid_lite0"], "needs 1000 samples or more"),
    ],
)
def test_what_cannot_be_measured_is_told_before_training(
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
):
    monkeypatch.setenv("AGEHPC_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    run = tmp_path / "run"
    code, _, error = train_in_fork(flags(shards, run, STEPS, *words), tmp_path / "log")
    assert code in (1, 2)
    assert message in error
    assert not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_text()
