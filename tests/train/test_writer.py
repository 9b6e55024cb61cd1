"""Checkpoints written beside training: the step goes on, nothing is lost, bits are the same."""

import errno
import json
import os
import shutil
import signal
import stat
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from agehpc import checkpoints
from agehpc.errors import RunError
from agehpc.soundness import verify
from agehpc.train import writer
from tests.latent.runs import pack_images
from tests.train.runs import newest, rows, state, tensors, train_in_fork, train_in_forks
from tests.train.small import flags

STEPS = 12  # a checkpoint every 4, a tick every 2


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_images(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def waiting(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that waited for each of its checkpoints."""
    out = tmp_path_factory.mktemp("waiting") / "run"
    words = flags(shards, out, STEPS, "--train.async-save", "false")
    code, told, errors = train_in_fork(words, out.with_name("log"))
    assert code == 0, errors
    assert "from a copy in memory" not in told
    return out


def assert_same(run: Path, other: Path) -> None:
    assert [p.name for p in checkpoints.complete(run)] == [
        p.name for p in checkpoints.complete(other)
    ]
    for one, two in zip(checkpoints.complete(run), checkpoints.complete(other), strict=True):
        verify(one)
        assert state(one) == state(two)
        wanted = tensors(two)
        found = tensors(one)
        assert found.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert torch.equal(found[name], tensor), name
    assert rows(run / "metrics.jsonl") == rows(other / "metrics.jsonl")


def read_rows(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def fill_once_training_went_on() -> None:
    """Hold every write back until a tick of a later step is on the disk."""
    fill, writing = checkpoints.fill, []

    def held_back(folder: Path, step: int, *more: Any) -> Path:
        writing.append(step)
        assert len(writing) == 1, "two at a time"
        deadline = time.monotonic() + 60
        while step < STEPS and not any(row["step"] > step for row in read_rows(folder.parent)):
            assert time.monotonic() < deadline, f"training waits for the checkpoint of step {step}"
            time.sleep(0.01)
        writing.clear()
        return fill(folder, step, *more)

    checkpoints.fill = held_back


def test_training_goes_on_meanwhile(shards: Path, waiting: Path, tmp_path: Path):
    """The tensors are those of the step that is saved, whatever training does to them."""
    out = tmp_path / "run"
    code, told, errors = train_in_fork(
        flags(shards, out, STEPS), tmp_path / "log", patch=fill_once_training_went_on
    )
    assert code == 0, errors
    assert_same(out, waiting)
    lines = told.splitlines()
    (saved,) = (
        n for n, line in enumerate(lines) if f"saved {out}/checkpoints/step-00000004" in line
    )
    assert "from a copy in memory" in lines[saved]
    assert any("step 6" in line for line in lines[:saved])


def fail_to_write_step_4() -> None:
    fill = checkpoints.fill

    def full(folder: Path, step: int, *more: Any) -> Path:
        if step == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        return fill(folder, step, *more)

    checkpoints.fill = full


def test_an_error_ends_every_rank_and_is_told_once(shards: Path, tmp_path: Path):
    out = tmp_path / "run"
    words = flags(shards, out, STEPS)
    ended = train_in_forks(words, tmp_path / "log", 2, patch=fail_to_write_step_4)
    assert [code for code, _, _ in ended] == [1, 1]
    told = "".join(errors for _, _, errors in ended)
    assert told == f"error: {out}/checkpoints: No space left on device\n"
    # At the tick after it, not at the end.
    assert read_rows(out)[-1]["step"] in (4, 6)
    assert not checkpoints.complete(out)


def fail_to_write_the_last() -> None:
    fill = checkpoints.fill

    def full(folder: Path, step: int, *more: Any) -> Path:
        if step == STEPS:
            time.sleep(0.2)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        return fill(folder, step, *more)

    checkpoints.fill = full


def test_the_end_waits_and_does_not_lose_an_error(shards: Path, tmp_path: Path):
    out = tmp_path / "run"
    words = flags(shards, out, STEPS)
    code, told, errors = train_in_fork(words, tmp_path / "log", patch=fail_to_write_the_last)
    assert code == 1
    assert errors == f"error: {out}/checkpoints: No space left on device\n"
    assert "done at" not in told
    verify(newest(out))
    assert state(newest(out))["step"] == 8


def be_killed_in_the_copy() -> None:
    copy, copied = shutil.copyfile, []

    def killed(source: Path, target: Path) -> None:
        if "step-00000008" in str(target):
            copied.append(target)
            if len(copied) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
        copy(source, target)

    shutil.copyfile = killed


def find_nothing_staged() -> None:
    fill = checkpoints.fill

    def looked(folder: Path, *more: Any) -> Path:
        assert list(folder.iterdir()) == []
        return fill(folder, *more)

    checkpoints.fill = looked


@pytest.mark.parametrize("beside", ["true", pytest.param("false", marks=pytest.mark.slow)])
def test_by_way_of_a_local_disk(shards: Path, waiting: Path, tmp_path: Path, beside: str):
    """Killed in the middle of the copy, the one before counts, and nothing is left in the end."""
    out, local = tmp_path / "run", tmp_path / "local"
    more = ["--train.staging", str(local), "--train.async-save", beside]
    words = flags(shards, out, STEPS, *more)
    code, _, _ = train_in_fork(words, tmp_path / "log", patch=be_killed_in_the_copy)
    assert code == -signal.SIGKILL
    assert state(newest(out))["step"] == 4
    verify(newest(out))
    (folder,) = local.iterdir()
    assert folder.name.startswith("agehpc-")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (left,) = folder.iterdir()
    assert left.name == ".step-00000008.partial"
    left.rename(folder / ".step-00000099.partial")  # a step that is not saved again
    code, told, errors = train_in_fork(words, tmp_path / "log", patch=find_nothing_staged)
    assert code == 0, errors
    assert "resumed from step-00000004" in told
    assert_same(out, waiting)
    assert list(local.iterdir()) == []
    assert not list((out / "checkpoints").glob(".*"))


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path):
    """Everybody may write to /tmp: who names the folder first could read and change weights."""
    folder = writer._staging_of(tmp_path / "run", tmp_path)
    assert folder != writer._staging_of(tmp_path / "other", tmp_path)
    writer._make(folder)
    writer._clear(folder)
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    for use in (writer._clear, writer._make):
        with pytest.raises(RunError, match=rf"--train.staging: {folder} belongs to another user"):
            use(folder)
    folder.unlink()
    if os.geteuid() != 0:
        return  # giving a folder away needs root
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    for use in (writer._clear, writer._make):
        with pytest.raises(RunError, match="belongs to another user"):
            use(folder)
    assert folder.exists()


def without_umask() -> None:
    os.umask(0)


def test_nothing_is_writable_for_everybody(shards: Path, tmp_path: Path):
    out, local = tmp_path / "run", tmp_path / "local"
    words = flags(shards, out, 4, "--train.staging", str(local), "--observe.tensorboard", "true")
    code, _, errors = train_in_fork(words, tmp_path / "log", patch=without_umask)
    assert code == 0, errors
    made = [out, *out.rglob("*"), local, *local.rglob("*")]
    assert {p.name for p in made} >= {
        "checkpoints",
        "metrics.jsonl",
        "tensorboard",
        "logs",
        ".lock",
    }
    open_to_all = [p for p in made if p.stat().st_mode & stat.S_IWOTH]
    assert open_to_all == []
