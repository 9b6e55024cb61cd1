"""Who this process is among its ranks: started by torchrun, by srun, or alone.

Pure: reads a mapping of environment variables, opens nothing and imports no torch.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from agehpc.errors import UsageError

Launcher = Literal["torchrun", "slurm", "single"]

_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_SLURM = ("SLURM_JOB_ID", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS")
# Slurm numbers the steps that are no tasks of srun (batch, interactive, extern) from here.
_SPECIAL_STEPS = 0xFFFFFFF0


@dataclass(frozen=True)
class Environment:
    """One process's place in the job; `master_port` 0 means any free port (a world of one)."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    master_addr: str
    master_port: int
    launcher: Launcher
    hostname: str

    def variables(self) -> dict[str, str]:
        """The same facts under the names that torchrun uses."""
        values = (
            self.rank,
            self.local_rank,
            self.world_size,
            self.local_world_size,
            self.master_addr,
            self.master_port,
        )
        return dict(zip(_TORCHRUN, map(str, values), strict=True))


def resolve(environ: Mapping[str, str]) -> Environment:
    """The place of this process: torchrun's variables, else those of an srun task, else alone.

    A shell of salloc or the script of sbatch is no srun task and counts as alone. MASTER_ADDR and
    MASTER_PORT override the rendezvous under Slurm. UsageError if variables are missing or wrong.
    """
    if any(name in environ for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")):
        return _from_torchrun(environ)
    if _is_srun_task(environ):
        return _from_slurm(environ)
    return Environment(0, 0, 1, 1, "127.0.0.1", 0, "single", os.uname().nodename)


def _from_torchrun(environ: Mapping[str, str]) -> Environment:
    _require(environ, _TORCHRUN, "torchrun")
    place = Environment(
        rank=_number(environ, "RANK"),
        local_rank=_number(environ, "LOCAL_RANK"),
        world_size=_number(environ, "WORLD_SIZE"),
        local_world_size=_number(environ, "LOCAL_WORLD_SIZE"),
        master_addr=environ["MASTER_ADDR"],
        master_port=_port(environ),
        launcher="torchrun",
        hostname=os.uname().nodename,
    )
    _check(place, "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    return place


def _from_slurm(environ: Mapping[str, str]) -> Environment:
    # A step may use fewer nodes and tasks than its job: its own variables come first.
    nodelist = _first_set(environ, "SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST")
    counts = _first_set(
        environ, "SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE"
    )
    _require(environ, (*_SLURM, nodelist, counts), "srun")
    hosts = expand_nodelist(environ[nodelist])
    tasks = expand_counts(environ[counts])
    if counts == "SLURM_NTASKS_PER_NODE":
        tasks = tasks * len(hosts)
    node = _number(environ, "SLURM_NODEID")
    if node >= len(tasks):
        raise UsageError(
            f"SLURM_NODEID={node} is not among the {len(tasks)} nodes of "
            f"{counts}={environ[counts]!r}; start the ranks with srun"
        )
    port = 20000 + _number(environ, "SLURM_JOB_ID") % 20000
    place = Environment(
        rank=_number(environ, "SLURM_PROCID"),
        local_rank=_number(environ, "SLURM_LOCALID"),
        world_size=_number(environ, "SLURM_NTASKS"),
        local_world_size=tasks[node],
        master_addr=environ.get("MASTER_ADDR") or hosts[0],
        master_port=_port(environ) if environ.get("MASTER_PORT") else port,
        launcher="slurm",
        hostname=environ.get("SLURMD_NODENAME") or os.uname().nodename,
    )
    _check(place, "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS", counts)
    return place


def _is_srun_task(environ: Mapping[str, str]) -> bool:
    # sbatch's script has SLURM_PROCID and SLURM_NTASKS too; only a task of srun has a step.
    step = environ.get("SLURM_STEP_ID") or environ.get("SLURM_STEPID") or ""
    return step.isdecimal() and int(step) < _SPECIAL_STEPS


def expand_nodelist(nodelist: str) -> list[str]:
    """Host names of a Slurm node list: `n[01-03,7],gpu-a1` is n01, n02, n03, n7, gpu-a1."""
    hosts = [host for part in _split(nodelist) for host in _expand(part, nodelist)]
    if not hosts:
        raise _bad_nodelist(nodelist)
    return hosts


def expand_counts(counts: str) -> list[int]:
    """Tasks of each node from Slurm's short form: `2(x3),1` is 2, 2, 2, 1."""
    tasks: list[int] = []
    for part in counts.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if match is None:
            raise UsageError(
                f"cannot read the tasks per node {counts!r}; Slurm writes them like 2(x3),1"
            )
        tasks += [int(match[1])] * int(match[2] or 1)
    return tasks


def _split(nodelist: str) -> Iterator[str]:
    """Parts between the commas that stand outside brackets."""
    yield from (part for part in re.split(r",(?![^\[]*\])", nodelist.strip()) if part)


def _expand(part: str, nodelist: str) -> Iterator[str]:
    match = re.fullmatch(r"([^\[\]]*)\[([^\[\]]+)\](.*)", part)
    if match is None:
        if "[" in part or "]" in part:
            raise _bad_nodelist(nodelist)
        yield part
        return
    prefix, ranges, rest = match.groups()
    for numbers in ranges.split(","):
        bounds = re.fullmatch(r"(\d+)(?:-(\d+))?", numbers)
        if bounds is None:
            raise _bad_nodelist(nodelist)
        first, last = bounds[1], bounds[2] or bounds[1]
        if int(last) < int(first):
            raise _bad_nodelist(nodelist)
        for number in range(int(first), int(last) + 1):
            for tail in _expand(rest, nodelist) if rest else [""]:
                yield f"{prefix}{number:0{len(first)}d}{tail}"


def _bad_nodelist(nodelist: str) -> UsageError:
    return UsageError(
        f"cannot read the node list {nodelist!r}; Slurm writes them like n[01-03,7],gpu-a1"
    )


def _first_set(environ: Mapping[str, str], *names: str) -> str:
    return next((name for name in names if environ.get(name)), names[-1])


def _require(environ: Mapping[str, str], names: tuple[str, ...], launcher: str) -> None:
    missing = [name for name in names if not environ.get(name)]
    if missing:
        seen = [name for name in names if environ.get(name)]
        raise UsageError(
            f"partially set environment: {', '.join(seen)} set, but {', '.join(missing)} missing; "
            f"start the ranks with {launcher}, or unset {', '.join(seen)} to run one process"
        )


def _number(environ: Mapping[str, str], name: str) -> int:
    value = environ[name]
    if not value.isdecimal():
        raise UsageError(f"{name}={value!r} is not a whole number; let the launcher set it")
    return int(value)


def _port(environ: Mapping[str, str]) -> int:
    port = _number(environ, "MASTER_PORT")
    if not 0 < port < 65536:
        raise UsageError(f"MASTER_PORT={port} is not a port; choose one from 1024 to 65535")
    return port


def _check(place: Environment, rank: str, local_rank: str, world: str, local_world: str) -> None:
    for index, size, index_name, size_name in (
        (place.rank, place.world_size, rank, world),
        (place.local_rank, place.local_world_size, local_rank, local_world),
    ):
        if index >= size:
            raise UsageError(
                f"{index_name}={index} must be below the {size} ranks of {size_name}; "
                "let the launcher set both"
            )
