"""The process group of a run, its device and its threads."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist

from agehpc.cluster.environment import Environment
from agehpc.errors import ConfigError


@dataclass(frozen=True)
class Ranks:
    """This process's place and the device it computes on."""

    env: Environment
    device: torch.device


@contextmanager
def process_group(
    env: Environment,
    device_setting: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int = 0,
    timeout_minutes: float = 10.0,
    destroy: Callable[[], None] = dist.destroy_process_group,
) -> Iterator[Ranks]:
    """The process group of all ranks: gloo for CPU tensors, NCCL for CUDA tensors.

    A world of one has a group too, so that one process and many run the same code. While entered,
    torchrun's variables are set for the libraries that read them, and torch computes with
    `threads` threads (0: the cores this rank may use, shared with the ranks that may use them
    too). The group is destroyed at exit by `destroy`, on an error without waiting for the other
    ranks.
    ConfigError if a device is asked for that is not there. Collective.
    """
    device = choose_device(env, device_setting)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    variables_before = {name: os.environ.get(name) for name in env.variables()}
    threads_before = torch.get_num_threads()
    os.environ.update(env.variables())
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            init_method=f"tcp://{env.master_addr}:{env.master_port}",
            rank=env.rank,
            world_size=env.world_size,
            timeout=timedelta(minutes=timeout_minutes),
            device_id=device if device.type == "cuda" else None,
        )
        failed = True
        try:
            torch.set_num_threads(threads or share_of_cores())
            yield Ranks(env, device)
            failed = False
        finally:
            if failed:
                _abort()
            destroy()
    finally:
        torch.set_num_threads(threads_before)
        _restore(variables_before)


def choose_device(env: Environment, setting: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device of this rank: the GPU of its local rank where there is one and it is wanted."""
    if setting == "cpu" or (setting == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise ConfigError(
            "--cluster.device cuda, but torch sees no GPU; use --cluster.device auto or cpu, "
            "or ask the job for GPUs (sbatch --gpus-per-node=N); `agehpc doctor` shows the driver"
        )
    # A site may show each task its own GPU only: then every rank's GPU has number 0.
    index = 0 if count == 1 and env.launcher == "slurm" else env.local_rank
    if index >= count:
        raise ConfigError(
            f"local rank {env.local_rank} of {env.local_world_size} has no GPU: torch sees {count} "
            f"on {env.hostname}; start one rank per GPU, or use --cluster.device cpu"
        )
    return torch.device("cuda", index)


def share_of_cores() -> int:
    """Cores this rank may compute with, at least 1. Collective.

    Ranks that Slurm bound to their own cores keep them all; ranks that see the same cores share.
    """
    mine = (os.uname().nodename, os.sched_getaffinity(0))
    everyone: list[tuple[str, set[int]]] = [mine] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    here = [cores for host, cores in everyone if host == mine[0]]
    share = sum(1 / sum(core in cores for cores in here) for core in mine[1])
    # The small term undoes rounding in sums like 3 * 1/3.
    return max(1, int(share + 1e-6))


def _abort() -> None:
    """Let a shutdown of NCCL not wait for its peers: after an error they may never come."""
    world = dist.group.WORLD
    if world is not None and "nccl" in dist.get_backend_config(world):
        world.abort()


def _restore(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
