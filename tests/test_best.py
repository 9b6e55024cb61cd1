"""Which checkpoint is the best, and that its record agrees with what is there."""

import json
from pathlib import Path

import pytest
import torch

from agehpc import best as bests
from agehpc import checkpoints
from agehpc.best import Best
from agehpc.config.metrics import direction
from agehpc.errors import RunError

PSNR = "reconstruction_psnr_db"


def save(run: Path, *steps: int) -> None:
    for step in steps:
        checkpoints.write(run, step, {"ema": {"w": torch.tensor([float(step)])}}, {"step": step})


def row(step: int, value: float, metric: str = PSNR) -> dict[str, object]:
    return {"kimg": step / 10, "step": step, "metric": metric, "value": value, "samples": 4}


def names(run: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in checkpoints.complete(run)]


@pytest.mark.parametrize(
    ("metric", "better", "worse"),
    [(PSNR, 2.0, 1.0), ("fid", 1.0, 2.0), ("frechet_lite0", 1.0, 2.0), ("recall", 0.2, 0.1)],
)
def test_better_is_what_the_metric_means(metric: str, better: float, worse: float):
    good, bad = Best(metric, better, 1, 0.1), Best(metric, worse, 2, 0.2)
    assert good.beats(bad)
    assert not bad.beats(good)
    assert not Best(metric, better, 3, 0.3).beats(good)  # the first of equals stays
    assert not Best(metric, float("nan"), 3, 0.3).beats(None)
    assert not Best(metric, float("inf"), 3, 0.3).beats(good)
    assert bad.beats(Best("mmd", 9.0, 1, 0.1))


def test_an_unknown_metric_names_the_known():
    with pytest.raises(ValueError, match=r"--evaluate.best sharpness .*psnr_db.*fid"):
        direction("sharpness")
    with pytest.raises(ValueError, match=r"--evaluate.best notfid"):
        direction("notfid")


def test_the_best_outlives_its_age(tmp_path: Path):
    save(tmp_path, 5, 10, 15, 20)
    checkpoints.prune(tmp_path, 1, bests.kept(Best(PSNR, 1.0, 10, 1.0)))
    assert names(tmp_path) == [10, 20]
    save(tmp_path, 25)
    checkpoints.prune(tmp_path, 2, bests.kept(Best(PSNR, 1.0, 25, 2.5)))
    assert names(tmp_path) == [20, 25]


def test_the_record_follows_the_evaluations(tmp_path: Path):
    save(tmp_path, 10, 20, 30)
    rows = [row(10, 3.0), row(15, 9.0), row(20, 5.0), row(20, 8.0, "mse"), row(30, 4.0)]
    # A kill between saving step 20 and recording it; step 15 was never saved.
    bests.write(tmp_path, Best(PSNR, 3.0, 10, 1.0))
    assert bests.refresh(tmp_path, PSNR, rows) == Best(PSNR, 5.0, 20, 2.0)
    assert bests.read(tmp_path) == Best(PSNR, 5.0, 20, 2.0)
    # The log was lost, or this start chooses nothing: what was the best stays it.
    assert bests.refresh(tmp_path, PSNR, []) == Best(PSNR, 5.0, 20, 2.0)
    assert bests.refresh(tmp_path, None, rows) == Best(PSNR, 5.0, 20, 2.0)
    # Another metric: its best where it has been measured, the old one until then.
    assert bests.refresh(tmp_path, "fid", rows) == Best(PSNR, 5.0, 20, 2.0)
    assert bests.refresh(tmp_path, "mse", rows) == Best("mse", 8.0, 20, 2.0)
    # Gone back by hand to step 10: later values are cut off the log, and their checkpoints gone.
    for path in checkpoints.complete(tmp_path)[1:]:
        checkpoints.remove(path)
    assert bests.refresh(tmp_path, PSNR, rows[:1]) == Best(PSNR, 3.0, 10, 1.0)
    checkpoints.remove(checkpoints.complete(tmp_path)[0])
    assert bests.refresh(tmp_path, PSNR, []) is None
    assert not bests.path_of(tmp_path).exists()


def test_names_of_checkpoints(tmp_path: Path):
    with pytest.raises(RunError, match=r"no complete checkpoint yet"):
        bests.find(tmp_path, "best")
    save(tmp_path, 10, 20)
    with pytest.raises(RunError, match=r"has no best checkpoint.*--evaluate.best"):
        bests.find(tmp_path, "best")
    bests.write(tmp_path, Best(PSNR, 3.0, 10, 1.0))
    assert bests.find(tmp_path, "best").name == "step-00000010"
    assert bests.find(tmp_path, "latest").name == "step-00000020"
    assert bests.find(tmp_path, "step-00000010").name == "step-00000010"
    with pytest.raises(RunError, match=r"no checkpoint 'step-00000030'; it has step-00000010, "):
        bests.find(tmp_path, "step-00000030")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"metric": "fid", "value": null}'])
def test_a_damaged_record_is_named(tmp_path: Path, text: str):
    save(tmp_path, 10)
    bests.path_of(tmp_path).write_text(text)
    with pytest.raises(RunError, match=r"best\.json cannot be read .*delete it"):
        bests.find(tmp_path, "best")


def test_the_record_is_plain_json(tmp_path: Path):
    save(tmp_path, 10)
    bests.write(tmp_path, Best(PSNR, 3.5, 10, 1.0))
    assert json.loads((tmp_path / "checkpoints" / "best.json").read_text()) == {
        "metric": PSNR,
        "value": 3.5,
        "step": 10,
        "kimg": 1.0,
    }
