"""`agehpc evaluate` from the command line, on real digits and real features."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from agehpc import cli
from agehpc.data.digits import digits, load_digits
from tests.latent.runs import make_run, pack_images
from tests.ranks import describe, spawn_ranks

COUNT = 70


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits: `a` and `b` are draws; of b blurred, noisy, and of one class alone."""
    root = tmp_path_factory.mktemp("sets")
    rows = digits()
    x_NHW, labels = load_digits(rows[0].path, ""), np.array([row.label for row in rows])
    order = np.random.default_rng(0).permutation(len(rows))
    a, b = order[:COUNT], order[COUNT : 2 * COUNT]
    noise = np.random.default_rng(1).normal(0, 60, x_NHW[b].shape)
    blurred = [Image.fromarray(x).filter(ImageFilter.GaussianBlur(1.5)) for x in x_NHW[b]]
    found = {
        "a": x_NHW[a],
        "b": x_NHW[b],
        "blurred": np.stack([np.asarray(x) for x in blurred]),
        "noisy": (x_NHW[b] + noise).clip(0, 255).astype(np.uint8),
        "one class": x_NHW[np.flatnonzero(labels == "3")[:COUNT]],
    }
    for name, x in found.items():
        (root / name).mkdir()
        for number, picture in enumerate(x):
            Image.fromarray(picture).save(root / name / f"{number:03d}.png")
        np.save(root / f"{name}.npy", x[..., None])
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AGEHPC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "references"


def evaluate(capsys: pytest.CaptureFixture[str], *words: Any) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert cli.main(["evaluate", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    capsys.readouterr()
    assert cli.main(["evaluate", *map(str, words)]) in (1, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def test_worse_samples_are_farther(sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    metrics = ("--metrics", "frechet_lite0", "precision_recall_lite0", "prdc_lite0")
    run = make_run(tmp_path / "run", pack_images(tmp_path / "shards"))
    worse = ("blurred", "noisy", "one class")
    given = {name: ["--fake", sets / name] for name in ("b", *worse)}
    given["untrained"] = [run, "--n-fake", COUNT]
    found = {}
    for name, words in given.items():
        rows = evaluate(capsys, *words, "--real", sets / "a", *metrics)
        found[name] = {row["metric"]: row["value"] for row in rows}
    distances = {name: values["frechet_lite0"] for name, values in found.items()}
    assert all(distances["b"] < 0.8 * distances[name] for name in worse)
    assert distances["b"] < 0.3 * distances["untrained"]
    assert found["one class"]["recall_lite0"] < 0.5 * found["b"]["recall_lite0"]
    assert found["blurred"]["precision_lite0"] < found["b"]["precision_lite0"]
    names = ["precision", "recall", "density", "coverage"]
    assert list(found["b"])[3:] == [f"prdc_{name}_lite0" for name in names]


def test_an_array_holds_the_same_as_a_folder(sets: Path, capsys: pytest.CaptureFixture[str]):
    values = [
        evaluate(capsys, "--real", sets / f"a{end}", "--fake", sets / f"b{end}")[0]["value"]
        for end in ("", ".npy")
    ]
    assert values[0] == values[1]


def test_ranks_and_batches_change_nothing(sets: Path, capsys: pytest.CaptureFixture[str]):
    words = ["--real", str(sets / "a"), "--fake", str(sets / "b"), "--n-fake", "61", "--json"]
    words += ["--metrics", "frechet_lite0", "precision_recall_lite0", "--fresh"]
    alone = evaluate(capsys, *words[:-1], "--fresh", "--batch", "7")
    command = [sys.executable, "-m", "agehpc", "evaluate", *words]
    ended = spawn_ranks(2, command)
    assert [rank.returncode for rank in ended] == [0, 0], describe(ended)
    two = json.loads(ended[0].output[ended[0].output.index("[\n") :])
    assert ended[1].output == ""
    for one, other in zip(alone, two, strict=True):
        assert one["fingerprint"] == other["fingerprint"]
        # The convolutions themselves depend on the batch in their last bits.
        assert one["value"] == pytest.approx(other["value"], rel=1e-4)


def test_features_of_real_samples_are_kept(
    sets: Path, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    words = ("--real", sets / "a", "--fake", sets / "b")
    first = evaluate(capsys, *words, "--fresh")
    assert not cache.exists()
    evaluate(capsys, *words)
    (kept,) = cache.iterdir()
    monkeypatch.setattr("agehpc.evaluate.reference.save", None)  # nothing is kept anew
    again = evaluate(capsys, *words)
    assert first[0]["value"] == again[0]["value"]
    kept.write_bytes(kept.read_bytes()[:1000])
    assert f"{kept} is damaged" in refused_by(capsys, *words)


def refused_by(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    """The error of what has said already what it compares."""
    capsys.readouterr()
    assert cli.main(["evaluate", *map(str, words)]) == 1
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a run, agehpc evaluate RUN"),
        (["--fake", "b", "--metrics", "fidd"], "no such metric; did you mean fid?"),
        (["--fake", "b"], "frechet_lite0 compares with real samples: give --real"),
        (["--real", "a", "--fake", "b", "--metrics", "fvd"], "fvd is taken of clips"),
        (["--real", "a", "--fake", "b", "--metrics", "kid_lite0"], "needs 1000 samples or more"),
        (["--real", "a", "--fake", "b", "--n-fake", "71"], "fewer than the 71 wanted"),
        (["--real", "a", "--fake", "b", "--metrics", "fid"], "weights of inception are missing"),
        (["--real", "a", "--fake", "b", "--weights", "lite0"], "--weights lite0: NAME=PATH"),
        (["--real", "a", "--fake", "b", "--weights", "i3d=x"], "the metrics look through: lite0"),
        (["--real", "a", "--fake", "x"], "x does not exist"),
        (["runs/none"], "runs/none"),
        (["--prefetch", "lite"], "no weights named 'lite'; did you mean lite0?"),
        (["--compare", "a"], "--compare needs two runs or more"),
    ],
)
def test_bad_input(
    sets: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
):
    monkeypatch.chdir(sets)
    monkeypatch.setenv("AGEHPC_WEIGHTS", str(sets / "nowhere"))
    monkeypatch.setenv("TORCH_HOME", str(sets / "nowhere"))
    assert message in refused(capsys, *words)


def test_missing_weights_are_known_before_any_work(
    sets: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AGEHPC_WEIGHTS", str(sets / "nowhere"))
    monkeypatch.setenv("TORCH_HOME", str(sets / "nowhere"))
    monkeypatch.setattr("agehpc.evaluate.measure.collect", None)
    words = ("--real", sets / "a", "--fake", sets / "b", "--metrics", "frechet_lite0", "fid")
    assert "run `agehpc evaluate --prefetch inception`" in refused(capsys, *words)


def test_a_dry_run_measures_nothing(sets: Path, cache: Path, capsys: pytest.CaptureFixture[str]):
    assert (
        cli.main(
            ["evaluate", "--real", str(sets / "a"), "--fake", str(sets / "b.npy"), "--dry-run"]
        )
        == 0
    )
    assert capsys.readouterr().out == f"70 of {sets / 'b.npy'} against 70 of {sets / 'a'}\n"
    assert not cache.exists()
