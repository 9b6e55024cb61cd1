"""Starting `agehpc train` in processes of its own, stopping it and comparing what it left."""

import json
import multiprocessing
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
from tests.ranks import ROOT, free_port

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
    """`python -m agehpc train` on some ranks, each in a process group of its own.

    `module` may be another one that ends in the command, and read what `env` adds.
    """

    def __init__(
        self,
        arguments: list[str],
        log: Path,
        world_size: int = 1,
        module: str = "agehpc",
        env: Mapping[str, str] | None = None,
    ) -> None:
        shared = {
            **os.environ,
            **(env or {}),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")]),
            "OMP_NUM_THREADS": "1",
        }
        if world_size > 1:
            shared |= {
                "WORLD_SIZE": str(world_size),
                "LOCAL_WORLD_SIZE": str(world_size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(free_port()),
            }
        self.logs = [log.with_suffix(f".{rank}.log") for rank in range(world_size)]
        self.processes: list[subprocess.Popen[bytes]] = []
        for rank, path in enumerate(self.logs):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if world_size > 1 else {}
            with path.open("wb") as file:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", module, "train", *arguments],
                        env={**shared, **own},
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
    """`agehpc train` on one rank, in a fork of a process that has imported everything.

    DeepSpeed keeps its process group for good, so each training needs a process; this one starts
    at once. `patch`, a function of a module, is called there first: it may break what is to break.
    Returns the exit code (negative for a signal), standard output and standard error.
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
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["agehpc.train.loop", "agehpc.train.command", "deepspeed"])
    logs = [log.with_suffix(f".{rank}.log") for rank in range(world_size)]
    shared = dict(env or {})
    if world_size > 1:
        shared |= {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    os.environ["DS_ACCELERATOR"] = "cpu"
    processes = []
    try:
        for rank, path in enumerate(logs):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if world_size > 1 else {}
            given = (arguments, str(path), patch, {**shared, **own})
            processes.append(context.Process(target=_train_in_child, args=given))
            processes[-1].start()
    finally:
        del os.environ["DS_ACCELERATOR"]
    deadline = time.monotonic() + timeout
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    late = [process for process in processes if process.exitcode is None]
    for process in late:
        process.kill()
        process.join()
    told = [(path.read_text(), path.with_suffix(".err").read_text()) for path in logs]
    assert not late, f"{arguments} did not end in {timeout} s: {told}"
    return [(p.exitcode or 0, *texts) for p, texts in zip(processes, told, strict=True)]


def _train_in_child(
    arguments: list[str], log: str, patch: Callable[[], None] | None, env: Mapping[str, str]
) -> None:
    for descriptor, path in ((1, Path(log)), (2, Path(log).with_suffix(".err"))):
        with path.open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    os.environ.update(env)
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
