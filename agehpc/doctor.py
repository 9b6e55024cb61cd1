"""`agehpc doctor`: what of this machine would keep a run from training, and the fix for each.

Every check is a function that returns rows; none raises for what it is there to find.
"""

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from importlib import metadata
from pathlib import Path
from typing import Literal, get_args

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from agehpc.cluster.environment import resolve
from agehpc.errors import EXIT_DONE, EXIT_FAILURE, AgehpcError

Status = Literal["ok", "warn", "fail"]
GIB = 2**30
LEAST_DISK = 10 * GIB
LEAST_SHARED_MEMORY = GIB
TESTED_PYTHON = SpecifierSet(">=3.11,<3.14")


@dataclass(frozen=True)
class Row:
    """One finding; `fix` is empty where nothing needs one."""

    name: str
    status: Status
    text: str
    fix: str = ""


def main(argv: list[str]) -> int:
    """Run all checks; exit code 1 if one fails."""
    parser = argparse.ArgumentParser(
        prog="agehpc doctor",
        description="Check versions, devices, launcher, decoders, disk and memory of this machine.",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    as_json = parser.parse_args(argv).json
    rows = [row for check in CHECKS for row in check()]
    failed = any(row.status == "fail" for row in rows)
    if as_json:
        sys.stdout.write(json.dumps({"ok": not failed, "checks": list(map(asdict, rows))}) + "\n")
    else:
        sys.stdout.write(table(rows))
    return EXIT_FAILURE if failed else EXIT_DONE


def table(rows: list[Row]) -> str:
    """The findings as lines, a fix below each that needs one, and a count at the end."""
    width = max(len(row.name) for row in rows)
    lines = []
    for row in rows:
        lines.append(f"{row.status:<4}  {row.name:<{width}}  {row.text}")
        if row.fix:
            lines.append(f"{'':<{width + 6}}  fix: {row.fix}")
    counts = {s: sum(row.status == s for row in rows) for s in ("ok", "warn", "fail")}
    lines.append(", ".join(f"{count} {status}" for status, count in counts.items()))
    return "\n".join(lines) + "\n"


def python() -> list[Row]:
    """The interpreter's version."""
    version = platform.python_version()
    if version in TESTED_PYTHON:
        return [Row("python", "ok", version)]
    fix = "make the virtual environment with python3.11"
    return [Row("python", "warn", f"{version}, tested are {TESTED_PYTHON}", fix)]


def packages() -> list[Row]:
    """Installed versions against the ranges of agehpc's own metadata."""
    try:
        wanted = [Requirement(text) for text in metadata.requires("agehpc") or []]
    except metadata.PackageNotFoundError:
        return [Row("packages", "warn", "agehpc itself is not installed", "pip install -e .")]
    wanted = [r for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    rows = [_decord(next(r for r in wanted if r.name == "decord2"))]
    fine = []
    for requirement in wanted:
        version = _version(requirement.name)
        ask = f"pip install '{requirement.name}{requirement.specifier}'"
        if requirement.name == "decord2":
            continue
        if version is None:
            rows.append(Row(requirement.name, "fail", "not installed", ask))
        elif not requirement.specifier.contains(version, prereleases=True):
            text = f"{version}, tested are {requirement.specifier}"
            rows.append(Row(requirement.name, "warn", text, ask))
        else:
            fine.append(f"{requirement.name} {version}")
    return [*rows, Row("packages", "ok", f"in their tested ranges: {', '.join(fine)}")]


def _decord(requirement: Requirement) -> Row:
    """Return the row of the decoder, which two distributions install under one import name."""
    new, old = _version("decord2"), _version("decord")
    ask = f"pip install '{requirement.name}{requirement.specifier}'"
    if new is None and old is None:
        return Row("decord", "fail", "neither decord2 nor decord is installed", ask)
    if new is not None and old is not None:
        text = f"decord2 {new} and decord {old} overwrite each other's files"
        again = f"pip uninstall -y decord && pip install --force-reinstall --no-deps decord2=={new}"
        return Row("decord", "warn", text, again)
    if new is None:
        return Row("decord", "ok", f"decord {old} (decord2 is its maintained form)")
    if not requirement.specifier.contains(new, prereleases=True):
        return Row("decord", "warn", f"decord2 {new}, tested are {requirement.specifier}", ask)
    return Row("decord", "ok", f"decord2 {new}")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def devices() -> list[Row]:
    """GPUs that torch can use, and whether the machine has others."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return [Row("devices", "fail", f"torch does not load: {error}", "reinstall torch")]
    build = f"torch {torch.__version__} for " + (
        f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    if not usable:
        if not driver_present():
            return [Row("devices", "ok", f"no GPU, trains on the CPU ({build})")]
        reason = str(told[0].message).splitlines()[0] if told else "torch sees none of its GPUs"
        fix = "install the torch build for the driver that `nvidia-smi` shows, or update the driver"
        return [Row("devices", "fail", f"an NVIDIA driver is here, but {reason} ({build})", fix)]
    found = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
    names = ", ".join(f"{p.name} {p.total_memory / GIB:.0f} GiB" for p in found)
    rows = [Row("devices", "ok", f"{len(found)} GPUs: {names} ({build})")]
    if not torch.distributed.is_nccl_available():
        fix = "install torch's CUDA build for Linux from PyPI"
        rows.append(Row("nccl", "fail", "this torch has no NCCL, which joins GPUs", fix))
    return rows


def driver_present() -> bool:
    """Whether the machine has an NVIDIA driver, whatever torch makes of it."""
    return Path("/proc/driver/nvidia/version").exists()


def triton() -> list[Row]:
    """Whether the kernels' compiler is there; only GPUs need it."""
    if importlib.util.find_spec("triton") is not None:
        return [Row("triton", "ok", _version("triton") or "present")]
    if driver_present():
        fix = "pip install torch again: it brings its own triton"
        return [Row("triton", "warn", "absent: no fused kernels on this GPU", fix)]
    return [Row("triton", "ok", "absent, not needed without a GPU")]


def launcher() -> list[Row]:
    """Who this process is among its ranks."""
    try:
        env = resolve(os.environ)
    except AgehpcError as error:
        return [Row("launcher", "fail", str(error), "start ranks with srun or torchrun only")]
    if env.launcher == "single":
        inside = (
            " (in a Slurm job, but not started by srun)" if "SLURM_JOB_ID" in os.environ else ""
        )
        return [Row("launcher", "ok", f"one process{inside}")]
    place = f"rank {env.rank} of {env.world_size}, {env.local_world_size} on {env.hostname}"
    text = f"{env.launcher}: {place}, rendezvous {env.master_addr}:{env.master_port}"
    return [Row("launcher", "ok", text)]


def slurm() -> list[Row]:
    """Slurm's commands."""
    commands = ("sbatch", "srun", "scontrol")
    missing = [command for command in commands if shutil.which(command) is None]
    if not missing:
        return [_slurm_version()]
    if len(missing) == len(commands):
        return [Row("slurm", "ok", "not on this machine; `agehpc train` runs without it")]
    text = f"{', '.join(missing)} not on PATH, the others are"
    return [Row("slurm", "warn", text, "load the site's Slurm module, or complete PATH")]


def _slurm_version() -> Row:
    command = ["sbatch", "--version"]
    fix = "submit from a login node of the cluster, or set SLURM_CONF"
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return Row("slurm", "warn", "installed, but finds no cluster's configuration", fix)
    return Row("slurm", "ok", done.stdout.strip())


def decoders() -> list[Row]:
    """Encode a clip and decode it as training does."""
    reinstall = "pip install --force-reinstall --no-deps av decord2 simplejpeg"
    try:
        import numpy as np

        from agehpc.data import decode, video
    except (ImportError, OSError) as error:
        return [Row("decoders", "fail", f"they do not load: {error}", reinstall)]
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    clip_THWC = np.stack(
        [np.broadcast_to(np.roll(ramp, 4 * t)[:, None], (64, 64, 3)) for t in range(16)]
    )
    try:
        media = video.encode(list(clip_THWC), Fraction(16), gop=16, crf=20)
        back_NTHWC = [
            decode.decode_video(media, np.arange(16), 16, f"by {decoder}", 64, decoder)
            for decoder in get_args(decode.Decoder)
        ]
    except (AgehpcError, OSError, ValueError) as error:
        return [Row("decoders", "fail", f"a small H.264 clip did not survive: {error}", reinstall)]
    # A frame out of place is off by 10 grey levels or more, coding loss by about 2.
    error = max(float(np.abs(back.astype(int) - clip_THWC).mean()) for back in back_NTHWC)
    if error > 6:
        text = f"a decoded clip is off by {error:.0f} grey levels"
        return [Row("decoders", "fail", text, reinstall)]
    by = " and ".join(get_args(decode.Decoder))
    return [Row("decoders", "ok", f"libx264 encodes and {by} decode a clip")]


def disk() -> list[Row]:
    """Space in, and write access to, the current and the temporary folder."""
    return [_folder("disk here", Path.cwd()), _folder("disk temp", Path(tempfile.gettempdir()))]


def _folder(name: str, folder: Path) -> Row:
    move = "run from another folder" if name == "disk here" else "set TMPDIR to another folder"
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"x" * 4096)
    except OSError as error:
        return Row(name, "fail", f"{folder} cannot be written: {error.strerror}", move)
    free = shutil.disk_usage(folder).free
    text = f"{free / GIB:.1f} GiB free in {folder}"
    if free < LEAST_DISK:
        fix = f"{move}, or make room: shards and checkpoints are large"
        return Row(name, "warn", text, fix)
    return Row(name, "ok", text)


def shared_memory() -> list[Row]:
    """/dev/shm, through which ranks of a node talk."""
    folder = Path("/dev/shm")
    size = shutil.disk_usage(folder).total if folder.is_dir() else 0
    text = f"/dev/shm holds {size / GIB:.1f} GiB"
    if size < LEAST_SHARED_MEMORY:
        fix = "start the container with --shm-size=8g or --ipc=host"
        return [Row("shared memory", "warn", text, fix)]
    return [Row("shared memory", "ok", text)]


def cores() -> list[Row]:
    """The cores that this process may use."""
    mine, machine = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    text = f"{mine} of {machine} for this process"
    if "OMP_NUM_THREADS" in os.environ:
        text += f", OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}"
    if mine == 1 < machine and "SLURM_JOB_ID" in os.environ:
        fix = "ask for more with --cpus-per-task: Slurm gives a task one CPU otherwise"
        return [Row("cores", "warn", text, fix)]
    return [Row("cores", "ok", text)]


CHECKS: tuple[Callable[[], list[Row]], ...] = (
    python,
    packages,
    devices,
    triton,
    decoders,
    launcher,
    slurm,
    cores,
    shared_memory,
    disk,
)
