"""What the facts of all ranks come to: which check fails, and on which hosts."""

import resource
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from agehpc.preflight.facts import GIB, Facts

MOST_SKEW_S = 1.0
LEAST_INODES = 10_000
LEAST_FILES = 1024


@dataclass(frozen=True)
class Finding:
    """What one check found; `hosts` are those that it fails on."""

    name: str
    status: Literal["ok", "warn", "fail"]
    text: str
    hosts: tuple[str, ...] = ()


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
