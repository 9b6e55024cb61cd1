"""The files under a folder, and the name of a file's own."""

import os
from collections.abc import Iterator
from pathlib import Path

Identity = tuple[int, int]


def identity(path: Path) -> Identity | None:
    """Return what tells a folder from others whatever it is called; None where there is none."""
    try:
        about = path.stat()
    except FileNotFoundError:
        return None
    return about.st_dev, about.st_ino


def files_under(folder: Path, apart: frozenset[Identity | None] = frozenset()) -> Iterator[Path]:
    """Yield the files under a folder at any depth, but for the folders `apart` inside it.

    Links to folders are followed, except to one that holds them. OSError where a folder cannot be
    read: rglob would leave it out in silence, like the links.
    """
    within = apart | {identity(folder)}
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if identity(path) not in within:
                yield from files_under(path, within)
        elif path.is_file():
            yield path


def folder_name(path: Path) -> str:
    """Return the name of the folder that a file lies in; of a link, where it lies itself."""
    # Not resolved: stores that hold files by their checksum leave links in the folders of classes.
    return os.path.basename(os.path.dirname(os.path.abspath(path)))  # noqa: PTH100, PTH119, PTH120
