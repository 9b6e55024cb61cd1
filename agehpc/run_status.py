"""`agehpc status [RUN ...]`: how far runs are, and whether they are well. Without torch."""

import argparse
import contextlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from agehpc import heartbeat
from agehpc.config.run_files import NAME
from agehpc.errors import EXIT_DONE, RunError
from agehpc.observe.console import duration

DEPTH = 3
"""Folders below the one given in which runs are looked for."""
_INSIDE = {"checkpoints", "code", "logs", "samples", "tensorboard"}
_COLUMNS = ("run", "state", "age", "kimg", "samples/s", "eta", "checkpoint", "figure", "job", "why")


def main(argv: list[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="agehpc status", description="Show how far runs are, and whether they are well."
    )
    parser.add_argument("path", nargs="*", default=["."], help="runs, or folders that hold some")
    parser.add_argument("--json", action="store_true", help="print them as JSON")
    flags = parser.parse_args(argv)
    paths = [Path(path) for path in flags.path]
    found = [run for path in paths for run in find(path, DEPTH)]
    runs = list({run.resolve(): run for run in reversed(found)}.values())[::-1]
    if not runs:
        raise RunError(f"no run in {', '.join(flags.path)}: a run's directory holds {NAME}")
    rows = [row_of(run) for run in runs]
    queue = squeue(row["job"] for row in rows if row["job"])
    for row in rows:
        row["queue"] = queue.get(row["job"])
    sys.stdout.write(json.dumps(rows, indent=2) + "\n" if flags.json else table(rows))
    return EXIT_DONE


def find(path: Path, depth: int) -> Iterator[Path]:
    """The runs at a path or below it; RunError where there is no such folder.

    Folders below it that cannot be read, as those of other users, are passed over.
    """
    if not path.is_dir():
        raise RunError(f"{path} is no folder")
    if (path / NAME).is_file():
        yield path
    elif depth:
        for inner in sorted(path.iterdir()):
            if inner.name not in _INSIDE and not inner.name.startswith("."):
                with contextlib.suppress(PermissionError):
                    if inner.is_dir():
                        yield from find(inner, depth - 1)


def row_of(run: Path) -> dict[str, Any]:
    """What the files of a run tell of it; times in seconds."""
    beat = heartbeat.read(run) or {}
    state, why = heartbeat.state(run)
    alive = state == "running"
    names = sorted(p.parent.name for p in (run / "checkpoints").glob("step-*/manifest.json"))
    figure = heartbeat.last_row(run / "evaluations.jsonl") or {}
    return {
        "run": str(run),
        "state": state,
        "why": why,
        "age_s": time.time() - beat["time"] if beat else None,
        "phase": beat.get("phase") if alive else None,
        "step": beat.get("step"),
        "kimg": beat.get("kimg"),
        "total_kimg": beat.get("total_kimg"),
        "samples_per_s": beat.get("samples_per_s") if alive else None,
        "eta_s": beat.get("eta_s") if alive else None,
        "checkpoint": max(names, key=lambda name: (len(name), name), default=None),
        "figure": {k: figure.get(k) for k in ("metric", "value", "kimg")} if figure else None,
        "hosts": beat.get("hosts"),
        "job": beat.get("job") or _job_of(run),
    }


def _job_of(run: Path) -> str | None:
    """The newest job of a run that has not begun to train, by its log."""
    logs = [m[1] for p in (run / "logs").glob("slurm-*.out") if (m := re.search(r"(\d+)", p.name))]
    return max(logs, key=int, default=None)


def squeue(jobs: Iterable[str]) -> dict[str, str]:
    """The states of those jobs that Slurm knows; empty where it is not here."""
    wanted = sorted(set(jobs))
    if not wanted or shutil.which("squeue") is None:
        return {}
    command = ["squeue", "--noheader", "--states=all", "--format=%A|%T|%r"]
    try:
        done = subprocess.run(
            [*command, f"--jobs={','.join(wanted)}"], capture_output=True, text=True, timeout=20
        )
    except subprocess.TimeoutExpired:
        return {}
    found = {}
    for line in done.stdout.splitlines():  # an error, where all of them are over and forgotten
        job, state, reason = (*line.split("|", 2), "", "")[:3]
        found[job] = state if reason in ("None", "") else f"{state} ({reason})"
    return found


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as aligned lines; columns that are empty in all of them are left out."""
    cells = [_cells(row) for row in rows]
    kept = [name for name in _COLUMNS if any(row[name] for row in cells)]
    widths = {name: max(len(name), *(len(row[name]) for row in cells)) for name in kept}
    lines = [dict(zip(_COLUMNS, _COLUMNS, strict=True)), *cells]
    return "".join(
        "  ".join(f"{line[name]:<{widths[name]}}" for name in kept).rstrip() + "\n"
        for line in lines
    )


def _cells(row: dict[str, Any]) -> dict[str, str]:
    def shown(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    figure, kimg = row["figure"] or {}, ""
    value = figure.get("value")
    if isinstance(value, float | int):  # one that is not finite is written as a text
        value = format(value, ".4g")
    if row["kimg"] is not None:
        kimg = f"{row['kimg']:.{2 if row['total_kimg'] < 10 else 1}f}/{row['total_kimg']:g}"
    job = row["job"] or ""
    return {
        "run": row["run"],
        "state": f"{row['state']} ({row['phase']})" if row["phase"] else row["state"],
        "age": "" if row["age_s"] is None else duration(max(0.0, row["age_s"])),
        "kimg": kimg,
        "samples/s": shown(row["samples_per_s"], ".1f"),
        "eta": "" if row["eta_s"] is None else duration(row["eta_s"]),
        "checkpoint": row["checkpoint"] or "",
        "figure": f"{figure['metric']} {value}" if value is not None else "",
        "job": f"{job} {row['queue']}" if row.get("queue") else job,
        "why": row["why"].splitlines()[0][:100] if row["why"] else "",
    }
