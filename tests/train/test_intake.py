"""Runs on damaged shards: what is left out, and a stop on all ranks where it is too much."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from agehpc import checkpoints, cli
from agehpc.cluster.collectives import gather
from agehpc.cluster.groups import Ranks
from agehpc.config.plan import make_plan
from agehpc.data.index import read_index
from agehpc.data.quarantine import Fault, Places, Quarantine
from agehpc.data.samples import Samples
from agehpc.data.shards import read_manifest
from agehpc.errors import AgehpcError
from agehpc.observe.throughput import Meter
from agehpc.recipes import RECIPES
from agehpc.systems import build_system
from agehpc.systems.base import Collectives
from agehpc.train.intake import Intake
from agehpc.train.progress import Progress
from tests.data.levels import damage, levels_config, levels_shards, read
from tests.data.web import faulty_server
from tests.ranks import run_ranks
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
REMOTE = ("shard_hits", "shard_misses", "fetched_mb", "fetch_retries")
TOO_MANY = ["--data.bad-allowance", str(len(BAD) - 1)]
LEFT_OUT = ["--data.bad-allowance", str(len(BAD))]

# Of the small images, by position: two for the first half of an epoch, three for the second, each
# of another shard, so that none is read in the place of another.
LOST = (0, 3, 9, 11, 12)


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
    assert f"samples read from {shards} cannot be used" in errors[0]
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


@pytest.mark.slow
def test_figures_of_shards_behind_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two ranks with a decoding process each; the next run finds every shard in the cache."""
    pytest.importorskip("aiohttp", reason="needs agehpc[remote]")
    monkeypatch.setenv("AGEHPC_CACHE", str(tmp_path / "cache"))
    shards = tmp_path / "root/shards"
    assert cli.main(["data", "demo", str(shards), "--size", "28", "--samples-per-shard", "2"]) == 0
    tars = {path.name: path.stat().st_size for path in shards.glob("train-*.tar")}
    assert len(tars) == 4
    with faulty_server(tmp_path / "root") as server:
        for out, cuts in ((tmp_path / "first", 1), (tmp_path / "second", 0)):
            server.do(*["cut 3000"] * cuts)
            arguments = flags(Path("shards"), out, *stages(0, 0), "--data.workers", "1")
            arguments[arguments.index("shards")] = f"{server.url}/shards"
            ended = Training(arguments, tmp_path / f"{out.name}.log", 2).end()
            assert ended.codes == [0, 0], ended.output
            ticks = [json.loads(row) for row in (out / "metrics.jsonl").read_text().splitlines()]
            sums = {name: sum(tick[name] for tick in ticks) for name in REMOTE}
            assert sums["fetch_retries"] == cuts
            # Manifests, which are never cached, are far smaller than a shard.
            fetched = sums["fetched_mb"] * 1e6 // min(tars.values())
            assert fetched in (range(4, 9) if cuts else (0,))
            # What is fetched ahead, or by another process, lies there when it is read.
            assert sums["shard_misses"] <= 4 * cuts
            assert sums["shard_hits"] > sums["shard_misses"]


def intake_body(
    ranks: Ranks, shards: str, allowance: int, batch: int, steps: int
) -> dict[str, Any]:
    """What one rank of two meets."""
    shards = f"{shards}-{ranks.env.rank}" if Path(f"{shards}-{ranks.env.rank}").exists() else shards
    data = levels_config(Path(shards), max_bad_fraction=0.0, bad_allowance=allowance)
    config = RECIPES["mnist_autoencoder"]().model_copy(update={"data": data})
    train = config.train.model_copy(update={"global_batch": batch, "micro_batch": None})
    config = config.model_copy(update={"train": train})
    plan = make_plan(config, ranks.env.world_size)
    system = build_system(config, Collectives(lambda z: (z, z), gather, dist.get_rank))
    recorded: list[Fault] = []
    quarantine = Quarantine(data)
    intake = Intake(config, plan, ranks, system, quarantine, 0, Meter(), recorded.extend)
    progress, told, samples = Progress(), None, []
    try:
        for _ in range(steps):
            ((micro,),) = intake.step(progress)
            samples += (255 * (micro.x[:, 0, 0, 0] + 1) / 2).round().int().tolist()
            progress = progress.after(plan.samples_per_step, plan.global_batch * plan.batches)
    except AgehpcError as error:
        told = str(error), error.silent, error.exit_code
    figures = intake.tick(progress)
    intake.close()
    return {
        "step": progress.step,
        "samples": samples,
        "told": told,
        "recorded": [(int(f.shard[6:12]), f.index) for f in recorded],
        "known": quarantine.count(10**6),
        "quarantined": figures["quarantined"],
    }


@pytest.fixture
def levels(tmp_path: Path) -> Path:
    folder = levels_shards(tmp_path / "levels")
    for place in lost_places(folder):
        damage(folder, *place)
    return folder


def lost_places(folder: Path) -> list[tuple[int, int]]:
    places = Places(Samples(levels_config(folder), read_manifest(folder), "train", 0))
    units = [places.unit(position, 0) for position in LOST]
    return sorted((unit.shard, unit.index) for unit in units)


def run_two(shards: Path, allowance: int, batch: int = 4) -> list[dict[str, Any]]:
    body = "tests.train.test_intake:intake_body"
    return run_ranks(2, body, str(shards), allowance, batch, 40 // batch)


def test_ranks_know_what_each_of_them_found(levels: Path):
    first, second = run_two(levels, len(LOST))
    assert sorted(map(tuple, first["recorded"])) == lost_places(levels)
    assert second["recorded"] == []  # one rank writes
    assert [rank["known"] for rank in (first, second)] == [len(LOST)] * 2
    assert [rank["quarantined"] for rank in (first, second)] == [len(LOST)] * 2
    data = levels_config(levels, bad_allowance=len(LOST))
    alone = read(data, 4, 10, quarantine=Quarantine(data), seed=0)
    flat = [alone[p][0][0] for p in range(40)]
    assert first["samples"] == [v for p, v in enumerate(flat) if p % 4 < 2]
    assert second["samples"] == [v for p, v in enumerate(flat) if p % 4 >= 2]


def test_ranks_stop_at_the_same_step(levels: Path):
    """Neither meets too many by itself: it is what they tell each other."""
    first, second = run_two(levels, 3, 18)
    assert first["step"] == second["step"] == 0
    assert [rank["told"][1:] for rank in (first, second)] == [[False, 1], [True, 1]]
    assert first["told"][0] == second["told"][0]
    assert first["told"][0].startswith(f"{len(LOST)} of the 18 samples read from ")
    assert sorted(map(tuple, first["recorded"])) == lost_places(levels)


def test_a_rank_that_cannot_go_on_stops_the_others(levels: Path, tmp_path: Path):
    """A shard is gone from the second node's disk."""
    for rank in range(2):
        shutil.copytree(levels, f"{levels}-{rank}")
    path = Path(f"{levels}-1") / "train-000002.tar"
    index = path.with_name("train-000002.idx.json")
    index.write_text(index.read_text().replace('"samples"', '"sample"'))
    first, second = run_two(levels, len(LOST))
    assert first["step"] == second["step"]
    assert [rank["told"][1:] for rank in (first, second)] == [[True, 1], [False, 1]]
    assert f"{index} is damaged" in first["told"][0]
