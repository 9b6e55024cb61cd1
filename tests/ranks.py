"""Run a function on n gloo ranks, each its own process, from a test.

    results = run_ranks(2, "tests.cluster.bodies:mean", 3.0)

calls `mean(ranks, 3.0)` inside a process group on each rank; arguments and results travel as JSON.
A rank that fails or hangs fails the test with the output of every rank.
"""

import importlib
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.forks import Fork

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Finished:
    """How a rank ended: its exit code (negative: killed by that signal) and all it wrote."""

    returncode: int
    output: str


def run_ranks(
    world_size: int, target: str, *arguments: Any, timeout: float = 480, threads: int = 1
) -> list[Any]:
    """The results of `module:function(ranks, *arguments)`, one a rank, in the order of ranks."""
    with tempfile.TemporaryDirectory() as folder:
        given = target, folder, threads, json.dumps(arguments)
        outputs = [Path(folder) / f"{rank}.log" for rank in range(world_size)]
        ranks: list[Fork] = []
        try:
            for env, output in zip(environments(world_size), outputs, strict=True):
                ranks.append(Fork(_run_rank, given, env, output))
            in_time = _wait(ranks, timeout)
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
        told = [output.read_text(errors="replace") for output in outputs]
        finished = [Finished(rank.wait(), text) for rank, text in zip(ranks, told, strict=True)]
        if not in_time:
            raise AssertionError(f"{target} did not end in {timeout} s\n{describe(finished)}")
        if any(rank.returncode for rank in finished):
            raise AssertionError(f"{target} failed on {world_size} ranks\n{describe(finished)}")
        texts = [(Path(folder) / f"{rank}.json").read_text() for rank in range(world_size)]
    return [json.loads(text) for text in texts]


def spawn_ranks(
    world_size: int,
    command: Sequence[str],
    *,
    timeout: float = 480,
    environ: Mapping[str, str] | None = None,
) -> list[Finished]:
    """Run one command on every rank with torchrun's variables; AssertionError after `timeout` s."""
    processes: list[subprocess.Popen[str]] = []
    outputs = [tempfile.TemporaryFile("w+") for _ in range(world_size)]  # noqa: SIM115
    try:
        for env, output in zip(environments(world_size), outputs, strict=True):
            processes.append(
                subprocess.Popen(
                    command,
                    env={**env, **(environ or {})},
                    cwd=ROOT,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        in_time = _wait(processes, timeout)
        finished = [
            Finished(process.returncode, _read(output))
            for process, output in zip(processes, outputs, strict=True)
        ]
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for output in outputs:
            output.close()
    if not in_time:
        raise AssertionError(f"{command} did not end in {timeout} s\n{describe(finished)}")
    return finished


def alone() -> dict[str, str]:
    """The environment of a process of one thread that finds the project's packages."""
    path = os.pathsep.join(str(ROOT / part) for part in (".", "kernels", "tune"))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def environments(world_size: int) -> list[dict[str, str]]:
    """The environment of each rank: this one, with torchrun's variables."""
    shared = alone() | {
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    return [shared | {"RANK": str(n), "LOCAL_RANK": str(n)} for n in range(world_size)]


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def describe(finished: Sequence[Finished]) -> str:
    """Exit code and output of each rank, for a failing test's message."""
    return "\n".join(
        f"--- rank {rank}: exit code {end.returncode}\n{end.output}"
        for rank, end in enumerate(finished)
    )


def _wait(processes: Sequence[subprocess.Popen[str] | Fork], timeout: float) -> bool:
    """Whether all ended in time; the others get 20 s once one has failed, then all are killed."""
    deadline = time.monotonic() + timeout
    failed_by: float | None = None
    while any(process.poll() is None for process in processes):
        now = time.monotonic()
        if failed_by is None and any(process.returncode for process in processes):
            failed_by = now + 20
        if now > deadline or (failed_by is not None and now > failed_by):
            for process in processes:
                process.kill()
                process.wait()
            return failed_by is not None
        time.sleep(0.02)
    return True


def _read(output: Any) -> str:
    output.seek(0)
    return output.read()


def _run_rank(target: str, folder: str, threads: int, arguments: str) -> None:
    import torch

    from agehpc.cluster.environment import resolve
    from agehpc.cluster.groups import process_group
    from agehpc.train import engines

    module, function = target.split(":")
    body = getattr(importlib.import_module(module), function)
    env = resolve(os.environ)
    engines.import_deepspeed(torch.device("cpu"))  # and its groups' end, as in a real training
    destroy = engines.destroy_groups
    with process_group(env, "cpu", threads, timeout_minutes=8, destroy=destroy) as ranks:
        result = body(ranks, *json.loads(arguments))
    (Path(folder) / f"{env.rank}.json").write_text(json.dumps(result))
