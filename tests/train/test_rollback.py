"""What the guard calls trouble, which checkpoints are good, and what a rollback leaves on disk."""

import math
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from agehpc import checkpoints
from agehpc.config.training import GuardConfig
from agehpc.errors import DivergedError
from agehpc.train import rollback
from agehpc.train.guard import GRADIENT, Trouble, collapsed, judge, watch
from agehpc.train.progress import Progress

WHERE = "adversarial at step 6 on rank 1 on n1"
OFF = GuardConfig(loss=None, gradient=None, diversity=None)
BACK = GuardConfig(action="rollback", rollbacks=2, lr_factor=0.5)
SPIKE = Trouble("adversarial", math.nan, None, None, "adversarial no longer finite at step 25")


def save(run: Path, *saved: Progress) -> None:
    for one in saved:
        checkpoints.write(run, one.step, {"ema": {"w": torch.zeros(1)}}, asdict(one))


def at(step: int, **more: float) -> Progress:
    return Progress(step, 4 * step, 8 * step, **more)  # type: ignore[arg-type]


def names(run: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in checkpoints.complete(run)]


def no_nan() -> str:
    raise AssertionError("asked, which is collective, though all is finite")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["adversarial", GRADIENT + "critics"])
def test_what_is_not_finite_is_always_trouble(name: str, value: float):
    trouble = judge({"a": 1.0, name: value, "z": math.nan}, OFF, 7, lambda: WHERE)
    assert trouble is not None
    assert trouble.told == f"{name}, z no longer finite at step 7 (first {WHERE})"
    assert trouble.first == WHERE
    assert (trouble.flag, trouble.bound) == (None, None)


def test_bounds_hold_for_size_and_can_be_off():
    figures = {"logit_real": -30.0, GRADIENT + "critics": 50.0}
    assert judge(figures, GuardConfig(loss=30, gradient=50), 7, no_nan) is None
    assert judge({name: 1e30 for name in figures}, OFF, 7, no_nan) is None
    trouble = judge(figures, GuardConfig(loss=29, gradient=None), 7, no_nan)
    assert trouble is not None
    assert trouble.told == "logit_real is -30 at step 7, beyond --train.guard.loss 29"
    trouble = judge(figures, GuardConfig(loss=None, gradient=49), 7, no_nan)
    assert trouble is not None
    assert (trouble.what, trouble.flag) == (GRADIENT + "critics", "--train.guard.gradient")


def test_only_what_was_diverse_collapses_and_only_in_a_row():
    guard, progress, found = GuardConfig(diversity=0.1, patience=2), Progress(step=9), []
    for diversity in (0.0, 0.05, 0.2, 0.05, 0.1, 0.09, math.nan, 0.3):
        progress = watch(progress, diversity, guard)
        found.append(collapsed(progress, diversity, guard) is not None)
    assert found == [False] * 6 + [True, False]
    assert watch(progress, None, guard) == watch(progress, 0.0, OFF) == progress
    bad = watch(watch(progress, 0.05, guard), 0.04, guard)
    assert bad.alike == 2
    trouble = collapsed(bad, 0.04, guard)
    assert trouble is not None
    assert "0.04 at step 9, below --train.guard.diversity 0.1 in 2 looks in a row" in trouble.told


def test_good_is_quiet_at_it_and_after_it(tmp_path: Path):
    assert rollback.last_good(tmp_path, 99) is None
    save(tmp_path, at(10), at(20, alike=1), at(30))
    for quiet, good in ((10, None), (11, 10), (30, 10), (31, 30)):
        found = rollback.last_good(tmp_path, quiet)
        assert (found and found.name) == (good and checkpoints.name_of(good)), quiet


def test_rollbacks_are_counted_and_recorded(tmp_path: Path):
    save(tmp_path, at(10), at(20), at(24))
    good, after = rollback.answer(tmp_path, SPIKE, at(25), BACK, 24)
    assert good.name == "step-00000020"
    # The weights' counters of step 20; the samples that come next; half the rate.
    assert after == Progress(20, 80, 8 * 25, rollbacks=1, lr_scale=0.5)
    assert names(tmp_path) == [10, 20]
    # A start from that checkpoint knows, one from an earlier one has it still before it.
    assert rollback.resume(tmp_path, at(20)) == after
    now = Progress(26, 104, 8 * 31, rollbacks=1, lr_scale=0.5)
    _, after = rollback.answer(tmp_path, SPIKE, now, BACK, 21)
    assert after == Progress(20, 80, 8 * 31, rollbacks=2, lr_scale=0.25)
    assert rollback.resume(tmp_path, at(20)) == after
    with pytest.raises(DivergedError, match=r"2 rollbacks were taken .*step-00000020.*lower"):
        rollback.answer(tmp_path, SPIKE, after, BACK, 21)
    told = [(row["event"], row["step"]) for row in rollback.events(tmp_path)]
    assert told == [("rollback", 25), ("rollback", 26), ("stop", 20)]
    assert math.isnan(rollback.events(tmp_path)[0]["value"])


def test_a_kill_between_record_and_removal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save(tmp_path, at(20), at(24))
    with monkeypatch.context() as patch:
        patch.setattr(rollback, "discard", lambda run: None)
        rollback.answer(tmp_path, SPIKE, at(25), BACK, 24)
    assert names(tmp_path) == [20, 24]
    rollback.discard(tmp_path)
    assert names(tmp_path) == [20]
    save(tmp_path, at(24, rollbacks=1, lr_scale=0.5))
    rollback.discard(tmp_path)
    assert names(tmp_path) == [20, 24]  # what came after it stays


def test_set_back_by_hand_a_rollback_never_was(tmp_path: Path):
    save(tmp_path, at(10), at(20))
    rollback.answer(tmp_path, SPIKE, at(25), BACK, 24)
    checkpoints.remove(checkpoints.complete(tmp_path)[-1])
    assert rollback.resume(tmp_path, at(10)) == at(10)
    assert rollback.events(tmp_path) == []
    save(tmp_path, at(24))
    rollback.discard(tmp_path)
    assert names(tmp_path) == [10, 24]


def test_without_a_good_checkpoint_it_stops(tmp_path: Path):
    save(tmp_path, at(10))
    for guard, flag in ((BACK, "no checkpoint is known"), (OFF, "--train.guard.action rollback")):
        with pytest.raises(DivergedError, match=flag):
            rollback.answer(tmp_path, SPIKE, at(12), guard, 10)
    assert names(tmp_path) == [10]
