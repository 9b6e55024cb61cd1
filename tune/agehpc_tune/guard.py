"""The parent of one trial's ranks on a node: `python -m agehpc_tune.guard`, a session of its own.

It reads what to run from the first line of its standard input and stops the ranks when that input
ends: whatever becomes of the worker that holds the other end, no rank outlives it for long. Its
exit code is 0 where all ranks were done, 85 where one was stopped after a save, else that of the
first rank that failed. Imports the standard library alone.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

POLL_S = 0.1
_SAVED = 85
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Run the ranks that standard input names until they end or are to stop."""
    job = json.loads(sys.stdin.buffer.readline())
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    signal.signal(signal.SIGTERM, ask)
    for number in (signal.SIGUSR1, signal.SIGUSR2):  # of Slurm, for the ranks
        signal.signal(number, signal.SIG_IGN)
    log = Path(job["log"])
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        ranks = [_start(job, own, output) for own in job["ranks"]]
    deadline, code = float("inf"), 0
    while running := [rank for rank in ranks if rank.poll() is None]:
        asked = asked or _input_ended()
        code = code or next((rank.returncode for rank in ranks if _failed(rank)), 0)
        # A rank alone waits for the others until the run's own time limit of collectives.
        if (asked or code) and deadline == float("inf"):
            deadline = time.monotonic() + job["grace_s"]
            _signal(running, signal.SIGTERM)
        if time.monotonic() > deadline:
            os.killpg(0, signal.SIGKILL)
        time.sleep(POLL_S)
    code = code or next((rank.returncode for rank in ranks if _failed(rank)), 0)
    _clear_group()
    if code:
        return code if code > 0 else 128 - code
    return max(rank.returncode for rank in ranks)


def _start(job: dict[str, Any], own: dict[str, str], output: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        job["command"],
        cwd=job["cwd"],
        env=job["environ"] | own,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        preexec_fn=_die_with_parent,
    )


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _failed(rank: subprocess.Popen[bytes]) -> bool:
    return rank.returncode not in (None, 0, _SAVED)


def _input_ended() -> bool:
    readable, _, _ = select.select([0], [], [], 0)
    return bool(readable) and os.read(0, 1) == b""


def _signal(ranks: list[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    for rank in ranks:
        with contextlib.suppress(ProcessLookupError):
            rank.send_signal(number)


def _clear_group() -> None:
    """End what ranks that were killed have left behind: workers that read their data."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
