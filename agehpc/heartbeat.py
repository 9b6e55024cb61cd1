"""The heartbeat of a run: the state that it is in, as far as its files can tell. Without torch."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agehpc.errors import redact
from agehpc.files import write_text

NAME = "heartbeat.json"
LOG = "health.jsonl"
SILENT_S = 60.0
"""A heartbeat comes every few seconds: after this long without one the process is gone."""
_KINDS = (
    (float | int, ("time", "progressed", "total_kimg")),
    (float | int | None, ("step", "kimg", "samples_per_s", "eta_s", "hang_s")),
    (str, ("state",)),
    (str | None, ("why", "phase", "job")),
)


def write(run: Path, told: Mapping[str, Any]) -> None:
    """Write a heartbeat, atomically: null for what is not finite, no credentials. OSError."""

    def plain(value: Any) -> Any:
        if isinstance(value, str):  # errors of libraries quote URLs as they are
            return redact(value)
        return None if isinstance(value, float) and not math.isfinite(value) else value

    whole = {name: plain(value) for name, value in told.items()}
    write_text(run / NAME, json.dumps(whole) + "\n")


def read(run: Path) -> dict[str, Any] | None:
    """The heartbeat of a run; None where there is none that can be read, or it is damaged."""
    try:
        told = json.loads((run / NAME).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(told, dict):
        return None
    sound = all(isinstance(told.get(name), kind) for kind, names in _KINDS for name in names)
    return told if sound else None


def last_row(path: Path) -> dict[str, Any] | None:
    """The last whole row of a file of JSON lines, by its end alone; None where it has none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 65536))
            lines = file.read().rpartition(b"\n")[0].splitlines()
        row = json.loads(lines[-1])
    except (OSError, ValueError, IndexError):
        return None
    return row if isinstance(row, dict) else None


def state(run: Path, now: float | None = None) -> tuple[str, str]:
    """The state of a run, and why.

    `running`, `hung`, `stopped`, `done`, `diverged`, `failed`, or `unknown` where it has no
    heartbeat that can be read.
    """
    now = time.time() if now is None else now
    beat = read(run)
    if beat is None:
        return "unknown", f"no {NAME} that can be read"
    if beat["state"] != "running":
        return beat["state"], beat.get("why") or ""
    progressed = beat["progressed"]
    row = last_row(run / LOG)
    if row is not None and row.get("event") == "hang" and row.get("time", 0.0) > progressed:
        ranks = ", ".join(str(rank.get("rank")) for rank in row.get("ranks", []))
        return "hung", f"ended by its watchdog; rank {ranks} did not go on"
    if now - beat["time"] > SILENT_S:
        return "stopped", "killed, or its node failed"
    limit = beat.get("hang_s") or math.inf
    if now - progressed > limit:
        return "hung", f"no progress in {beat.get('phase')}"
    return "running", ""
