"""Processes that start at once: forks of one that has imported torch, DeepSpeed and the trainer.

A Python of its own needs seconds for that, more than most of what tests have processes do.
"""

import multiprocessing
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

IMPORTED = ["agehpc.train.loop", "agehpc.train.command", "deepspeed"]


class Fork:
    """A call of a module's function in a process and session of its own, under an environment.

    `pid`, `poll`, `returncode`, `wait` and `kill` are as of subprocess.Popen. What is read from the
    environment at import was read before: such a case needs a Python of its own.
    """

    def __init__(
        self,
        function: Callable[..., None],
        arguments: tuple[Any, ...],
        env: Mapping[str, str],
        output: Path,
        errors: Path | None = None,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTED)
        given = function, arguments, dict(env), str(output), str(errors or output)
        self._process = context.Process(target=_call, args=given)
        os.environ["DS_ACCELERATOR"] = "cpu"  # looking for another takes DeepSpeed a while
        try:
            self._process.start()
        finally:
            del os.environ["DS_ACCELERATOR"]
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(str(self._process), timeout)
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()


def _call(
    function: Callable[..., None],
    arguments: tuple[Any, ...],
    env: dict[str, str],
    output: str,
    errors: str,
) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(env)
    for descriptor, path in ((1, output), (2, errors)):
        with open(path, "ab") as file:  # noqa: PTH123 (two may write to one file)
            os.dup2(file.fileno(), descriptor)
    function(*arguments)
