"""Trainings that go wrong: they stop with exit code 3, or go back and go on, on all ranks."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from agehpc import checkpoints
from agehpc.config.plan import make_plan
from agehpc.config.run_files import read_run_config
from agehpc.data.quarantine import Quarantine
from agehpc.train import rollback
from agehpc.train.snapshot import Snapshot
from tests.latent.runs import pack_images
from tests.train.runs import Training, newest, rows, stages, state, tensors, train_in_fork
from tests.train.small import BATCH, flags, kimg
from tests.train.spiked import spike

STEPS, SPIKE_AT = 12, 7  # told at the tick of step 8, after the checkpoint of step 4
BACK = [
    *("--train.guard.action", "rollback", "--train.guard.lr-factor", "0.25"),
    *("--train.keep-last", "1", "--players.critics.ema.half-life-kimg", "0.01"),
    *("--evaluate.every-kimg", kimg(4)),
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_images(tmp_path_factory.mktemp("pictures"))


def spiked(words: list[str], log: Path, factor: str, **env: str) -> tuple[list[int], str]:
    env |= {"SPIKE_AT": str(SPIKE_AT), "SPIKE": factor}
    ended = Training(words, log, 2, env=env, patch=spike).end()
    return ended.codes, ended.output


def guarded(run: Path) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "time"} for row in rollback.events(run)]


def assert_same(one: Path, other: Path) -> None:
    assert newest(one).name == newest(other).name
    assert state(newest(one)) == state(newest(other))
    wanted, found = tensors(newest(one)), tensors(newest(other))
    assert wanted.keys() == found.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert rows(one / name) == rows(other / name)
    assert guarded(one) == guarded(other)


def goes_back_and_on(shards: Path, tmp_path: Path, zero: list[str]) -> None:
    """A run that went back in its processes, and one that was killed as it did."""
    run, killed = tmp_path / "run", tmp_path / "killed"
    rates = tmp_path / "rates"
    words = flags(shards, run, STEPS, *BACK, *zero)
    codes, told = spiked(words, tmp_path / "log", "1e9", RATES=str(rates))
    assert codes == [0, 0], told
    assert f"back to {run}/checkpoints/step-00000004, learning rates x 0.25 (roll" in told
    (event,) = guarded(run)
    assert event["figure"] == "gradient_norm_critics"
    assert (event["step"], event["to"], event["samples_read"]) == (8, 4, 8 * BATCH)
    assert event["value"] > event["bound"] == 1e6
    # Batches 5 to 8 are not seen again, and those after them all.
    found = state(newest(run))
    assert (found["step"], found["samples_seen"]) == (STEPS, STEPS * BATCH)
    assert found["samples_read"] == (STEPS + 4) * BATCH
    assert (found["rollbacks"], found["lr_scale"]) == (1, 0.25)
    full, *_ = used = [float(line) for line in rates.read_text().split()]
    assert used == [full] * 8 + [0.25 * full] * 8
    assert [row["step"] for row in rows(run / "metrics.jsonl")] == [2, 4, 6, 8, 10, 12]

    words = flags(shards, killed, STEPS, *BACK, *zero)
    codes, told = spiked(words, tmp_path / "log", "1e9", KILLED="1")
    assert codes[0] == -9, told
    assert [p.name for p in checkpoints.complete(killed)] == ["step-00000004"]
    ended = Training(words, tmp_path / "log", 2).end()
    assert ended.codes == [0, 0], ended.output
    assert_same(run, killed)


def test_back_in_the_process_is_as_back_from_the_disk(shards: Path, tmp_path: Path):
    goes_back_and_on(shards, tmp_path, stages(2, 2))


@pytest.mark.slow
@pytest.mark.parametrize("zero", [(0, 0), (1, 1), (3, 2)])
def test_back_at_every_stage(shards: Path, tmp_path: Path, zero: tuple[int, int]):
    goes_back_and_on(shards, tmp_path, stages(*zero))


def test_an_absurd_rate_stops_every_rank(shards: Path, tmp_path: Path):
    out = tmp_path / "run"
    absurd = ["--players.critics.optim.lr", "1e30", *stages(0, 2)]
    ended = Training(flags(shards, out, STEPS, *absurd), tmp_path / "log", 2).end()
    assert ended.codes == [3, 3], ended.output
    assert ended.output.count("error: ") == 1
    assert "Traceback" not in ended.output
    assert "no longer finite at step 2 (first " in ended.output
    assert "); no checkpoint is known to be good: start" in ended.output
    (event,) = guarded(out)
    assert (event["event"], event["step"], event["flag"]) == ("stop", 2, None)
    assert not math.isfinite(event["value"])
    told = rows(out / "metrics.jsonl")[-1]  # what it died of is on the record
    assert not all(math.isfinite(v) for v in map(float, told.values()))


def alike_from_the_third_look() -> None:
    looks = iter([0.5, 0.5, *[0.01] * 3, *[0.5] * 9])
    Snapshot.diversity = lambda self: (next(looks), 4)


def test_collapsed_samples(shards: Path, tmp_path: Path):
    """Steps 6, 8 and 10 are bad looks: the checkpoint of step 8 is none to go back to."""
    out = tmp_path / "stopped"
    often = ["--evaluate.every-kimg", kimg(2), "--train.keep-last", "1"]
    patched = alike_from_the_third_look
    words = flags(shards, out, STEPS, *often)
    code, _, told = train_in_fork(words, tmp_path / "log", patch=patched)
    assert code == 3
    assert told.startswith("error: diversity of samples is 0.01 at step 10, below --train.guard.di")
    assert newest(out).name == "step-00000008"

    out = tmp_path / "back"
    words = flags(shards, out, STEPS, *often, "--train.guard.action", "rollback")
    code, told, errors = train_in_fork(words, tmp_path / "log", patch=patched)
    assert code == 0, errors
    (event,) = guarded(out)
    assert (event["figure"], event["step"], event["to"]) == ("diversity", 10, 4)
    seen = [r for r in rows(out / "evaluations.jsonl") if r["metric"] == "diversity"]
    assert [row["step"] for row in seen] == [2, 4, 6, 8, 10, 12]
    assert {row["value"] for row in seen} == {0.5}
    assert f"back to {out}/checkpoints/step-00000004" in told


def test_diversity_is_the_mean_distance(shards: Path, tmp_path: Path):
    out = tmp_path / "run"
    code, _, told = train_in_fork(flags(shards, out, 2), tmp_path / "log")
    assert code == 0, told
    config = read_run_config(out)
    snapshot = Snapshot(config, make_plan(config, 1), torch.device("cpu"), Quarantine(config.data))
    model = snapshot.model

    def mean_distance(x_BCHW: torch.Tensor) -> float:
        x_BN = x_BCHW.double().flatten(1).numpy()
        pairs = [(i, j) for i in range(len(x_BN)) for j in range(i)]
        return float(np.mean([np.sqrt(np.sum((x_BN[i] - x_BN[j]) ** 2)) for i, j in pairs]))

    draws = [snapshot._micro(batch, "diversity ") for batch in snapshot._calibration][:16]
    real = torch.cat([micro.x for micro in draws])
    made = torch.cat([model.decode(micro.z, from_prior=True) for micro in draws])
    value, count = snapshot.diversity()
    assert count == len(real) == 64
    assert value == pytest.approx(mean_distance(made) / mean_distance(real), rel=1e-4)
    snapshot.model.decode = lambda z, labels, from_prior: torch.zeros(len(z), 1, 16, 16)  # type: ignore[method-assign]
    assert snapshot.diversity() == (0.0, 64)
    assert json.loads((newest(out) / "state.json").read_text())["alike"] == 0
