"""The best checkpoint of a training stays, whatever its age and whatever ends the process."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import agehpc.trained
from agehpc import best as bests
from agehpc import checkpoints
from agehpc.best import Best
from tests.latent.runs import pack_images
from tests.train.runs import Training, manifest, newest, rows, state, tensors, train_in_fork
from tests.train.small import flags, kimg

METRIC, STEPS = "reconstruction_psnr_db", 12
# Rates at which the figure goes up and down.
RESTLESS = [
    *("--evaluate.best", METRIC, "--evaluate.every-kimg", kimg(1), "--train.keep-last", "1"),
    *("--players.autoencoder.optim.lr", "0.1", "--players.autoencoder.ema.half-life-kimg", "0"),
    *("--run.seed", "1"),
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_images(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    code, _, told = train_in_fork(flags(shards, out, STEPS, *RESTLESS), out.with_name("log"))
    assert code == 0, told
    return out


def measured(run: Path) -> list[dict]:
    return [row for row in rows(run / "evaluations.jsonl") if row["metric"] == METRIC]


def by_hand(run: Path) -> list[Best]:
    """Every value that was the best when it was measured."""
    found: list[Best] = []
    for row in measured(run):
        if not found or row["value"] > found[-1].value:
            found.append(Best(row["metric"], row["value"], row["step"], row["kimg"]))
    return found


def assert_kept(run: Path) -> None:
    best = bests.read(run)
    assert best == by_hand(run)[-1]
    assert [p.name for p in checkpoints.complete(run)] == [
        checkpoints.name_of(step) for step in sorted({best.step, STEPS})
    ]


def test_it_is_kept_beyond_the_newest(undisturbed: Path):
    assert [row["step"] for row in measured(undisturbed)] == list(range(1, STEPS + 1))
    assert_kept(undisturbed)
    best = by_hand(undisturbed)[-1]
    # What the test is about: the best is old, no multiple of the cadence, and not the first.
    assert best.step < STEPS
    assert len(by_hand(undisturbed)) > 2
    model = agehpc.trained.load(undisturbed, checkpoint="best")
    path = undisturbed / "checkpoints" / checkpoints.name_of(best.step)
    for name, tensor in load_file(path / "ema.safetensors").items():
        assert torch.equal(model.state()[name], tensor)
    assert state(path)["step"] == best.step
    last = agehpc.trained.load(undisturbed)
    assert any(not torch.equal(last.state()[n], t) for n, t in model.state().items())


def kill_before_the_third_record() -> None:
    write, calls = bests.write, iter(range(9))

    def killed(run: Path, best: Best) -> None:
        if next(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        write(run, best)

    bests.write = killed


def test_a_kill_between_saving_and_recording(shards: Path, undisturbed: Path, tmp_path: Path):
    out = tmp_path / "run"
    words = flags(shards, out, STEPS, *RESTLESS)
    code, _, _ = train_in_fork(words, tmp_path / "log", patch=kill_before_the_third_record)
    assert code == -signal.SIGKILL
    before, third = by_hand(undisturbed)[1:3]
    assert manifest(out, third.step).is_file()
    assert bests.read(out) == before
    assert manifest(out, before.step).is_file()
    # With the record lost too: evaluations.jsonl alone tells.
    shutil.copytree(out, tmp_path / "without")
    bests.path_of(tmp_path / "without").unlink()
    code, told, errors = train_in_fork(
        flags(shards, tmp_path / "without", third.step, *RESTLESS), tmp_path / "log"
    )
    assert code == 0, errors
    assert bests.read(tmp_path / "without") == third, told

    code, _, told = train_in_fork(words, tmp_path / "log")
    assert code == 0, told
    assert_kept(out)
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert rows(out / name) == rows(undisturbed / name)
    wanted = tensors(newest(undisturbed))
    for name, tensor in tensors(newest(out)).items():
        assert torch.equal(wanted[name], tensor), name


def test_on_two_ranks(shards: Path, tmp_path: Path):
    out = tmp_path / "run"
    ended = Training(flags(shards, out, STEPS, *RESTLESS), tmp_path / "log", 2).end()
    assert ended.codes == [0, 0], ended.output
    assert_kept(out)


def test_a_metric_that_the_run_does_not_measure(shards: Path, tmp_path: Path):
    words = flags(shards, tmp_path / "run", STEPS, "--evaluate.best", "fid")
    code, _, told = train_in_fork(words, tmp_path / "log")
    assert code == 2
    given = f"the evaluations of this run give diversity, {METRIC}"
    assert told.startswith(f"error: --evaluate.best fid: {given}")
    off = flags(shards, tmp_path / "off", STEPS, "--evaluate.best", METRIC)
    code, _, told = train_in_fork([*off, "--evaluate.samples", "0"], tmp_path / "log")
    assert code == 2
    assert "--evaluate.samples 0 switches them off" in told
