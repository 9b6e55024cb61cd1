"""`agehpc tune`: what is wrong is told before anything starts."""

import builtins
import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

from agehpc.cli import main
from agehpc.files import locked
from agehpc_tune import cluster, command

GOOD = "players.autoencoder.optim.lr: {log_uniform: [1e-4, 1e-2]}\n"


@pytest.fixture
def tune(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Run the command on a machine of 4 CPUs and 2 GPUs, without the trainer's own checks."""
    monkeypatch.setattr(command, "_check_training", lambda *_: None)
    monkeypatch.setattr(cluster, "cores", lambda *_: 4)
    monkeypatch.setattr(cluster, "gpus", lambda: 2)

    def run(*flags: str, space: str = GOOD, dry: bool = True) -> tuple[int, str, str]:
        (tmp_path / "space.yaml").write_text(space)
        words = ["image_age_demo", "--data.shards", "none", "--space", str(tmp_path / "space.yaml")]
        words += ["--out", str(tmp_path / "sweep"), *flags, *(["--dry-run"] if dry else [])]
        code = main(["tune", *words])
        out, err = capsys.readouterr()
        assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()
        return code, out, err

    return run


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--trials 0", "--trials: got '0'"),
        ("--gpus-per-trial 3", "--gpus-per-trial 3: there are 2 GPUs"),
        ("--gpus-per-trial 1.5", "a rank computes on one GPU"),
        ("--gpus-per-trial 1 --max-concurrent 3", "--max-concurrent 3: 2 trials of"),
        ("--cpus-per-trial 5", "a trial takes 5, and this machine has 4 CPUs"),
        ("--cpus-per-trial 2 --max-concurrent 3", "--max-concurrent 3: 2 trials of 2 CPUs fit"),
        ("--nodes-per-trial 2", "the sweep has 1 nodes"),
        ("--objective fidd", "no evaluation of these runs gives it"),
        ("--objective fid", "add --evaluate.metrics fid"),
        ("--objective samples_per_s:most", "choose min or max"),
        ("--train.max-minutes 3", "trials that end by the clock"),
        ("--scheduler asha", "set --evaluate.every-kimg below the 60"),
        ("--grace-kimg 3", "--grace-kimg goes with --scheduler asha"),
        ("--scheduler asha --evaluate.every-kimg 5 --grace-kimg 60", "must be below the 60"),
        ("--search nothing", "--search: got 'nothing'"),
        ("--resume", "holds no sweep to resume"),
        ("--trails 3", "unknown flag --trails; did you mean --trials?"),
    ],
)
def test_bad_flags(tune, flags: str, told: str):
    code, out, err = tune(*flags.split())
    assert (code, out) == (1 if flags == "--resume" else 2, "")
    assert err.startswith("error: ")
    assert told in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ("players.autoencoder.optim.rate: {uniform: [0, 1]}", "unknown key"),
        ("players.autoencoder.optim.lr: {uniform: [1, 0]}", "players.autoencoder.optim.lr"),
        ("", "searches nothing"),
    ],
)
def test_bad_spaces(tune, space: str, told: str):
    code, _, err = tune(space=space)
    assert code == 2
    assert told in err


def test_a_search_that_takes_no_choice(tune):
    code, _, err = tune("--search", "bayesopt", space="system.adversarial: {choice: [hinge]}")
    assert (code, "takes ranges only" in err) == (2, True)


def test_a_directory_of_something_else(tune, tmp_path: Path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "thesis.tex").touch()
    code, _, err = tune()
    assert (code, "holds thesis.tex but no sweep" in err) == (2, True)


def test_a_file_in_the_way(tune, tmp_path: Path):
    (tmp_path / "sweep").touch()
    code, _, err = tune()
    assert (code, "is no folder" in err) == (2, True)


def test_another_sweep(
    tune,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(command, "_run", lambda *_: 0)
    assert tune(dry=False)[0] == 0
    assert tune()[0] == 0
    # Neither how many run at once nor where from makes it another one.
    assert tune("--max-concurrent", "1")[0] == 0
    for flags, told in {
        ("--trials", "9"): "trials 20 -> 9",
        ("--train.kimg", "7"): "train.kimg 60.0 -> 7.0",
        ("--search", "random"): "search bayes -> random",
    }.items():
        code, _, err = tune(*flags)
        assert code == 2
        assert f"holds another sweep: {told}" in err
    assert main(["tune", "--resume", "--out", str(tmp_path / "sweep"), "--trials", "9"]) == 2
    assert "is one of 20; give more" in capsys.readouterr().err
    code, _, err = tune(space=GOOD.replace("1e-2", "1e-1"))
    assert "space.players.autoencoder.optim.lr.log_uniform" in err


def test_two_at_once(tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(command, "_run", lambda *_: 0)
    assert tune(dry=False)[0] == 0
    with locked(tmp_path / "sweep", "searched"):
        code, _, err = tune(dry=False)
    assert code == 1
    assert f"is being searched by process {os.getpid()} on " in err
    assert tune(dry=False)[0] == 0


def test_resuming_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["tune", "--resume", "--out", str(tmp_path)]) == 1
    assert "holds no sweep to resume" in capsys.readouterr().err


def test_the_plan(tune, tmp_path: Path):
    code, out, _ = tune("--trials", "8", "--max-concurrent", "2", "--json")
    assert code == 0
    plan = json.loads(out)
    assert plan["trials"] == 8
    assert plan["resources"] == {"ranks": 1, "nodes": 1, "cpus": 1, "gpus": 0.0}
    assert plan["objectives"] == [{"name": "reconstruction_psnr_db", "mode": "max"}]
    assert not (tmp_path / "sweep").exists()
    flags = "--ranks-per-trial 2 --cluster.threads 0 --objective diversity:min samples_per_s"
    plan = json.loads(tune(*flags.split(), "--json")[1])
    assert plan["resources"] == {"ranks": 2, "nodes": 1, "cpus": 4, "gpus": 0.0}
    assert plan["max_concurrent"] == 1
    assert [one["mode"] for one in plan["objectives"]] == ["min", "max"]
    plan = json.loads(tune("--gpus-per-trial", "0.5", "--json")[1])
    assert plan["max_concurrent"] == 4
    assert "20 of 60 kimg" in tune()[1]


def test_without_the_extra(tune, monkeypatch: pytest.MonkeyPatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "ray" else found(name))
    code, _, err = tune()
    told = "error: agehpc tune needs ray, not installed: pip install 'agehpc[tune]'\n"
    assert (code, err) == (2, told)


def test_what_the_trainer_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "space.yaml").write_text(GOOD)
    words = ["image_age_demo", "--data.shards", str(tmp_path / "none"), "--dry-run"]
    assert main(["tune", *words, "--space", str(tmp_path / "space.yaml")]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert str(tmp_path / "none") in err


def test_help_needs_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    imported = builtins.__import__

    def without(name: str, *given, **more):
        assert name.partition(".")[0] not in ("ray", "optuna", "torch")
        return imported(name, *given, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["tune", "--help"]) == 0
    assert "--max-concurrent" in capsys.readouterr().out
