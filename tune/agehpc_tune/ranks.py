"""The ranks of a trial on one node: neither tasks of Slurm nor workers of Ray."""

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agehpc.files import LOCK
from agehpc_tune import guard

GRACE_S = 60.0
"""Time that ranks have to save in when they are stopped."""

# What tells a program that it is a task of Slurm or MPI, a rank of torchrun, a worker of Ray.
_MISLEADING = (
    *("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "PMI_", "PMIX_", "PMI2_", "OMPI_", "PALS_"),
    *("TORCHELASTIC_", "PET_", "RAY_", "TUNE_"),
)
_MISLEADING_NAMES = frozenset(
    {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"}
    | {"ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"}
)


def scrubbed(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what would make a trial a part of another program's job."""
    return {
        name: value
        for name, value in environ.items()
        if name not in _MISLEADING_NAMES and not name.startswith(_MISLEADING)
    }


@dataclass(frozen=True)
class Place:
    """Which ranks of how many run on a node, and where all of them meet."""

    first: int
    here: int
    world_size: int
    master_addr: str
    master_port: int

    def variables(self) -> list[dict[str, str]]:
        """Return torchrun's variables for each rank; none for a rank that is alone."""
        if self.world_size == 1:
            return [{}]
        shared = {
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_WORLD_SIZE": str(self.here),
            "MASTER_ADDR": self.master_addr,
            "MASTER_PORT": str(self.master_port),
        }
        return [
            {**shared, "RANK": str(self.first + local), "LOCAL_RANK": str(local)}
            for local in range(self.here)
        ]


def free_port() -> int:
    """Return a TCP port that is free on this node."""
    with socket.socket() as server:
        server.bind(("", 0))
        return server.getsockname()[1]


class Ranks:
    """Ranks of one command on this node; `log` gets what they write, behind what it holds."""

    def __init__(
        self, command: Sequence[str], cwd: str, log: Path, place: Place, threads: int
    ) -> None:
        environ = scrubbed(os.environ) | {"OMP_NUM_THREADS": str(threads)}
        job = {
            "command": list(command),
            "cwd": cwd,
            "log": str(log),
            "environ": environ,
            "ranks": place.variables(),
            "grace_s": GRACE_S,
        }
        self._guard = subprocess.Popen(
            [sys.executable, "-m", guard.__name__],
            stdin=subprocess.PIPE,
            start_new_session=True,
            cwd=cwd,
            env=environ,
        )
        assert self._guard.stdin is not None
        self._guard.stdin.write(json.dumps(job).encode() + b"\n")
        self._guard.stdin.flush()

    def poll(self) -> int | None:
        """Return the exit code of the ranks, None while any runs."""
        code = self._guard.poll()
        if code is not None:
            self.ask()
        return code

    def ask(self) -> None:
        """Ask the ranks to save and end."""
        assert self._guard.stdin is not None
        self._guard.stdin.close()

    def stop(self) -> int:
        """Ask, and wait; the guard ends those that take too long."""
        self.ask()
        return self._guard.wait()


def is_free(run: Path) -> bool:
    """Whether nobody trains in a run directory."""
    lock = run / LOCK
    if not lock.exists():
        return True
    with lock.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def wait_until_free(run: Path, seconds: float = GRACE_S + 30) -> bool:
    """Wait for what was stopped in a run directory to end; whether it has."""
    deadline = time.monotonic() + seconds
    while not is_free(run):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
