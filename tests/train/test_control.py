"""RUN/control/{save,stop}, and a stop in a look at the samples: nothing is lost or done twice."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from agehpc.train.loop import Trainer
from agehpc.train.snapshot import Snapshot
from tests.train.runs import (
    BATCH,
    STEPS,
    flags,
    manifest,
    newest,
    rows,
    stages,
    state,
    train_in_fork,
)
from tests.train.test_resume import assert_same_run, assert_same_weights

LOOK = 15  # the step of the first evaluation: 0.06 kimg of batches of 4

Here = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def train(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Here:
    log = tmp_path_factory.mktemp("log") / "log"

    def here(out: Path, patch: Callable[[], None] | None = None) -> tuple[int, str, str]:
        return train_in_fork(flags(shards, out, *stages(0, 0)), log, patch=patch)

    return here


@pytest.fixture(scope="module")
def undisturbed(train: Here, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    assert train(out)[0] == 0
    return out


def asked_for(run: Path, *names: str) -> Path:
    (run / "control").mkdir(parents=True, exist_ok=True)
    for name in names:
        (run / "control" / name).touch()
    return run


def test_save_and_stop(undisturbed: Path, train: Here, tmp_path: Path):
    run = asked_for(tmp_path / "run", "stop", "save")
    code, told, _ = train(run)
    assert code == 0
    assert "stopped; run the same command again to go on" in told
    assert state(newest(run))["step"] == 1
    assert list((run / "control").iterdir()) == []
    assert not list((run / "samples").iterdir())  # a person who says stop does not wait for a look

    code, told, _ = train(asked_for(run, "save"))
    assert (code, list((run / "control").iterdir())) == (0, [])
    assert "resumed from step-00000001" in told
    assert manifest(run, 2).exists()
    assert state(newest(run))["samples_seen"] == STEPS * BATCH
    assert_same_weights(undisturbed, run)
    assert rows(run / "evaluations.jsonl") == rows(undisturbed / "evaluations.jsonl")


def signal_in_a_look() -> None:
    diversity = Snapshot.diversity

    def then(self: Snapshot) -> tuple[float | None, int]:
        os.kill(os.getpid(), signal.SIGUSR1)
        return diversity(self)

    Snapshot.diversity = then  # type: ignore[method-assign]


def end_at_the_first_step() -> None:
    def end(*_: object) -> None:
        os._exit(7)

    Trainer._step = end  # type: ignore[method-assign]


def test_a_look_that_was_cut_short_is_made_up_for(undisturbed: Path, train: Here, tmp_path: Path):
    run = tmp_path / "run"
    before = {"owed": True, "diverse": False}  # no look has been finished yet
    for _ in range(2):  # the second start is stopped before it has trained
        assert train(run, signal_in_a_look)[0] == 85
        assert state(newest(run)) == state(manifest(undisturbed, LOOK).parent) | before
        assert rows(run / "evaluations.jsonl") == []
    assert train(run, end_at_the_first_step)[0] == 7
    figures = rows(run / "evaluations.jsonl")
    assert {row["step"] for row in figures} == {LOOK}
    assert train(run)[0] == 0
    assert_same_run(undisturbed, run)


def test_a_look_after_the_last_step(undisturbed: Path, train: Here, tmp_path: Path):
    run = tmp_path / "run"

    assert train(run, signal_in_the_last_look)[0] == 85
    assert state(newest(run)) == state(newest(undisturbed)) | {"owed": True}
    assert train(run)[0] == 0
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert rows(run / name) == rows(undisturbed / name)
    last = sorted((run / "samples").iterdir())[-1]
    assert last.read_bytes() == (undisturbed / "samples" / last.name).read_bytes()


def signal_in_the_last_look() -> None:
    render = Snapshot.render

    def then(self: Snapshot, stem: Path) -> list[Path]:
        if f"{STEPS}" in stem.name:
            os.kill(os.getpid(), signal.SIGUSR1)
        return render(self, stem)

    Snapshot.render = then  # type: ignore[method-assign]
