"""Run a function on n gloo ranks, each its own Python process, from a test.

    results = run_ranks(2, "tests.cluster.bodies:mean", 3.0)

calls `mean(ranks, 3.0)` inside a process group on each rank; arguments and results travel as JSON.
A rank that fails or hangs fails the test with the output of every rank.
"""

import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        command = [sys.executable, "-m", "tests.ranks", target, folder, str(threads)]
        finished = spawn_ranks(world_size, [*command, json.dumps(arguments)], timeout=timeout)
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
    shared = {
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels"), str(ROOT / "tune")]),
    }
    processes: list[subprocess.Popen[str]] = []
    outputs = [tempfile.TemporaryFile("w+") for _ in range(world_size)]  # noqa: SIM115
    try:
        for rank, output in enumerate(outputs):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            processes.append(
                subprocess.Popen(
                    command,
                    env={**os.environ, **shared, **own, **(environ or {})},
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


def _wait(processes: Sequence[subprocess.Popen[str]], timeout: float) -> bool:
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


def _run_rank(target: str, folder: str, threads: int, arguments: list[Any]) -> None:
    from agehpc.cluster.environment import resolve
    from agehpc.cluster.groups import process_group

    module, function = target.split(":")
    body = getattr(importlib.import_module(module), function)
    env = resolve(os.environ)
    more: dict[str, Any] = {}
    if engines := sys.modules.get("agehpc.train.engines"):  # as in a real training
        import torch

        engines.import_deepspeed(torch.device("cpu"))
        more["destroy"] = engines.destroy_groups
    with process_group(env, "cpu", threads, timeout_minutes=8, **more) as ranks:
        result = body(ranks, *arguments)
    (Path(folder) / f"{env.rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    _run_rank(sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4]))
