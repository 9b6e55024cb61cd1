"""`agehpc preflight`: whether a job's nodes are fit to train together, and which are not.

Run it as training is run: one task a rank, under srun or torchrun; alone it checks one machine.
Every rank tells what it sees; what differs from most, or does not do, is laid to its host.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from agehpc import __version__
from agehpc.cluster.environment import Environment, resolve
from agehpc.errors import EXIT_DONE, EXIT_FAILURE, AgehpcError, LostRankError, UsageError

if TYPE_CHECKING:  # torch takes seconds to import: --help goes without
    import torch

    from agehpc.cluster.groups import Ranks

Facts = dict[str, Any]
GIB = 2**30
MOST_SKEW_S = 1.0
LEAST_INODES = 10_000
LEAST_FILES = 1024
PACKAGES = ("torch", "deepspeed", "numpy", "av", "safetensors")


@dataclass(frozen=True)
class Finding:
    """What one check found; `hosts` are those that it fails on."""

    name: str
    status: Literal["ok", "warn", "fail"]
    text: str
    hosts: tuple[str, ...] = ()


def main(argv: list[str]) -> int:
    """Run the command on every rank; exit code 1 where a check fails."""
    flags = _flags(argv)
    env = resolve(os.environ)
    from agehpc.cluster.collectives import is_lost_rank
    from agehpc.cluster.groups import process_group

    try:
        with process_group(env, "cpu", 1, flags.timeout_minutes) as ranks:
            findings, hosts = check(ranks, Path(flags.out), flags)
    except RuntimeError as error:
        if not is_lost_rank(error):
            raise
        raise LostRankError(
            f"rank {env.rank} on {env.hostname} did not hear of all {env.world_size} ranks in "
            f"{flags.timeout_minutes:g} minutes ({str(error).splitlines()[0]}); see which tasks "
            "say nothing, and whether the nodes reach the first one's address and port"
        ) from None
    failed = any(finding.status == "fail" for finding in findings)
    if env.rank == 0:
        sys.stdout.write(_shown(findings, hosts, as_json=flags.json))
    return EXIT_FAILURE if failed else EXIT_DONE


def _flags(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="agehpc preflight",
        description="Check that a job's nodes are fit to train together: GPUs, all-reduce, clocks, "
        "disks, versions, limits. Start it on every rank, as training: slurm/preflight.sh.",
    )
    add = parser.add_argument
    add("--out", default=".", help="folder that runs are written in (default: this one)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="what ranks compute on")
    add("--mib", type=int, default=64, help="size of the all-reduce")
    add("--least-gb-s", type=float, default=0.0, help="least bus bandwidth, 1e9 bytes a second")
    add("--least-gib", type=float, default=10.0, help="least free space in --out and TMPDIR")
    add("--timeout-minutes", type=float, default=2.0, help="how long ranks wait for each other")
    add("--json", action="store_true", help="print the findings as JSON")
    flags = parser.parse_args(argv)
    if flags.mib < 1:
        raise UsageError(f"--mib {flags.mib}: an all-reduce is of 1 MiB at least")
    if not flags.timeout_minutes > 0:
        raise UsageError(f"--timeout-minutes {flags.timeout_minutes:g} must be more than 0")
    return flags


def check(ranks: "Ranks", out: Path, flags: argparse.Namespace) -> tuple[list[Finding], int]:
    """What all checks find, the same on all ranks, and the number of hosts. Collective."""
    import torch.distributed as dist

    env = ranks.env
    mine = facts(env, out, flags.device)
    mine["sees"] = _sees(env, out)
    mine["skew_s"] = _skew()
    everyone: list[Facts] = [mine] * env.world_size
    dist.all_gather_object(everyone, mine)
    whole = flags.device != "cpu" and all(told["gpu"] for told in everyone)
    timeout = timedelta(minutes=flags.timeout_minutes)
    everyone = _reduce(env, everyone, flags.mib, timeout, gpu=whole)
    findings = judge(everyone, flags.device, flags.least_gb_s, flags.least_gib)
    return findings, len({told["host"] for told in everyone})


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


def judge(
    everyone: Sequence[Facts], device: str, least_gb_s: float, least_gib: float
) -> list[Finding]:
    """What the facts of all ranks come to, a finding a check. Pure."""
    usual_s = statistics.median_low(f["skew_s"] for f in everyone)  # rank 0's clock may be wrong
    return [
        _judge_gpus(everyone, device),
        _judge_reduce(everyone, least_gb_s),
        _judge(
            "clocks",
            everyone,
            lambda f: abs(f["skew_s"] - usual_s) > MOST_SKEW_S,
            lambda f: f"{f['skew_s'] - usual_s:+.2f} s from the median",
            f"within {max(abs(f['skew_s'] - usual_s) for f in everyone):.3f} s of the median",
        ),
        *(_judge_folder(everyone, name, least_gib) for name in ("--out", "TMPDIR")),
        _judge(
            "shared --out",
            everyone,
            lambda f: not f["sees"],
            lambda f: "does not see the file that rank 0 wrote there",
            "all ranks see what rank 0 writes",
        ),
        _judge_versions(everyone),
        _judge(
            "open files",
            everyone,
            lambda f: 0 <= f["files"] < LEAST_FILES,
            lambda f: f"{f['files']} allowed (ulimit -n), {LEAST_FILES} wanted",
            f"{min(f['files'] for f in everyone)} allowed",
        ),
        _judge(
            "locked memory",
            everyone,
            lambda f: f["gpu"] is not None and f["locked"] != resource.RLIM_INFINITY,
            lambda f: f"{f['locked']} bytes allowed (ulimit -l): InfiniBand wants unlimited",
            "enough",
            status="warn",
        ),
    ]


def _judge(
    name: str,
    everyone: Iterable[Facts],
    bad: Callable[[Facts], bool],
    why: Callable[[Facts], str],
    fine: str,
    status: Literal["warn", "fail"] = "fail",
) -> Finding:
    wrong: dict[str, Facts] = {}
    for told in everyone:
        if bad(told):
            wrong.setdefault(told["host"], told)
    if not wrong:
        return Finding(name, "ok", fine)
    listed = "; ".join(f"{host}: {why(told)}" for host, told in list(wrong.items())[:4])
    more = f"; and {len(wrong) - 4} more hosts" if len(wrong) > 4 else ""
    return Finding(name, status, listed + more, tuple(wrong))


def _judge_gpus(everyone: Sequence[Facts], device: str) -> Finding:
    usual = Counter(f["gpu"] for f in everyone).most_common(1)[0][0]
    wanted = device == "cuda" or any(f["gpu"] for f in everyone)

    def bad(f: Facts) -> bool:
        return f["gpu_error"] is not None or f["gpu"] != usual or (wanted and f["gpu"] is None)

    def why(f: Facts) -> str:
        seen = f["gpu"] or "no GPU that torch can use"
        return f"rank {f['rank']} has {f['gpu_error'] or seen}, most have {usual or 'none'}"

    fine = f"{len(everyone)} ranks with {usual or 'no GPU: they compute on the CPU'}"
    return _judge("GPUs", everyone, bad, why, fine)


def _judge_reduce(everyone: Sequence[Facts], least_gb_s: float) -> Finding:
    world = len(everyone)
    first = everyone[0]["reduce"]
    slowest = max(f["reduce"]["seconds"] for f in everyone)
    moved = 2 * (world - 1) / world * first["bytes"]
    speed = moved / slowest / 1e9 if world > 1 else 0.0
    told = f"right, {first['bytes'] / 2**20:.0f} MiB over {first['backend']}"
    told += f" at {speed:.2f} GB/s of bus bandwidth" if world > 1 else " (one rank)"
    found = _judge(
        "all-reduce",
        everyone,
        lambda f: not f["reduce"]["right"],
        lambda f: f"rank {f['rank']} got a wrong sum",
        told,
    )
    if found.status == "ok" and world > 1 and speed < least_gb_s:
        return Finding("all-reduce", "fail", f"{told}, --least-gb-s is {least_gb_s:g}")
    return found


def _judge_folder(everyone: Sequence[Facts], name: str, least_gib: float) -> Finding:
    def folder(f: Facts) -> Facts:
        return f["folders"][name]

    def why(f: Facts) -> str:
        here = folder(f)
        if here["error"]:
            return f"{here['path']} cannot be written ({here['error']})"
        inodes = "" if here["inodes"] is None else f", {here['inodes']} inodes"
        return f"{here['path']} has {here['free'] / GIB:.1f} GiB{inodes} free"

    def bad(f: Facts) -> bool:
        here = folder(f)
        if here["error"]:
            return True
        few = here["inodes"] is not None and here["inodes"] < LEAST_INODES
        return few or here["free"] < least_gib * GIB

    sound = [f for f in everyone if not folder(f)["error"]]
    least = min(sound, key=lambda f: folder(f)["free"], default=everyone[0])
    return _judge(f"disk {name}", everyone, bad, why, why(least))


def _judge_versions(everyone: Sequence[Facts]) -> Finding:
    usual = {
        name: Counter(f["versions"][name] for f in everyone).most_common(1)[0][0]
        for name in everyone[0]["versions"]
    }

    def why(f: Facts) -> str:
        others = [(n, v) for n, v in f["versions"].items() if v != usual[n]]
        return ", ".join(f"{n} {v}, most have {usual[n]}" for n, v in others)

    fine = ", ".join(f"{n} {usual[n]}" for n in ("agehpc", "python", "torch", "deepspeed"))
    return _judge("versions", everyone, lambda f: f["versions"] != usual, why, f"equal: {fine}")


def _shown(findings: Sequence[Finding], hosts: int, *, as_json: bool) -> str:
    bad = sorted({host for f in findings if f.status == "fail" for host in f.hosts})
    failed = any(f.status == "fail" for f in findings)
    if as_json:
        told = {"ok": not failed, "bad_hosts": bad, "checks": [asdict(f) for f in findings]}
        return json.dumps(told) + "\n"
    width = max(len(f.name) for f in findings)
    lines = [f"{f.status:<4}  {f.name:<{width}}  {f.text}" for f in findings]
    if 0 < len(bad) < hosts:
        lines.append(f"leave these hosts out: --exclude={','.join(bad)}")
    return "\n".join(lines) + "\n"
