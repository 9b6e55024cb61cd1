"""Preparing a run directory: is it free, is it this run's, where does it go on from."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from agehpc import checkpoints
from agehpc.config.run_files import NAME, is_same_run, write_run_config
from agehpc.config.schema import Config
from agehpc.errors import RunError
from agehpc.files import LOCK, locked
from agehpc.observe import environment
from agehpc.soundness import newest_sound
from agehpc.train import rollback

BEFORE = (LOCK, "logs", "control", "code", "submit.sh")
"""What a run directory may hold before its first start."""


@contextlib.contextmanager
def opened(
    run: Path, config: Config, hosts: list[str], say: Callable[[str], None]
) -> Iterator[Path | None]:
    """Hold a run directory for one training process at a time. Rank 0 calls it.

    Yields the checkpoint to resume from, verified, or None for a new run; `say` is told of damaged
    ones, which are passed over and moved aside.

    Raises:
        RunError: the directory holds another run, other files, or is being trained in; all its
            checkpoints are damaged.
        OSError: as the file system does.
    """
    check(run, config)
    run.mkdir(parents=True, exist_ok=True)
    with locked(run, "trained in"):
        (run / "control").mkdir(exist_ok=True)
        checkpoints.sweep(run)
        rollback.discard(run)
        newest = newest_sound(run, lambda text: say(f"warning: {text}"), repair=True)
        write_run_config(run, config)
        environment.write(run / "environment.json", environment.describe(hosts))
        yield newest


def check(run: Path, config: Config) -> None:
    """Raise RunError unless the directory is new, empty or this run's own. Writes nothing."""
    if run.exists() and not run.is_dir():
        raise RunError(f"--out {run} is a file; give a directory")
    if not is_same_run(run, config) and run.is_dir():
        others = sorted(p.name for p in run.iterdir() if p.name not in BEFORE)
        if others:
            raise RunError(
                f"--out {run} holds {others[0]} but no {NAME}: it is no run directory; "
                "give a new or empty one"
            )
