"""`agehpc preflight` on gloo ranks, and what it makes of facts that are planted."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from agehpc import cli
from agehpc.preflight.command import _shown
from agehpc.preflight.facts import GIB, _sees
from agehpc.preflight.judge import judge
from tests.ranks import describe, run_ranks, spawn_ranks

COMMAND = [sys.executable, "-m", "agehpc", "preflight", "--mib", "1", "--device", "cpu"]


def fact(rank: int, host: str, **more: Any) -> dict[str, Any]:
    folder = {"path": "/runs", "error": None, "free": 50 * GIB, "inodes": 10**6}
    sound = {
        "rank": rank,
        "host": host,
        "gpu": "A100 80 GiB",
        "gpu_error": None,
        "versions": {n: "1" for n in ("agehpc", "python", "torch", "deepspeed")},
        "folders": {"--out": folder, "TMPDIR": dict(folder)},
        "files": 4096,
        "locked": -1,
        "sees": True,
        "skew_s": 0.0,
        "reduce": {"right": True, "seconds": 0.1, "bytes": 10**9, "backend": "nccl"},
    }
    return sound | more


FOLDER = fact(0, "")["folders"]["--out"]
BROKEN = {
    "GPUs": [{"gpu": "A100 40 GiB"}, {"gpu": None, "gpu_error": "no GPU"}, {"gpu": None}],
    "all-reduce": [{"reduce": fact(0, "")["reduce"] | {"right": False}}],
    "clocks": [{"skew_s": -1.5}, {"skew_s": 2.0}],
    "disk --out": [
        {"folders": {"--out": FOLDER | new, "TMPDIR": FOLDER}}
        for new in ({"error": "Read-only file system"}, {"free": GIB}, {"inodes": 5})
    ],
    "disk TMPDIR": [{"folders": {"--out": FOLDER, "TMPDIR": FOLDER | {"free": GIB}}}],
    "shared --out": [{"sees": False}],
    "versions": [{"versions": fact(0, "")["versions"] | {"torch": "2"}}],
    "open files": [{"files": 256}],
}


@pytest.mark.parametrize(
    ("name", "broken"), [(name, one) for name, all_ in BROKEN.items() for one in all_]
)
def test_a_fault_is_laid_to_its_host(name: str, broken: dict[str, Any]):
    everyone = [fact(rank, f"n{rank // 2}") for rank in range(6)]
    everyone[3] |= broken
    found = {f.name: f for f in judge(everyone, "auto", 0.0, 10.0)}
    assert {n: f.hosts for n, f in found.items() if f.status == "fail"} == {name: ("n1",)}
    assert "n1: " in found[name].text


def test_sound_facts_and_their_bounds():
    everyone = [fact(rank, f"n{rank}", inodes=None) for rank in range(4)]
    assert {f.status for f in judge(everyone, "cuda", 15.0, 10.0)} == {"ok"}
    # 2 * 3/4 of 1e9 bytes in a tenth of a second.
    slow = [f for f in judge(everyone, "cuda", 15.1, 10.0) if f.status == "fail"]
    assert [(f.name, f.hosts) for f in slow] == [("all-reduce", ())]
    assert "at 15.00 GB/s of bus bandwidth, --least-gb-s is 15.1" in slow[0].text
    none = [fact(rank, "n1", gpu=None) for rank in range(2)]
    assert {f.status for f in judge(none, "auto", 0.0, 10.0)} == {"ok"}
    assert judge(none, "cuda", 0.0, 10.0)[0].status == "fail"


def test_two_ranks(tmp_path: Path):
    words = ["--least-gib", "0.001", "--out", str(tmp_path), "--json"]
    finished = spawn_ranks(2, [*COMMAND, *words])
    assert [end.returncode for end in finished] == [0, 0], describe(finished)
    told = json.loads(finished[0].output.splitlines()[-1])
    assert told["ok"] is True
    assert told["bad_hosts"] == []
    assert "over gloo at" in next(c["text"] for c in told["checks"] if c["name"] == "all-reduce")
    assert finished[1].output.strip() == ""
    assert list(tmp_path.iterdir()) == []


def test_two_ranks_without_space(tmp_path: Path):
    finished = spawn_ranks(2, [*COMMAND, "--least-gib", "1e9", "--out", str(tmp_path)])
    assert [end.returncode for end in finished] == [1, 1], describe(finished)
    assert "fail  disk --out" in finished[0].output
    assert "--exclude" not in finished[0].output  # it would leave none


def test_the_hosts_to_leave_out():
    everyone = [fact(rank, f"n{rank}", sees=rank != 1) for rank in range(3)]
    text = _shown(judge(everyone, "auto", 0.0, 10.0), 3, as_json=False)
    assert text.endswith("leave these hosts out: --exclude=n1\n")


def test_the_clock_of_rank_0_is_wrong():
    everyone = [fact(rank, f"n{rank}", skew_s=-3.0 * (rank > 0)) for rank in range(3)]
    (found,) = [f for f in judge(everyone, "auto", 0.0, 10.0) if f.status == "fail"]
    assert (found.name, found.text) == ("clocks", "n0: +3.00 s from the median")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mib", "0"], "--mib 0"),
        (["--timeout-minutes", "0"], "--timeout-minutes 0 must"),
        (["--timeout-minutes", "nan"], "--timeout-minutes nan must"),
    ],
)
def test_wrong_flags(words: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["preflight", *words]) == 2
    assert said in capsys.readouterr().err


def seen_folder(ranks: Any, out: str) -> dict[str, Any]:
    """A file of rank 0 is noted by rank 1 before it is gone: that it was made is what is tested."""
    made: list[str] = []
    exists = os.path.exists

    def noted(path: str) -> bool:
        made.append(str(path))
        return exists(path)

    os.path.exists = noted
    return {"seen": _sees(ranks.env, Path(out)), "made": made}


def test_a_folder_that_is_not_there_yet_is_checked_where_it_will_be(tmp_path: Path):
    """Its parent may not be there either."""
    out = tmp_path / "a" / "b"
    for told in run_ranks(2, "tests.preflight.test_preflight:seen_folder", str(out)):
        assert told["seen"] is True
        (made,) = told["made"]
        assert Path(made).parent == tmp_path
