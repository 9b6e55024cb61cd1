"""Adding rows to the CSV files under benchmarks/results."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agehpc.errors import UsageError
from agehpc.files import write_text


def append(path: Path, columns: Sequence[str], rows: list[dict[str, Any]]) -> None:
    """Add rows to a CSV, atomically; its header is written with the first call."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    writer.writeheader()
    header = text.getvalue()
    if before and not before.startswith(header):
        raise UsageError(f"{path} has other columns than this script writes: name another --out")
    writer.writerows(rows)
    added = text.getvalue().removeprefix(header) if before else text.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, before + added)
