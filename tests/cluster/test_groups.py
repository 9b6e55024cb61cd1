import os
import subprocess
import sys
import time
from typing import Any

import pytest
import torch
import torch.distributed as dist

from agehpc.cluster import groups
from agehpc.cluster.environment import Environment, resolve
from agehpc.errors import ConfigError
from tests.ranks import ROOT, describe, free_port, run_ranks, spawn_ranks

ALONE = resolve({})


def ranks_of_slurm(local_rank: int, local_world_size: int) -> Environment:
    return Environment(local_rank, local_rank, 8, local_world_size, "n1", 20001, "slurm", "n1")


@pytest.fixture(scope="module")
def both() -> list[dict[str, Any]]:
    return run_ranks(2, "tests.cluster.bodies:everything")


def test_ranks_see_their_place(both: list[dict[str, Any]]):
    for rank, seen in enumerate(both):
        place = seen["place"]
        variables = place["variables"]
        assert (variables["RANK"], variables["WORLD_SIZE"]) == (str(rank), "2")
        assert (place["backend"], place["device"], place["threads"]) == ("gloo", "cpu", 1)


def test_collectives(both: list[dict[str, Any]]):
    for seen in both:
        assert seen["collectives"]["any"] == [True, False, True]
        assert seen["collectives"]["mean"] == {"a": 1.5, "b": 10.5}
        assert seen["collectives"]["object"] == "from 1"
        assert seen["collectives"]["together"] == both[0]["collectives"]["together"]
    assert both[0]["collectives"]["together"]["rank"] == 0


def test_barrier(both: list[dict[str, Any]]):
    assert both[0]["barrier"] > 0.3
    assert both[1]["barrier"] < 0.3


def test_errors_are_raised_on_all_ranks_and_shown_by_one(both: list[dict[str, Any]]):
    messages = [
        ("no run here", 0),
        ("[Errno 2] No such file or directory: '/proc/nowhere'", 0),
        ("rank 1's shard", 1),
        ("rank 1", 1),
    ]
    for rank, seen in enumerate(both):
        for (message, owner), caught in zip(messages, seen["errors"], strict=True):
            of_its_class, text, exit_code, silent = caught
            assert (text, exit_code) == (message, 1)
            assert (of_its_class, silent) == (rank == owner, rank != owner)


def test_stop_is_agreed(both: list[dict[str, Any]]):
    for seen in both:
        assert seen["agreements"] == [None, "restart", "restart", "interrupt", "minutes"]


def body(name: str) -> tuple[float, list[Any]]:
    started = time.monotonic()
    ends = spawn_ranks(2, [sys.executable, "-m", "tests.cluster.bodies", name], timeout=60)
    return time.monotonic() - started, ends


def test_a_bug_on_one_rank_ends_all():
    seconds, ends = body("bug_on_rank_0")
    assert [end.returncode for end in ends] == [1, 1], describe(ends)
    assert "KeyError: 'a bug'" in ends[0].output
    # The group's timeout is five minutes: the others must learn it from the closed connection.
    assert seconds < 40


def test_a_user_error_on_one_rank_is_told_once():
    _, ends = body("bad_run_directory")
    assert [end.returncode for end in ends] == [2, 2], describe(ends)
    assert [end.output for end in ends] == ["error: no such thing as runs/x\n", ""]


def test_one_process_has_a_group_and_leaves_no_trace(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MASTER_ADDR", "elsewhere")
    monkeypatch.delenv("RANK", raising=False)
    threads = torch.get_num_threads()
    with groups.process_group(ALONE, "cpu", threads + 3) as ranks:
        assert (dist.get_world_size(), ranks.device.type) == (1, "cpu")
        assert torch.get_num_threads() == threads + 3
        assert (os.environ["RANK"], os.environ["MASTER_ADDR"]) == ("0", "127.0.0.1")
    assert not dist.is_initialized()
    assert torch.get_num_threads() == threads
    assert "RANK" not in os.environ
    assert os.environ["MASTER_ADDR"] == "elsewhere"


def test_group_is_destroyed_on_an_error():
    def fail() -> None:
        with groups.process_group(ALONE, "cpu", 1):
            raise KeyError("x")

    for _ in range(2):
        with pytest.raises(KeyError):
            fail()
        assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("everyone", "share"),
    [
        ([("a", {0, 1, 2, 3})], 4),
        ([("a", {0, 1, 2, 3}), ("a", {0, 1, 2, 3})], 2),
        ([("a", {0, 1, 2, 3}), ("b", {0, 1, 2, 3})], 4),
        ([("a", {0, 1}), ("a", {2, 3})], 2),  # bound by Slurm
        ([("a", {0, 1}), ("a", {0, 1}), ("a", {0, 1})], 1),
        ([("a", set(range(9)))] * 3, 3),
    ],
)
def test_share_of_cores(
    monkeypatch: pytest.MonkeyPatch, everyone: list[tuple[str, set[int]]], share: int
):
    def gather(box: list[Any], mine: tuple[str, set[int]]) -> None:
        assert mine == everyone[0]
        box[:] = everyone

    host, cores = everyone[0]
    monkeypatch.setattr(groups.os, "uname", lambda: os.uname_result(("", host, "", "", "")))
    monkeypatch.setattr(groups.os, "sched_getaffinity", lambda _: cores)
    monkeypatch.setattr(groups.dist, "get_world_size", lambda: len(everyone))
    monkeypatch.setattr(groups.dist, "all_gather_object", gather)
    assert groups.share_of_cores() == share


def see_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_device_without_gpu(monkeypatch: pytest.MonkeyPatch):
    see_gpus(monkeypatch, 0)
    assert groups.choose_device(ALONE, "auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"--cluster\.device cuda, but torch sees no GPU"):
        groups.choose_device(ALONE, "cuda")


def test_device_with_gpus(monkeypatch: pytest.MonkeyPatch):
    see_gpus(monkeypatch, 4)
    assert groups.choose_device(ranks_of_slurm(3, 4), "auto") == torch.device("cuda", 3)
    assert groups.choose_device(ranks_of_slurm(3, 4), "cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="local rank 4 of 8 has no GPU: torch sees 4 on n1"):
        groups.choose_device(ranks_of_slurm(4, 8), "auto")


def test_device_of_a_task_that_sees_its_own_gpu_only(monkeypatch: pytest.MonkeyPatch):
    see_gpus(monkeypatch, 1)
    assert groups.choose_device(ranks_of_slurm(3, 4), "cuda") == torch.device("cuda", 0)


def test_under_torchrun():
    """torchrun keeps the rendezvous port itself; the ranks must not open it again."""
    command = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port"]
    done = subprocess.run(
        [sys.executable, *command, str(free_port()), "tests/cluster/torchrun_body.py"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == ["torchrun:0:0.5", "torchrun:1:0.5"]
