"""The watchdog of one rank, and whom the ranks' accounts of a hang name."""

import ctypes
import threading
from pathlib import Path
from typing import Any

import pytest

from agehpc.cluster.environment import Environment
from agehpc.cluster.watchdog import Place, Watchdog, verdict

LIMIT_S = 0.4


def place(rank: int = 0, world: int = 1) -> Environment:
    return Environment(rank, rank, world, world, "127.0.0.1", 1, "single", f"n{rank}")


class Ended:
    """Takes the place of the process's end, and of the log."""

    def __init__(self) -> None:
        self.code: int | None = None
        self.rows: list[dict[str, Any]] = []
        self.over = threading.Event()

    def __call__(self, code: int) -> None:
        self.code = code
        self.over.set()


def watchdog(folder: Path, ended: Ended, env: Environment, **more: Any) -> Watchdog:
    at = Place("step 3, data", None, 0)
    given = env, folder, LIMIT_S, lambda: at, lambda: None, ended.rows.append
    return Watchdog(*given, end=ended, **more)


def test_silence_ends_the_process(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    ended = Ended()
    with watchdog(tmp_path, ended, place()):
        assert ended.over.wait(60)
    assert ended.code == 75
    assert "rank 0 on n0 (step 3, data) hangs; stacks of all" in capfd.readouterr().err
    assert [row["event"] for row in ended.rows] == ["hang"]
    assert "test_silence_ends_the_process" in (tmp_path / "rank0.stacks").read_text()


def test_stacks_of_one_that_keeps_the_interpreter_from_the_first_moment(tmp_path: Path):
    with watchdog(tmp_path, Ended(), place()):
        ctypes.PyDLL(None).usleep(round(3e6 * LIMIT_S))
        # By the thread of C: no other could run.
        assert "Timeout (" in (tmp_path / "rank0.stacks").read_text()


def test_what_ends_by_itself_is_no_hang(tmp_path: Path):
    ended, bounded = Ended(), [True]
    with watchdog(tmp_path, ended, place(), bounded=lambda: bounded[0]):
        assert not ended.over.wait(4 * LIMIT_S)
        bounded[0] = False
        assert ended.over.wait(60)


def test_a_folder_that_was_cleared_is_no_error(tmp_path: Path):
    with watchdog(tmp_path, Ended(), place()) as dog:
        dog.beat()
        (tmp_path / "rank0.stacks").unlink()


def test_the_store_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """Rank 0 keeps it: ranks of which nothing is known are not named by one another."""

    class Dead:
        def add(self, *_: object) -> int:
            raise RuntimeError("timed out")

        set = add

    monkeypatch.setattr("agehpc.cluster.watchdog.dist.TCPStore", lambda *_, **__: Dead())
    rows = []
    for rank in (1, 2):
        ended = Ended()
        with watchdog(tmp_path, ended, place(rank, 3)):
            assert ended.over.wait(60)
        rows += ended.rows
    assert [[one["rank"] for one in row["ranks"]] for row in rows] == [[0]]  # of rank 1
    assert capfd.readouterr().err.count("error: ") == 1
    assert ended.code == 75


def account(rank: int, waits: str | None, calls: int) -> dict[str, Any]:
    return {"rank": rank, "host": f"n{rank}", "at": "step 1, train", "waits": waits, "calls": calls}


@pytest.mark.parametrize(
    ("told", "hung"),
    [
        ([account(0, "allreduce", 5), account(2, "allreduce", 5)], [1]),
        ([account(0, "allreduce", 5), account(1, None, 5), account(2, "broadcast", 5)], [1]),
        ([account(n, "allreduce", 5 - (n == 2)) for n in range(3)], [2]),
        ([account(n, None, 5 - (n == 2)) for n in range(3)], [2]),
        ([account(n, None, 5) for n in range(3)], [0, 1, 2]),
    ],
)
def test_who_hangs(told: list[dict[str, Any]], hung: list[int]):
    text, rows = verdict({row["rank"]: row for row in told}, 3, 60.0)
    assert [row["rank"] for row in rows] == hung
    assert text.startswith("no progress for 60 s: rank ")
    assert ("the other 2 wait for it" in text) == (len(hung) == 1)
