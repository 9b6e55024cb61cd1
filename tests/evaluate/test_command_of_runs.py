"""`agehpc evaluate RUN`: figures of a run's samples, reconstructions and latents."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import agehpc
from agehpc import cli
from agehpc.config.run_files import read_run_config
from agehpc.evaluate.prior_match import prior_match
from agehpc.evaluate.protocols import USUAL
from agehpc.latent.codes import read_npz
from agehpc.observe import metrics
from tests.latent.runs import make_run, pack_clips, pack_images
from tests.ranks import describe, spawn_ranks

REBUILT = ["psnr_db", "ssim", "ms_ssim", "latent_mse"]


@pytest.fixture(scope="module", params=["image", "clip"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp(request.param)
    pack = pack_images if request.param == "image" else pack_clips
    return make_run(root / "run", pack(root / "shards"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGEHPC_CACHE", str(tmp_path / "cache"))


def told(capsys: pytest.CaptureFixture[str], *words: Any) -> Any:
    capsys.readouterr()
    assert cli.main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def values(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in rows}


def test_figures_equal_those_of_the_other_commands(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = told(capsys, "evaluate", run, "--metrics", *REBUILT, "prior_match")
    found = values(rows)
    rebuilt = told(capsys, "reconstruct", run, "--baseline", 0, "--out", tmp_path / "r")
    assert found["rebuilt_psnr_db"] == pytest.approx(rebuilt["psnr_db"], rel=1e-6)
    told(capsys, "encode", run, "--out", tmp_path / "z.npz")
    model = agehpc.load(run)
    z_NZ = read_npz(tmp_path / "z.npz").tensor(model)
    again = model.encode(model.decode(z_NZ))
    assert found["rebuilt_latent_mse"] == pytest.approx(float((again - z_NZ).square().mean()), 1e-4)
    for name, value in prior_match(z_NZ, "gaussian").items():
        assert found[f"prior_{name}"] == pytest.approx(value, rel=1e-4, abs=1e-7)
    assert {row["samples"] for row in rows} == {0}
    assert {row["n_real"] for row in rows} == {len(z_NZ)}


def test_two_ranks_give_the_same(run: Path, capsys: pytest.CaptureFixture[str]):
    usual = USUAL[read_run_config(run).data.kind]
    words = ["--metrics", *REBUILT, "prior_match", usual, "--n-fake", "5", "--batch", "2"]
    alone = told(capsys, "evaluate", run, *words)
    # Five or so samples a rank, and batches that do not come out even.
    command = [sys.executable, "-m", "agehpc", "evaluate", str(run), *words, "--json"]
    ended = spawn_ranks(2, command)
    assert [rank.returncode for rank in ended] == [0, 0], describe(ended)
    two = json.loads(ended[0].output[ended[0].output.index("[\n") :])
    assert [row["fingerprint"] for row in two] == [row["fingerprint"] for row in alone]
    for name, value in values(alone).items():
        assert values(two)[name] == pytest.approx(value, rel=1e-4, abs=1e-7), name


def test_what_a_run_generates_is_what_sample_writes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    told(capsys, "sample", run, "--n", 6, "--array", "--out", tmp_path / "made")
    made = tmp_path / "made" / "samples.npy"
    np.save(tmp_path / "real.npy", 255 - np.load(made))
    given = ("--real", tmp_path / "real.npy")
    of_run = told(capsys, "evaluate", run, *given, "--n-fake", 6, "--batch", 4)
    of_file = told(capsys, "evaluate", "--fake", made, *given, "--batch", 4)
    assert of_run[0]["value"] == pytest.approx(of_file[0]["value"], rel=1e-6)
    assert of_run[0]["fingerprint"] == of_file[0]["fingerprint"]
    assert of_run[0]["metric"] == USUAL[read_run_config(run).data.kind]


def test_figures_are_written_down_and_compared(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for name in "ab":
        shutil.copytree(run, tmp_path / name)
    log = tmp_path / "a" / "evaluations.jsonl"
    log.unlink(missing_ok=True)
    words = ("--metrics", "psnr_db", "ssim")
    for name in "ab":
        told(capsys, "evaluate", tmp_path / name, *words)
    rows = metrics.read(log)
    assert [row["metric"] for row in rows] == ["rebuilt_psnr_db", "rebuilt_ssim"]
    assert {"kimg", "step", "checkpoint", "value", "fingerprint", "protocol"} <= set(rows[0])
    compare = ("--compare", tmp_path / "a", tmp_path / "b", "--metrics", "psnr_db")
    (row,) = told(capsys, "evaluate", *compare)
    assert list(row["values"].values()) == [rows[0]["value"]] * 2
    told(capsys, "evaluate", tmp_path / "b", *words, "--n-rebuilt", 2)
    assert cli.main(["evaluate", *map(str, compare)]) == 1
    assert "do not compare: n " in capsys.readouterr().err
    assert cli.main(["evaluate", *map(str, compare[:-1]), "fid"]) == 1
    assert "has no figure fid of `agehpc evaluate`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--checkpoint", "step-00000009"], "has no checkpoint 'step-00000009'"),
        (["--checkpoint", "best"], "best"),
        (["--fake", "x"], "only one of them is scored"),
        (["--metrics", "lpips"], "weights of alexnet are missing"),
    ],
)
def test_bad_input(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
):
    monkeypatch.setenv("AGEHPC_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert cli.main(["evaluate", str(run), *words]) in (1, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
