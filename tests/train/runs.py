"""Starting `agehpc train` in processes of its own, stopping it and comparing what it left."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from agehpc import checkpoints, cli
from agehpc.train.recorder import WALL_CLOCK
from tests.forks import Fork
from tests.ranks import ROOT, alone, environments

RECIPE = "video_age_demo"
STEPS, BATCH, SAVE_EVERY = 30, 4, 5
KIMG = STEPS * BATCH / 1000


def flags(shards: Path, out: Path, *more: str) -> list[str]:
    """Arguments of `agehpc train` for a tiny run."""
    networks = [
        f"--model.{name}.{key}={value}"
        for name in ("encoder", "generator", "discriminator")
        for key, value in (("width", 4), ("max-width", 16), ("norm", "sync_batch"))
    ]
    return [
        RECIPE,
        *("--data.shards", str(shards), "--out", str(out)),
        *("--data.size", "28", "--data.frames", "8", "--data.shift", "1", "--data.colour", "0.1"),
        *("--model.latent", "8", "--model.latent-discriminator.width", "16", *networks),
        *("--system.r1-gamma", "1", "--system.r1-every", "4"),
        *("--system.latent-noise", "0.1"),
        *("--system.warmup-kimg", "0.028", "--system.adversarial-ramp-kimg", "0.1"),
        *("--train.global-batch", str(BATCH), "--train.kimg", str(KIMG)),
        *("--train.save-every-kimg", str(SAVE_EVERY * BATCH / 1000), "--train.keep-last", "100"),
        *("--train.max-minutes", "none"),
        *("--observe.tick-kimg", "0.012", "--observe.samples-every-kimg", "0.08"),
        *("--observe.grid", "2", "--observe.tensorboard", "False"),
        *("--evaluate.every-kimg", "0.06", "--evaluate.samples", "4"),
        # Averages remember: one that was not restored shows.
        *("--players.critics.ema.half-life-kimg", "0.05", "--players.critics.ema.ramp-up", "9"),
        *("--players.autoencoder.ema.ramp-up", "9"),
        *more,
    ]


# Every term of the objectives; kinks turn rounding into differences, so bits alone are compared.
KINKED = ["--system.feature-weight", "1"]
# Where a run is compared with one whose rounding differs.
SMOOTH = ["--system.reconstruction", "mse"] + [
    f"--model.{name}.slope=1" for name in ("encoder", "generator", "discriminator")
]


def stages(autoencoder: int, critics: int) -> list[str]:
    """Flags of the players' ZeRO stages."""
    return [
        *("--players.autoencoder.zero.stage", str(autoencoder)),
        *("--players.critics.zero.stage", str(critics)),
    ]


@dataclass
class Ended:
    """A training that is over: exit codes and what the ranks wrote."""

    codes: list[int]
    output: str


class Training:
    """`agehpc train` on some ranks, each in a process and session of its own.

    Forks of a process that has imported everything, which start at once; with a `module`, `python
    -m module train`: agehpc itself, or another that ends in the command. `env` is added to the
    environment. `patch`, a function of a module, is called in a fork first: it may break what is to
    break.
    """

    def __init__(
        self,
        arguments: list[str],
        log: Path,
        world_size: int = 1,
        *,
        module: str | None = None,
        env: Mapping[str, str] | None = None,
        patch: Callable[[], None] | None = None,
    ) -> None:
        self.logs = [log.with_suffix(f".{rank}.log") for rank in range(world_size)]
        self.processes: list[subprocess.Popen[bytes] | Fork] = []
        of_ranks = environments(world_size) if world_size > 1 else [alone()]
        for own, path in zip(of_ranks, self.logs, strict=True):
            own |= env or {}
            path.unlink(missing_ok=True)
            if module is None:
                self.processes.append(Fork(_train, (arguments, patch), own, path))
                continue
            assert patch is None
            command = [sys.executable, "-m", module, "train", *arguments]
            with path.open("wb") as file:
                self.processes.append(
                    subprocess.Popen(
                        command,
                        env=own,
                        cwd=ROOT,
                        stdout=file,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )

    def wait_for(self, path: Path, timeout: float = 480) -> None:
        """Wait until a file is there; an error if the training ends before."""
        deadline = time.monotonic() + timeout
        while not path.exists():
            over = [p for p in self.processes if p.poll() is not None]
            assert not over, f"ended before {path}:\n{self.output()}"
            assert time.monotonic() < deadline, f"no {path}:\n{self.output()}"
            time.sleep(0.01)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process group of every rank."""
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, number)

    def end(self, timeout: float = 480) -> Ended:
        """Wait for the end."""
        try:
            codes = [process.wait(timeout) for process in self.processes]
        finally:
            self.signal(signal.SIGKILL)
        return Ended(codes, self.output())

    def output(self) -> str:
        """What the ranks have written so far."""
        return "\n".join(path.read_text(errors="replace") for path in self.logs)


def train_in_fork(
    arguments: list[str], log: Path, timeout: float = 480, patch: Callable[[], None] | None = None
) -> tuple[int, str, str]:
    """`agehpc train` on one rank, in a fork as those of Training.

    DeepSpeed keeps its process group for good, so each training needs a process. Returns the exit
    code (negative for a signal), standard output and standard error.
    """
    (ended,) = train_in_forks(arguments, log, 1, timeout, patch)
    return ended


def train_in_forks(
    arguments: list[str],
    log: Path,
    world_size: int,
    timeout: float = 480,
    patch: Callable[[], None] | None = None,
    env: Mapping[str, str] | None = None,
) -> list[tuple[int, str, str]]:
    """The same on some ranks, with more in their environment."""
    of_ranks = environments(world_size) if world_size > 1 else [alone()]
    started = []
    for rank, own in enumerate(of_ranks):
        files = [log.with_suffix(f".{rank}{suffix}") for suffix in (".log", ".err")]
        for path in files:
            path.unlink(missing_ok=True)
        started.append((Fork(_train, (arguments, patch), own | (env or {}), *files), files))
    try:
        codes = [process.wait(timeout) for process, _ in started]
    finally:
        for process, _ in started:
            process.kill()
            process.wait()
    texts = [[path.read_text() for path in files] for _, files in started]
    return [(code, *told) for code, told in zip(codes, texts, strict=True)]  # type: ignore[misc]


def _train(arguments: list[str], patch: Callable[[], None] | None) -> None:
    if patch is not None:
        patch()
    sys.exit(cli.main(["train", *arguments]))


def manifest(run: Path, step: int) -> Path:
    """The file that completes a checkpoint."""
    return run / "checkpoints" / f"step-{step:08d}" / "manifest.json"


def tensors(checkpoint: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint, as file/name."""
    files = sorted(checkpoint.glob("*.safetensors"))
    return {f"{f.stem}/{name}": t for f in files for name, t in load_file(f).items()}


def newest(run: Path) -> Path:
    """The newest checkpoint of a run that has one."""
    found = checkpoints.newest(run)
    assert found is not None
    return found


def state(checkpoint: Path) -> dict[str, Any]:
    """The counters of a checkpoint, without the world's size."""
    told = json.loads((checkpoint / "state.json").read_text())
    del told["world_size"]
    return told


def rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics file without what depends on the clock."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in WALL_CLOCK} for row in found]
