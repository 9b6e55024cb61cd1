"""Resuming is exact: a run that was killed ends as one that nobody disturbed, bit by bit.

What is killed or gets a signal is `python -m agehpc train`; the rest runs in forks (runs.py).
"""

import fcntl
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import agehpc
from agehpc import checkpoints
from agehpc.config.run_files import read_run_config
from agehpc.data.loader import train_batches
from agehpc.soundness import verify
from agehpc.train.run_directory import LOCK
from agehpc.trained import Model
from tests.train.runs import (
    BATCH,
    KIMG,
    KINKED,
    SAVE_EVERY,
    SMOOTH,
    STEPS,
    Ended,
    Training,
    flags,
    manifest,
    newest,
    rows,
    stages,
    state,
    tensors,
    train_in_fork,
)

ONE = [*stages(0, 0), *KINKED]
TWO = [*stages(2, 2), *SMOOTH]
HALF = STEPS // 2 // SAVE_EVERY * SAVE_EVERY


@pytest.fixture(scope="module")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: one rank, stage 0."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    ended = Training(flags(shards, out, *ONE), out.with_name("log")).end()
    assert ended.codes == [0], ended.output
    return out


@pytest.fixture(scope="module")
def undisturbed_two(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: two ranks, stage 2."""
    out = tmp_path_factory.mktemp("undisturbed-two") / "run"
    ended = Training(flags(shards, out, *TWO), out.with_name("log"), 2).end()
    assert ended.codes == [0, 0], ended.output
    return out


@pytest.fixture(scope="module")
def killed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one rank that was killed at a random moment."""
    out = tmp_path_factory.mktemp("killed") / "run"
    training = Training(flags(shards, out, *ONE), out.with_name("log"), module="agehpc")
    kill_at_random(training, out)
    return out


def kill_at_random(training: Training, out: Path) -> None:
    saved = SAVE_EVERY * random.randint(1, STEPS // SAVE_EVERY - 3)
    delay = random.random() / 2
    training.wait_for(manifest(out, saved))
    time.sleep(delay)
    training.signal(signal.SIGKILL)
    ended = training.end()
    told = f"killed {delay} s after step {saved}:\n{ended.output}"
    assert set(ended.codes) == {-signal.SIGKILL}, told
    assert not manifest(out, STEPS).exists(), told


@pytest.fixture
def half(undisturbed: Path, tmp_path: Path) -> Path:
    """The undisturbed run as it was half-way."""
    return halved(undisturbed, tmp_path / "half")


def halved(run: Path, copy: Path, last: int = HALF) -> Path:
    shutil.copytree(run, copy)
    for checkpoint in checkpoints.complete(copy):
        if int(checkpoint.name.removeprefix("step-")) > last:
            shutil.rmtree(checkpoint)
    return copy


Here = Callable[..., tuple[int, str, str]]


@pytest.fixture
def train(shards: Path, tmp_path: Path) -> Here:
    """Train on one rank: exit code, output, errors. As the undisturbed run unless told."""

    def here(out: Path, *more: str) -> tuple[int, str, str]:
        zero = () if "--players.autoencoder.zero.stage" in more else ONE
        return train_in_fork(flags(shards, out, *zero, *more), tmp_path / "here.log")

    return here


def assert_same_weights(one: Path, other: Path) -> None:
    ours, theirs = tensors(newest(one)), tensors(newest(other))
    assert newest(one).name == newest(other).name
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(theirs[name], tensor), name
    assert state(newest(one)) == state(newest(other))


def assert_same_run(one: Path, other: Path) -> None:
    assert_same_weights(one, other)
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert rows(one / name) == rows(other / name)
    pictures = [sorted(p.name for p in (run / "samples").iterdir()) for run in (one, other)]
    assert pictures[0] == pictures[1]
    for name in pictures[0]:
        assert (one / "samples" / name).read_bytes() == (other / "samples" / name).read_bytes()


def test_the_reference_is_a_whole_run(undisturbed: Path):
    assert [p.name for p in checkpoints.complete(undisturbed)] == [
        f"step-{step:08d}" for step in range(SAVE_EVERY, STEPS + 1, SAVE_EVERY)
    ]
    files = {p.name for p in newest(undisturbed).glob("*.safetensors")}
    players = {f"{p}{s}.safetensors" for p in ("autoencoder", "critics") for s in ("", ".optim")}
    assert files == players | {"ema.safetensors", "critics.ema.safetensors"}
    found = state(newest(undisturbed))
    assert (found["step"], found["samples_seen"]) == (STEPS, STEPS * BATCH)
    metrics = rows(undisturbed / "metrics.jsonl")
    assert metrics[-1]["step"] == STEPS
    assert {"reconstruction", "adversarial", "discriminator", "moment"} <= metrics[-1].keys()
    assert rows(undisturbed / "evaluations.jsonl")[-1]["samples"] == 4
    # What is compared changes all the time: equality says something.
    early, late = checkpoints.complete(undisturbed)[-2:]
    for name, tensor in tensors(late).items():
        if "running_var" in name or "exp_avg" in name or name.endswith("conv.weight"):
            assert not torch.equal(tensor, tensors(early)[name]), name


def test_the_trained_model_is_the_averaged_one(undisturbed: Path):
    model = agehpc.load(undisturbed)
    averaged = load_file(newest(undisturbed) / "ema.safetensors")
    live = load_file(newest(undisturbed) / "autoencoder.safetensors")
    live = {f"autoencoder.{name}": tensor for name, tensor in live.items()}
    assert model.state().keys() == averaged.keys() == live.keys()
    for name, tensor in averaged.items():
        assert torch.equal(model.state()[name], tensor)
        if name.endswith("conv.weight"):
            assert not torch.equal(live[name], tensor)
    x_BCTHW = model.sample(2, seed=1)
    assert x_BCTHW.shape == (2, 3, 8, 28, 28)
    again = Model(read_run_config(undisturbed))
    again.load(averaged)
    assert torch.equal(again.sample(2, seed=1), x_BCTHW)
    assert torch.equal(again.reconstruct(x_BCTHW), model.decode(model.encode(x_BCTHW)))


def test_killed_and_resumed_on_one_rank(shards: Path, undisturbed: Path, killed: Path):
    out = killed.with_name("resumed")
    shutil.copytree(killed, out)
    ended = Training(flags(shards, out, *ONE), out.with_name("again")).end()
    assert ended.codes == [0], ended.output
    assert "resumed from step-" in ended.output
    assert_same_run(undisturbed, out)


def killed_and_resumed(shards: Path, reference: Path, out: Path, zero: list[str]) -> None:
    training = Training(flags(shards, out, *zero), out.with_name("first"), 2, module="agehpc")
    kill_at_random(training, out)
    ended = Training(flags(shards, out, *zero), out.with_name("second"), 2).end()
    assert ended.codes == [0, 0], ended.output
    assert_same_run(reference, out)


def test_killed_and_resumed_on_two_ranks(shards: Path, undisturbed_two: Path, tmp_path: Path):
    killed_and_resumed(shards, undisturbed_two, tmp_path / "run", TWO)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [(0, 0), (1, 1), (3, 2)])
def test_killed_and_resumed_at_every_stage(shards: Path, tmp_path: Path, zero: tuple[int, int]):
    reference = tmp_path / "reference"
    ended = Training(flags(shards, reference, *stages(*zero)), tmp_path / "log", 2).end()
    assert ended.codes == [0, 0], ended.output
    killed_and_resumed(shards, reference, tmp_path / "run", stages(*zero))


def test_signals_save_and_leave(shards: Path, undisturbed: Path, tmp_path: Path, train: Here):
    """SIGTERM, Ctrl-C, a second start meanwhile, and the end equals an undisturbed run's."""
    out = tmp_path / "run"

    def stopped_by(number: signal.Signals, step: int) -> Ended:
        training = Training(flags(shards, out, *ONE), tmp_path / number.name, module="agehpc")
        training.wait_for(manifest(out, step))
        training.signal(number)
        return training.end()

    ended = stopped_by(signal.SIGTERM, SAVE_EVERY)
    assert ended.codes == [85], ended.output
    saved = state(newest(out))["step"]
    assert SAVE_EVERY < saved < STEPS
    ended = stopped_by(signal.SIGINT, (saved // SAVE_EVERY + 1) * SAVE_EVERY)
    assert ended.codes == [130], ended.output
    assert saved < state(newest(out))["step"] < STEPS
    assert train(out, *stages(2, 1), *KINKED)[0] == 0
    assert_same_weights(undisturbed, out)


def test_a_second_start_is_refused(half: Path, train: Here):
    with (half / LOCK).open("a+") as lock:  # as a training does that is alive
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write("process 1234 on elsewhere\n")
        lock.flush()
        code, _, told = train(half)
    assert code == 1
    assert f"error: {half} is being trained in by process 1234 on elsewhere; " in told


def test_a_time_limit_ends_the_run_well(half: Path, train: Here):
    assert train(half, "--train.max-minutes", "0.0001")[0] == 0
    assert state(newest(half))["step"] == HALF + 1
    assert (half / "samples" / f"step-{HALF + 1:08d}-grid.png").is_file()


def test_another_world_size_and_stage_go_on(undisturbed_two: Path, tmp_path: Path, train: Here):
    """Two ranks at stage 2, then one at stage 3: rounding differs."""
    before = STEPS - SAVE_EVERY
    out = halved(undisturbed_two, tmp_path / "part", before)
    assert train(out, *stages(3, 0), *SMOOTH)[0] == 0
    assert state(newest(out)) == state(newest(undisturbed_two))
    start = tensors(manifest(undisturbed_two, before).parent)
    wanted, found = tensors(newest(undisturbed_two)), tensors(newest(out))
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        moved = (tensor - start[name]).double().norm()
        off = (found[name] - tensor).double().norm()
        assert off <= 1e-3 * moved, name


def test_a_finished_run_has_nothing_to_do(undisturbed: Path, tmp_path: Path, train: Here):
    out = shutil.copytree(undisturbed, tmp_path / "run")
    code, told, _ = train(out)
    assert code == 0
    assert "done at" in told
    assert_same_run(undisturbed, out)


def test_a_damaged_checkpoint_is_passed_over(half: Path, undisturbed: Path, train: Here):
    """The one before it is gone on from; what is damaged or incomplete counts no more."""
    damaged = newest(half)
    file = damaged / "critics.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    (checkpoints.complete(half)[-2] / "manifest.json").unlink()
    before = checkpoints.complete(half)[0]
    (half / "samples" / ".step-00000020-grid.1.partial.mp4").touch()
    code, told, errors = train(half)
    assert code == 0, errors
    aside = damaged.with_name(f"{damaged.name}.damaged")
    assert f"warning: {file} differs from its checksum" in told
    assert f"passed over for {before.name}, moved to {aside.name}\n" in told
    assert f"resumed from {before.name}" in told
    assert (aside / file.name).read_bytes() == content
    assert_same_run(undisturbed, half)


def test_only_damaged_checkpoints_are_no_new_run(half: Path, train: Here):
    for path in checkpoints.complete(half):
        (path / "state.json").write_text("")
    code, _, told = train(half)
    assert code == 1
    assert told.startswith(f"error: {newest(half)}/state.json has 0 bytes and should have ")
    assert f"none of the 3 checkpoints of {half} is sound" in told
    assert len(checkpoints.complete(half)) == 3


@pytest.mark.parametrize(
    ("more", "key"),
    [
        (["--players.critics.optim.lr", "0.01"], "players.critics.optim.lr"),
        (["--data.frames", "16"], "data.frames"),
        (["--run.seed", "1"], "run.seed"),
    ],
)
def test_another_run_is_refused(half: Path, train: Here, more: list[str], key: str):
    before = sorted((p, p.stat().st_mtime_ns) for p in half.rglob("*") if p.is_file())
    code, _, told = train(half, *more)
    assert code == 1
    assert told.startswith(f"error: {half} holds another run: ")
    assert f"{key} " in told
    assert sorted((p, p.stat().st_mtime_ns) for p in half.rglob("*") if p.is_file()) == before


def test_a_full_disk_keeps_the_older_checkpoint(
    half: Path, undisturbed: Path, tmp_path: Path, train: Here
):
    disk = tmp_path / "disk"
    disk.mkdir()
    size = sum(p.stat().st_size + 4096 for p in half.rglob("*"))
    command = ["mount", "-t", "tmpfs", "-o", f"size={size + 100_000}", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        out = shutil.copytree(half, disk / "run")
        before = newest(out)
        code, _, told = train(out)
        assert code == 1
        assert told.startswith("error: ")
        assert "No space left on device" in told
        assert told.count("\n") == 1
        assert newest(out) == before
        verify(before)
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert train(out)[0] == 0
        assert_same_run(undisturbed, out)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_the_order_goes_on_where_it_stopped(undisturbed: Path):
    config = read_run_config(undisturbed)
    checkpoint = checkpoints.complete(undisturbed)[1]
    cursor = state(checkpoint)["samples_seen"]

    def positions(start: int, world_size: int, rank: int, count: int) -> list[list[int]]:
        micro = BATCH // world_size
        stream = train_batches(
            config.data,
            config.run.seed,
            start=start,
            global_batch=BATCH,
            micro_batch=micro,
            accumulation=1,
            rank=rank,
            world_size=world_size,
        )
        return [next(stream).positions.tolist() for _ in range(count)]

    whole = positions(0, 1, 0, STEPS // 2)
    assert whole == [list(range(i * BATCH, (i + 1) * BATCH)) for i in range(STEPS // 2)]
    done = cursor // BATCH
    assert positions(cursor, 1, 0, 3) == whole[done : done + 3]
    shares = [positions(cursor, 2, rank, 3) for rank in (0, 1)]
    assert [a + b for a, b in zip(*shares, strict=True)] == whole[done : done + 3]
    assert len(rows(undisturbed / "metrics.jsonl")) > KIMG / 0.012 - 1
