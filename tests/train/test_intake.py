"""Runs on damaged shards: what is left out, and a stop on all ranks where it is too much."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from agehpc import checkpoints, cli
from agehpc.data.index import read_index
from tests.train.runs import (
    BATCH,
    SMOOTH,
    STEPS,
    Training,
    flags,
    newest,
    rows,
    stages,
    state,
    tensors,
    train_in_fork,
)

BAD = (1, 3, 4, 6)
TOO_MANY = ["--data.bad-allowance", str(len(BAD) - 1)]
LEFT_OUT = ["--data.bad-allowance", str(len(BAD))]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's eight training clips, half of them damaged."""
    out = tmp_path_factory.mktemp("shards") / "demo"
    assert cli.main(["data", "demo", str(out), "--size", "28"]) == 0
    path = out / "train-000000.tar"
    content = bytearray(path.read_bytes())
    samples = read_index(out, path.name).samples
    assert len(samples) == 8
    for index in BAD:
        content[samples[index].media.offset + 100] ^= 1
    path.write_bytes(content)
    return out


def quarantined(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "quarantine.jsonl").read_text().splitlines()]


def test_a_run_leaves_out_and_resumes_alike(shards: Path, tmp_path: Path):
    """Whole, and killed half-way with decoding processes after: the same run."""
    out, half = tmp_path / "run", tmp_path / "half"
    arguments = [*stages(0, 0), *SMOOTH, *LEFT_OUT]
    code, told, errors = train_in_fork(flags(shards, out, *arguments), tmp_path / "log")
    assert code == 0, errors
    found = quarantined(out)
    assert [sorted(row) for row in found] == [
        ["index", "key", "kind", "message", "position", "shard"]
    ] * len(BAD)
    assert {row["index"] for row in found} == set(BAD)
    assert {(row["shard"], row["kind"]) for row in found} == {("train-000000.tar", "crc")}
    assert told.count("another sample is read in the place of train-000000.tar") == len(BAD)
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["quarantined"] == len(BAD)
    assert last["decode_ms"] > 0
    assert last["decode_per_s"] == pytest.approx(1000 / last["decode_ms"])
    assert last["retries"] == 0
    shutil.copytree(out, half)
    for checkpoint in checkpoints.complete(half)[2:]:
        shutil.rmtree(checkpoint)
    again = flags(shards, half, *arguments, "--data.workers", "1")
    code, told, errors = train_in_fork(again, tmp_path / "again")
    assert code == 0, errors
    assert "another sample" not in told
    assert quarantined(half) == found
    assert rows(half / "metrics.jsonl") == rows(out / "metrics.jsonl")
    ours, theirs = tensors(newest(out)), tensors(newest(half))
    assert all(theirs[name].equal(tensor) for name, tensor in ours.items())
    assert state(newest(half))["samples_seen"] == STEPS * BATCH


def test_too_many_stop_both_ranks_with_one_message(shards: Path, tmp_path: Path):
    out = tmp_path / "run"
    arguments = flags(shards, out, *stages(0, 0), *SMOOTH, *TOO_MANY)
    ended = Training(arguments, tmp_path / "log", 2).end()
    assert ended.codes == [1, 1], ended.output
    errors = [line for line in ended.output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, ended.output
    assert f"{len(BAD)} of the 8 samples read from {shards} cannot be used" in errors[0]
    assert "--data.bad-allowance 3 lets 3 pass: train-000000.tar: sample" in errors[0]
    assert {row["index"] for row in quarantined(out)} == set(BAD)
    assert "Traceback" not in ended.output
    assert not checkpoints.complete(out)


def test_a_damaged_list_is_named(shards: Path, tmp_path: Path):
    out = tmp_path / "run"
    out.mkdir()
    arguments = [*stages(0, 0), *LEFT_OUT, "--train.max-minutes", "0.0001"]
    assert train_in_fork(flags(shards, out, *arguments), tmp_path / "log")[0] == 0
    (out / "quarantine.jsonl").write_text('{"shard": "a.tar", "kind": "moon"}\n')
    code, _, errors = train_in_fork(flags(shards, out, *arguments), tmp_path / "log")
    assert code == 1
    assert f"error: {out / 'quarantine.jsonl'} holds a row that is no record" in errors
