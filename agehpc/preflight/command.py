"""`agehpc preflight`: whether a job's nodes are fit to train together, and which are not.

Run it as training is run: one task a rank, under srun or torchrun; alone it checks one machine.
Every rank tells what it sees; what differs from most, or does not do, is laid to its host.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from agehpc.cluster.environment import resolve
from agehpc.errors import EXIT_DONE, EXIT_FAILURE, LostRankError, UsageError
from agehpc.preflight.facts import gathered
from agehpc.preflight.judge import Finding, judge

if TYPE_CHECKING:  # torch takes seconds to import: --help goes without
    from agehpc.cluster.groups import Ranks


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
    timeout = timedelta(minutes=flags.timeout_minutes)
    everyone = gathered(ranks.env, out, flags.device, flags.mib, timeout)
    findings = judge(everyone, flags.device, flags.least_gb_s, flags.least_gib)
    return findings, len({told["host"] for told in everyone})


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
