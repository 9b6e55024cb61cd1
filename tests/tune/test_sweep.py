"""Sweeps, on Ray, of trials that a stand-in for `agehpc train` runs."""

import contextlib
import csv
import json
import random
import signal
import subprocess
from pathlib import Path

import pytest

from agehpc.errors import EXIT_LOST, EXIT_RESTART
from tests.tune.stand_in import CRASH, CRASH_ONCE, DIVERGE, STEPS
from tests.tune.sweeps import Sweep, below, kill, lines

FATES = f"""
players.autoencoder.optim.lr: {{log_uniform: [1e-4, 1e-2], points: 1}}
run.seed: {{choice: [1, {CRASH_ONCE}, {CRASH}, {DIVERGE}, 5]}}
"""


def check_whole(sweep: Sweep, trials: int) -> None:
    """Every trial ended once: none is lost, none was trained to its end twice."""
    assert [trial["number"] for trial in sweep.trials()] == list(range(trials))
    assert {trial["state"] for trial in sweep.trials()} == {"done"}, sweep.log
    assert len(sweep.runs()) == trials
    for run in sweep.runs():
        assert lines(run / "trained").count(str(STEPS)) == 1, (run, lines(run / "starts"))


def test_one_trial_fails_and_the_others_go_on(tmp_path: Path):
    sweep = Sweep(tmp_path, "--search", "grid", "--trials", "40", space=FATES)
    assert sweep.run() == 0, sweep.log
    by_seed = {trial["values"]["run.seed"]: trial for trial in sweep.trials()}
    states = {seed: trial["state"] for seed, trial in by_seed.items()}
    assert states == {1: "done", CRASH_ONCE: "done", CRASH: "failed", DIVERGE: "failed", 5: "done"}
    starts = {seed: sweep.starts(trial) for seed, trial in by_seed.items()}
    # Once more, from where it was; what has diverged would again.
    assert starts == {1: [0], CRASH_ONCE: [0, 3], CRASH: [0, 0], DIVERGE: [0], 5: [0]}
    assert by_seed[CRASH]["error"] == "crashed at 1"
    with (sweep.out / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == [trial["state"] for trial in sweep.trials()]
    assert "5 of 5 trials have ended" in sweep.log
    # What a trial ran in shows nothing of Ray.
    environ = json.loads((sweep.runs()[0] / "environ.json").read_text())
    assert not [name for name in environ if name.startswith(("RAY_", "TUNE_"))]


def test_a_killed_driver_loses_nothing(tmp_path: Path):
    sweep = Sweep(tmp_path, "--trials", "3", "--max-concurrent", "2", pause_s=0.3)
    driver = sweep.start()
    sweep.wait("two trials under way", lambda: sweep.trained() >= 5)
    kill(driver.pid)
    driver.wait()
    sweep.wait("end of the orphans", lambda: not sweep.ranks())
    before = sweep.trials()
    assert len(before) == 2
    left = Path((sweep.out / "ray" / "folder").read_text())
    assert left.is_dir()
    assert sweep.run(resume=True) == 0, sweep.log
    check_whole(sweep, 3)
    assert not left.exists()
    assert not (sweep.out / "ray" / "folder").exists()
    for old, new in zip(before, sweep.trials(), strict=False):
        assert (old["id"], old["values"]) == (new["id"], new["values"])
        first, second = sweep.starts(new)
        assert first == 0 < second


@pytest.mark.slow
def test_a_stopped_driver_and_a_killed_trial_lose_nothing(tmp_path: Path):
    sweep = Sweep(tmp_path, "--trials", "6", "--max-concurrent", "2", pause_s=0.3)
    driver = sweep.start()
    sweep.wait("another trial", lambda: len(sweep.runs()) >= 4)
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(timeout=200) == EXIT_RESTART, sweep.log
    assert not sweep.ranks()
    assert "asked to stop: the trials save" in sweep.log

    # The same command goes on too, and a trial that is killed is tried again.
    driver = sweep.start()
    sweep.wait("the last trial", lambda: len(sweep.runs()) == 6 and bool(sweep.ranks()))
    kill(sweep.ranks()[0])
    assert driver.wait(timeout=200) == 0, sweep.log
    check_whole(sweep, 6)
    assert sum(len(sweep.starts(trial)) for trial in sweep.trials()) >= 8
    assert (sweep.out / "report.html").exists()
    assert sweep.run() == 0
    check_whole(sweep, 6)


@pytest.mark.slow
@pytest.mark.parametrize("daemon", ["raylet", "gcs_server"])
def test_ray_is_killed(tmp_path: Path, daemon: str):
    sweep = Sweep(tmp_path, "--trials", "4", "--max-concurrent", "2", pause_s=0.3)
    driver = sweep.start()
    sweep.wait("two trials under way", lambda: sweep.trained() >= 5)
    (pid,) = below(driver.pid, daemon)
    kill(pid)
    assert driver.wait(timeout=200) == EXIT_LOST, sweep.log
    assert "nothing is lost: agehpc tune --resume" in sweep.log
    assert not sweep.ranks()
    assert sweep.run(resume=True) == 0, sweep.log
    check_whole(sweep, 4)


@pytest.mark.slow
def test_kills_at_random(tmp_path: Path):
    sweep = Sweep(tmp_path, "--trials", "12", "--max-concurrent", "2", pause_s=0.3)
    draw = random.Random(0)
    for _ in range(12):
        driver = sweep.start()
        with contextlib.suppress(subprocess.TimeoutExpired):
            driver.wait(timeout=draw.uniform(4, 20))
        victims = {
            "driver": [driver.pid],
            "raylet": below(driver.pid, "raylet"),
            "trial": sweep.ranks(),
        }
        victim = draw.choice(sorted(victims))
        for pid in victims[victim][:1]:
            kill(pid)
        if victim == "trial":
            driver.send_signal(signal.SIGTERM)
        driver.wait(timeout=200)
    assert sweep.run() == 0, sweep.log
    check_whole(sweep, 12)
