"""Ranks that sleep, hang or bring NaN: each is named, and the job ends where it has to."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.latent.runs import pack_images
from tests.train.runs import Ended, Training, rows, train_in_fork
from tests.train.small import flags, kimg
from tests.train.unwell import break_it

HOST = os.uname().nodename


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_images(tmp_path_factory.mktemp("pictures"))


def train(shards: Path, tmp_path: Path, steps: int, *more: str, **env: str) -> tuple[Ended, Path]:
    run = tmp_path / "run"
    words = flags(shards, run, steps, *more)
    training = Training(words, tmp_path / "log", 2, env=env, patch=break_it)
    return training.end(), run


def said(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "health.jsonl").read_text().splitlines()]


def heartbeat(run: Path) -> dict[str, Any]:
    return json.loads((run / "heartbeat.json").read_text())


def test_a_rank_that_sleeps_is_told_of_as_slow(shards: Path, tmp_path: Path):
    ended, run = train(shards, tmp_path, 10, "--train.save-every-kimg", "9", SLOW="0.5")
    assert ended.codes == [0, 0], ended.output
    assert ended.output.count(f"warning: rank 1 on {HOST} is slow: its own work takes 1.") == 1
    (row,) = said(run)
    assert (row["event"], row["rank"], row["host"], row["step"]) == ("straggler", 1, HOST, 6)
    assert row["work_s"] > 1 > row["work_median_s"]
    told = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["slowest_rank"] for row in told] == [1] * 5
    beat = heartbeat(run)
    assert (beat["state"], beat["step"], beat["kimg"]) == ("done", 10, float(kimg(10)))
    assert list((run / "logs").glob("*.stacks")) == []


@pytest.mark.parametrize(
    "how", ["sleep", *(pytest.param(how, marks=pytest.mark.slow) for how in ("locked", "stopped"))]
)
def test_a_rank_that_hangs_is_named(shards: Path, tmp_path: Path, how: str):
    limit = ["--cluster.hang-minutes", "0.15"]
    given: dict[str, str] = {"HANG_AT": "3", "HANG_IN": how}
    ended, run = train_until(shards, tmp_path, limit, given)
    assert ended.codes[0] == 75, ended.output
    named = f"rank 1 on {HOST} (step 3, train)" if how == "sleep" else "rank 1 (it does not answer)"
    assert f"{named} hangs; the other 1 wait for it; stacks of all ranks: {run}" in ended.output
    (row,) = said(run)
    assert (row["event"], [r["rank"] for r in row["ranks"]]) == ("hang", [1])
    waiting = (run / "logs" / "rank0.stacks").read_text()
    assert "at step 3, train, waits in allreduce" in waiting
    assert "in run_turns\n" in waiting
    if how != "stopped":
        assert "in hang\n" in (run / "logs" / "rank1.stacks").read_text()
    if how == "sleep":
        assert ended.codes[1] == 75


def train_until(
    shards: Path, tmp_path: Path, more: list[str], env: dict[str, str]
) -> tuple[Ended, Path]:
    """Train until rank 0 ends: rank 1 may stay for good, and is killed."""
    run = tmp_path / "run"
    words = flags(shards, run, 10, *more)
    training = Training(words, tmp_path / "log", 2, env=env, patch=break_it)
    try:
        training.processes[0].wait(480)
        if env["HANG_IN"] == "sleep":
            training.processes[1].wait(480)
    finally:
        training.signal(signal.SIGKILL)
    return training.end(), run


@pytest.mark.slow
def test_a_long_look_is_no_hang(shards: Path, tmp_path: Path):
    limit = ["--cluster.hang-minutes", "0.2", "--evaluate.every-kimg", kimg(2)]
    ended, _ = train(shards, tmp_path, 2, *limit, LONG="24")
    assert ended.codes == [0, 0], ended.output


def test_the_heart_beats_where_no_hang_is_looked_for(shards: Path, tmp_path: Path):
    """Else a run without a watchdog would count as killed after a minute."""
    run = tmp_path / "run"
    words = flags(shards, run, 10, "--cluster.hang-minutes", "0")
    env = {"HANG_AT": "3", "HANG_IN": "sleep"}
    training = Training(words, tmp_path / "log", env=env, patch=break_it)
    try:
        deadline = time.monotonic() + 240
        times = set[float]()
        while len(times) < 2:
            assert time.monotonic() < deadline, training.output()
            time.sleep(0.2)
            if (run / "heartbeat.json").exists() and (beat := heartbeat(run))["step"] == 3:
                times.add(beat["time"])
        assert beat["state"] == "running"
    finally:
        training.signal(signal.SIGKILL)
        training.end()


def test_a_start_that_has_nothing_to_do_tells_the_whole(shards: Path, tmp_path: Path):
    words = flags(shards, tmp_path / "run", 2)
    for log in ("first", "second"):
        assert train_in_fork(words, tmp_path / log)[0] == 0
        beat = heartbeat(tmp_path / "run")
        assert (beat["state"], beat["step"], beat["kimg"]) == ("done", 2, float(kimg(2)))


def test_a_figure_that_is_not_finite_is_laid_to_its_rank(shards: Path, tmp_path: Path):
    ended, run = train(shards, tmp_path, 8, NAN_AT="3")
    assert ended.codes == [3, 3], ended.output
    told = f"no longer finite at step 4 (first reconstruction at step 3 on rank 1 on {HOST})"
    assert told in ended.output
    (row,) = rows(run / "guard.jsonl")
    assert row["first"] == f"reconstruction at step 3 on rank 1 on {HOST}"
    assert heartbeat(run)["state"] == "diverged"
