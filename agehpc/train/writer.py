"""Checkpoints on their way to the disk beside training.

The step waits only for a copy of the tensors; a thread hashes, writes, forces to the disk and gives
the checkpoint its name. One is on its way at a time. What goes wrong there is raised on every rank
the next time they ask, which they do at every tick, before a save and before they leave.
"""

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from agehpc import checkpoints
from agehpc.cluster.collectives import agreed, together
from agehpc.cluster.environment import Environment
from agehpc.config.training import TrainConfig
from agehpc.errors import RunError
from agehpc.observe.console import Console, size

LOGGER = logging.getLogger("agehpc")
Tensors = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class _Written:
    """A checkpoint that is complete."""

    path: Path
    size: int
    seconds: float
    copied: bool
    note: str


class Writer:
    """Writes the checkpoints of a run; `settle` is collective, and making one.

    Args:
        run: the run directory.
        train: says whether and where checkpoints are written beside training.
        env: this rank's place; rank 0 writes.
        console: is told of every checkpoint that is complete.
        beat: called after each file that is written.
    """

    def __init__(
        self,
        run: Path,
        train: TrainConfig,
        env: Environment,
        console: Console,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._run, self._beside, self._console = run, train.async_save, console
        self._beat = beat
        self._folder = run / "checkpoints"
        self._staged = train.staging is not None
        if train.staging is not None:
            self._folder = _staging_of(run, Path(train.staging))
            # Left by a process that was killed, on whichever node wrote then.
            agreed(lambda: _clear(self._folder) if env.local_rank == 0 else None)
            together(lambda: _make(self._folder))
        self._thread = ThreadPoolExecutor(1, "checkpoint") if env.rank == 0 else None
        self._writing: Future[_Written] | None = None

    def start(
        self,
        step: int,
        tensors: Tensors,
        state: Mapping[str, Any],
        about: Mapping[str, Mapping[str, str]],
        finish: Callable[[Path], None],
        note: str = "",
    ) -> None:
        """Begin to write a checkpoint; rank 0 calls it, once the last one is settled.

        Arguments as for :func:`agehpc.checkpoints.fill`; `finish` is called with the checkpoint's
        directory once it is complete, `note` follows its name when that is said.
        """
        assert self._writing is None
        assert self._thread is not None
        began = time.monotonic()
        held = {file: dict(values) for file, values in tensors.items()}
        if self._beside:  # training changes its tensors in place
            for values in held.values():
                for name, tensor in values.items():
                    values[name] = tensor.detach().to("cpu", copy=True)
        total = sum(t.numel() * t.element_size() for v in held.values() for t in v.values())

        def fill() -> Path:
            filled = checkpoints.fill(self._folder, step, held, state, about, self._beat)
            held.clear()
            return filled

        def complete(filled: Path | None) -> _Written:
            path = checkpoints.publish(self._run, step, filled or fill(), self._beat)
            finish(path)
            return _Written(path, total, time.monotonic() - began, self._beside, note)

        early = fill() if self._staged and not self._beside else None
        self._writing = self._thread.submit(complete, early)
        if not self._beside and not self._staged:
            self._writing.exception()  # waits; settle raises it

    def settle(self, *, wait: bool) -> None:
        """Say what has been written since the last call, or raise what went wrong. Collective.

        With `wait` none is on its way afterwards.
        """
        done = together(lambda: self._take(wait))
        if done is not None:
            how = " from a copy in memory" if done.copied else ""
            self._console.say(
                f"saved {done.path}{done.note} ({size(done.size)} in {done.seconds:.1f} s{how})"
            )

    def _take(self, wait: bool) -> _Written | None:
        if self._writing is None or not (wait or self._writing.done()):
            return None
        writing, self._writing = self._writing, None
        return writing.result()

    def close(self) -> None:
        """Wait for what is on its way; what goes wrong there is logged. Not collective."""
        if self._thread is None:
            return
        self._thread.shutdown()
        if self._writing is not None and (error := self._writing.exception()) is not None:
            LOGGER.error("the last checkpoint was not written: %s", error)
        if self._staged:
            shutil.rmtree(self._folder, ignore_errors=True)


def _staging_of(run: Path, staging: Path) -> Path:
    """A run's own folder in what other runs, and other users, may stage in too."""
    return staging / f"agehpc-{hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:16]}"


def _clear(folder: Path) -> None:
    if folder.exists():
        _refuse_others(folder)
        shutil.rmtree(folder)


def _make(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    _refuse_others(folder)


def _refuse_others(folder: Path) -> None:
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        raise RunError(
            f"--train.staging: {folder} belongs to another user; remove it, or name another folder"
        )
