"""environment.json: the versions, code and machines behind a run's figures.

Never the process environment: it holds people's keys.
"""

import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from agehpc import __version__
from agehpc.errors import redact
from agehpc.files import write_text

PACKAGES = ("torch", "triton", "deepspeed", "webdataset", "decord2", "decord", "av", "numpy")
"""Distributions whose versions a figure may depend on."""


REVISION = "revision"
"""File beside the package in a snapshot of the code."""


def describe(hosts: Sequence[str] = ()) -> dict[str, Any]:
    """Return what is known of this process's machine; `hosts` are all nodes of the run."""
    import torch

    devices = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    return {
        "agehpc": __version__,
        "revision": revision(),
        "python": platform.python_version(),
        "packages": {name: v for name in PACKAGES if (v := _version(name)) is not None},
        "cuda": torch.version.cuda,
        "platform": platform.platform(),
        "hosts": list(hosts) or [socket.gethostname()],
        "devices": devices,
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "command": [Path(sys.argv[0]).name, *map(redact, sys.argv[1:])],
    }


def write(path: str | Path, description: dict[str, Any]) -> None:
    """Write a description as JSON, atomically."""
    write_text(path, json.dumps(description, indent=2) + "\n")


def revision() -> str | None:
    """Return the git revision of a checkout, "-dirty" after it if files changed; else None.

    The snapshot of a run's code keeps it in a file.
    """
    package = Path(__file__).resolve().parents[1]
    kept = package.parent / REVISION
    if kept.is_file():
        return kept.read_text().strip()
    # An installed copy may lie inside somebody else's repository: only tracked files count.
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    head, changes = _git(package, "rev-parse", "HEAD"), _git(package, "status", "--porcelain")
    return None if head is None else head + ("-dirty" if changes else "")


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    """Return the processor's model name where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
