"""What every rank sees of its machine, and what all see together."""

import os
import platform
import resource
import tempfile
import time
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agehpc import __version__
from agehpc.cluster.environment import Environment
from agehpc.errors import AgehpcError

if TYPE_CHECKING:
    import torch

Facts = dict[str, Any]
GIB = 2**30
PACKAGES = ("torch", "deepspeed", "numpy", "av", "safetensors")


def gathered(env: Environment, out: Path, device: str, mib: int, timeout: timedelta) -> list[Facts]:
    """The facts of all ranks, the same on all of them. Collective.

    Args:
        env: this rank's place.
        out: folder that runs are written in.
        device: auto, cpu or cuda.
        mib: size of the all-reduce.
        timeout: of NCCL's group.
    """
    import torch.distributed as dist

    mine = facts(env, out, device)
    mine["sees"] = _sees(env, out)
    mine["skew_s"] = _skew()
    everyone: list[Facts] = [mine] * env.world_size
    dist.all_gather_object(everyone, mine)
    whole = device != "cpu" and all(told["gpu"] for told in everyone)
    return _reduce(env, everyone, mib, timeout, gpu=whole)


def facts(env: Environment, out: Path, device: str) -> Facts:
    """What a rank sees of its machine. Not collective."""
    folders = {"--out": out, "TMPDIR": Path(tempfile.gettempdir())}
    return {
        "rank": env.rank,
        "host": env.hostname,
        **_gpu(env, device),
        "versions": _versions(),
        "folders": {name: _folder(path) for name, path in folders.items()},
        "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "locked": resource.getrlimit(resource.RLIMIT_MEMLOCK)[0],
    }


def _gpu(env: Environment, device: str) -> Facts:
    import torch

    from agehpc.cluster.groups import choose_device

    try:
        chosen = choose_device(env, "cpu" if device == "cpu" else "auto")
        if chosen.type == "cpu":
            return {"gpu": None, "gpu_error": None}
        about = torch.cuda.get_device_properties(chosen)
        torch.ones(8, device=chosen).sum().item()  # a GPU that is listed need not compute
    except (AgehpcError, RuntimeError) as error:
        return {"gpu": None, "gpu_error": str(error).splitlines()[0]}
    return {"gpu": f"{about.name} {about.total_memory / GIB:.0f} GiB", "gpu_error": None}


def _versions() -> dict[str, str]:
    import torch

    from agehpc.observe.environment import revision

    found = {"agehpc": __version__, "python": platform.python_version()}
    found["revision"] = str(revision())
    found["cuda"] = str(torch.version.cuda)
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def _there(path: Path) -> Path:
    """The folder, or the nearest above it that is there. OSError."""
    there = path.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    return there


def _folder(path: Path) -> Facts:
    try:
        there = _there(path)
        with tempfile.NamedTemporaryFile(dir=there) as file:
            file.write(b"x" * 4096)
            file.flush()
        system = os.statvfs(there)
    except OSError as error:
        return {"path": str(path), "error": error.strerror or str(error)}
    inodes = system.f_favail if system.f_files else None  # some file systems count none
    free = system.f_bavail * system.f_frsize
    return {"path": str(path), "error": None, "free": free, "inodes": inodes}


def _sees(env: Environment, out: Path) -> bool:
    """Whether this rank sees what rank 0 writes where runs are written. Collective."""
    from agehpc.cluster.collectives import barrier, broadcast_object

    token = None
    if env.rank == 0:
        try:
            descriptor, token = tempfile.mkstemp(prefix=".agehpc-preflight-", dir=_there(out))
            os.close(descriptor)
        except OSError:
            token = None  # said by the check of folders
    token = broadcast_object(token)
    seen = token is None or os.path.exists(token)  # noqa: PTH110 (no error where it is closed)
    barrier()
    if env.rank == 0 and token is not None:
        Path(token).unlink()
    return seen


def _skew() -> float:
    """Seconds that this rank's clock is ahead of rank 0's, to milliseconds. Collective."""
    from agehpc.cluster.collectives import barrier, broadcast_object

    offsets = []
    for _ in range(5):
        barrier()
        now = time.time()
        offsets.append(now - broadcast_object(now))
    return min(offsets, key=abs)


def _reduce(
    env: Environment, everyone: list[Facts], mib: int, timeout: timedelta, *, gpu: bool
) -> list[Facts]:
    """The facts with a checked and timed all-reduce: over NCCL with GPUs, else gloo. Collective."""
    import torch
    import torch.distributed as dist

    from agehpc.cluster.groups import choose_device

    device, group = torch.device("cpu"), dist.group.WORLD
    if gpu:
        device = choose_device(env, "cuda")
        torch.cuda.set_device(device)
        group = dist.new_group(backend="nccl", timeout=timeout)
        assert isinstance(group, dist.ProcessGroup)
    told = {"right": True, "seconds": 0.0, "backend": "nccl" if gpu else "gloo"}
    count = mib * 2**20 // 4
    ramp_N = (torch.arange(count, device=device) % 1009).float()
    world = env.world_size
    sum_N = world * ramp_N + world * (world - 1) / 2
    times = []
    for _ in range(4):  # the first one makes the connections
        x_N = ramp_N + env.rank
        _wait(device)
        started = time.perf_counter()
        dist.all_reduce(x_N, group=group)
        _wait(device)
        times.append(time.perf_counter() - started)
        told["right"] = bool(told["right"]) and bool(torch.equal(x_N, sum_N))
    told["seconds"] = min(times[1:])
    told["bytes"] = 4 * count
    results: list[Facts] = [told] * world
    dist.all_gather_object(results, told)
    return [known | {"reduce": result} for known, result in zip(everyone, results, strict=True)]


def _wait(device: "torch.device") -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
