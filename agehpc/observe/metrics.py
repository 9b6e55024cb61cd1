"""metrics.jsonl and evaluations.jsonl: one JSON object a line, cut back when a run resumes.

Floats are written in full (reading gives the same bits). NaN and infinities, which JSON does not
have, are written as the strings "NaN", "Infinity" and "-Infinity" and read back as floats.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from agehpc.errors import RunError
from agehpc.files import atomic_path

Row = dict[str, Any]

_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class MetricsLog:
    """Appends rows to a file; opening it drops a last line that a killed run left torn."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.exists():
            self._keep(_lines(self.path))
        self._file = self.path.open("ab")

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row and hand it to the operating system."""
        self._file.write(encode(row))
        self._file.flush()

    def sync(self) -> None:
        """Force the rows to the disk: before a checkpoint that counts on them is completed."""
        os.fsync(self._file.fileno())

    def cut_back(self, step: int) -> int:
        """Drop the rows after a checkpoint's step, atomically; return how many went."""
        self._file.close()
        try:
            lines = _lines(self.path)
            kept = [
                line
                for number, line in enumerate(lines, 1)
                if _decode(line, self.path, number)["step"] <= step
            ]
            self._keep(kept)
        finally:
            self._file = self.path.open("ab")
        return len(lines) - len(kept)

    def close(self) -> None:
        """Force the rows to the disk and close the file."""
        self.sync()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _keep(self, lines: list[bytes]) -> None:
        content = b"".join(lines)
        if self.path.stat().st_size != len(content):
            with atomic_path(self.path) as temporary:
                temporary.write_bytes(content)


def encode(row: Mapping[str, Any]) -> bytes:
    """Return a row as one line of JSON."""
    text = json.dumps({key: _plain(value) for key, value in row.items()}, allow_nan=False)
    return text.encode() + b"\n"


def read(path: str | Path) -> list[Row]:
    """Return the rows of a file without a torn last line; RunError for any other damage."""
    path = Path(path)
    return [_decode(line, path, number) for number, line in enumerate(_lines(path), 1)]


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _lines(path: Path) -> list[bytes]:
    """Return the complete lines of a file: one without its end was being written."""
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def _decode(line: bytes, path: Path, number: int) -> Row:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise RunError(
            f"{path}, line {number} is not a JSON object: {line[:60]!r}; "
            "delete the line, or the run directory if more of it is damaged"
        )
    return {
        key: _NOT_FINITE.get(value, value) if isinstance(value, str) else value
        for key, value in row.items()
    }
