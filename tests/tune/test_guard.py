"""The ranks of a trial and their guard, without Ray."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agehpc_tune import ranks as module
from agehpc_tune.ranks import Place, Ranks, is_free, scrubbed, wait_until_free
from tests.tune.sweeps import PACKAGES, kill, processes

ALONE = Place(0, 1, 1, "127.0.0.1", 1)
TWO = Place(2, 2, 4, "10.0.0.7", 23456)
# Saves where it is asked to.
OBEYS = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), os._exit(85)))
print("ready", os.environ.get("RANK"), flush=True)
time.sleep(100)
"""
DEAF = OBEYS.replace('lambda *_: (print("saved", flush=True), os._exit(85))', "signal.SIG_IGN")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", PACKAGES)


def start(tmp_path: Path, code: str, place: Place = ALONE) -> Ranks:
    command = [sys.executable, "-c", f"# {tmp_path}\n{code}"]
    return Ranks(command, str(tmp_path), tmp_path / "logs" / "trial.log", place, 1)


def log(tmp_path: Path) -> str:
    path = tmp_path / "logs" / "trial.log"
    return path.read_text() if path.exists() else ""


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(tmp_path: Path) -> list[int]:
    """Processes of the command; the guard has it on its standard input only."""
    return [pid for pid, words in processes() if f"# {tmp_path}" in words]


def ends(ranks: Ranks) -> int:
    until(lambda: ranks.poll() is not None)
    code = ranks.poll()
    assert code is not None
    return code


@pytest.mark.parametrize(("code", "seen"), [("0", 0), ("3", 3), ("85", 85), ("1", 1)])
def test_exit_codes(tmp_path: Path, code: str, seen: int):
    assert ends(start(tmp_path, f"raise SystemExit({code})")) == seen


def test_a_signal_is_an_exit_code(tmp_path: Path):
    assert ends(start(tmp_path, "import os; os.kill(os.getpid(), 9)")) == 128 + 9


def test_ranks_know_their_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    misleading = {"SLURM_PROCID": "5", "PMI_RANK": "5", "RAY_ADDRESS": "x", "RANK": "5"}
    for name, value in (misleading | {"TORCHELASTIC_RUN_ID": "a", "MINE": "kept"}).items():
        monkeypatch.setenv(name, value)
    code = "import os; open('env-' + os.environ['RANK'], 'w').write(repr(dict(os.environ)))"
    assert ends(start(tmp_path, code, TWO)) == 0
    found = [eval((tmp_path / f"env-{rank}").read_text()) for rank in (2, 3)]
    for local, environ in enumerate(found):
        assert (environ["RANK"], environ["LOCAL_RANK"]) == (str(2 + local), str(local))
        assert (environ["WORLD_SIZE"], environ["LOCAL_WORLD_SIZE"]) == ("4", "2")
        assert (environ["MASTER_ADDR"], environ["MASTER_PORT"]) == ("10.0.0.7", "23456")
        assert environ["MINE"] == "kept"
        assert not {"SLURM_PROCID", "PMI_RANK", "RAY_ADDRESS", "TORCHELASTIC_RUN_ID"} & set(environ)
    assert "RANK" not in scrubbed(os.environ)  # alone, a process is no rank


def test_stopped_ranks_save(tmp_path: Path):
    ranks = start(tmp_path, OBEYS, TWO)
    until(lambda: log(tmp_path).count("ready") == 2)
    assert ranks.poll() is None
    assert ranks.stop() == 85
    assert log(tmp_path).count("saved") == 2


def test_a_rank_that_fails_ends_the_others(tmp_path: Path):
    code = "import os, sys\nif os.environ['RANK'] == '3': sys.exit(7)\n" + OBEYS
    assert ends(start(tmp_path, code, TWO)) == 7
    assert not alive(tmp_path)


def test_ranks_that_do_not_stop_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "GRACE_S", 0.5)
    code = "import subprocess, sys\nsubprocess.Popen([sys.executable, *sys.orig_argv[1:]])\n" + DEAF
    once = "import os\nif 'CHILD' not in os.environ:\n    os.environ['CHILD'] = '1'\n    "
    ranks = start(tmp_path, once + code.replace("\nsubprocess", "; subprocess"))
    until(lambda: log(tmp_path).count("ready") == 2)
    assert len(alive(tmp_path)) == 2
    assert ranks.stop() == -signal.SIGKILL
    until(lambda: not alive(tmp_path))


@pytest.mark.parametrize("code", [OBEYS, DEAF], ids=["obeys", "deaf"])
def test_no_rank_outlives_the_worker(tmp_path: Path, code: str):
    worker = f"""
import sys, time
from pathlib import Path
from agehpc_tune import ranks
ranks.GRACE_S = 0.5
here = Path({str(tmp_path)!r})
place = ranks.Place(2, 2, 4, "127.0.0.1", 1)
command = [sys.executable, "-c", "# " + str(here) + {code!r}]
held = ranks.Ranks(command, str(here), here / "logs" / "trial.log", place, 1)
time.sleep(100)
"""
    process = subprocess.Popen([sys.executable, "-c", worker])
    until(lambda: log(tmp_path).count("ready") == 2)
    kill(process.pid)
    process.wait()
    until(lambda: not alive(tmp_path))
    assert ("saved" in log(tmp_path)) == (code == OBEYS)


def test_no_rank_outlives_its_guard(tmp_path: Path):
    ranks = start(tmp_path, DEAF, TWO)
    until(lambda: log(tmp_path).count("ready") == 2)
    kill(ranks._guard.pid)
    until(lambda: not alive(tmp_path))
    assert ends(ranks) == -signal.SIGKILL


def test_a_directory_that_is_trained_in_is_waited_for(tmp_path: Path):
    assert is_free(tmp_path)
    code = f"import fcntl\nf = open({str(tmp_path / '.lock')!r}, 'a+')\nfcntl.flock(f, 2)\n" + OBEYS
    ranks = start(tmp_path, code)
    until(lambda: "ready" in log(tmp_path))
    assert not is_free(tmp_path)
    assert not wait_until_free(tmp_path, 0.3)
    ranks.ask()
    assert wait_until_free(tmp_path)
    assert ends(ranks) == 85
