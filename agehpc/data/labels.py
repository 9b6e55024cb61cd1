"""Classes: of which a sample is, and their names in order."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from agehpc.errors import UsageError


class Labelled(Protocol):
    """What may have a class."""

    @property
    def label(self) -> str | None:
        """The class that the file itself names."""
        ...

    @property
    def folder(self) -> str:
        """Name of the folder that it lies in."""
        ...


def label_of(sources: Sequence[Labelled]) -> list[str | None]:
    """Return the class of each source.

    It is what the files themselves say, where any does. Otherwise it is the name of the source's
    folder; one folder alone says nothing. UsageError for a name that no manifest can hold.
    """
    labels = [source.label for source in sources]
    if all(label is None for label in labels):
        folders = [source.folder for source in sources]
        if len(set(folders)) < 2:
            return labels
        labels = [folder or None for folder in folders]
    for label in set(labels) - {None}:
        try:
            str(label).encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"the class {label!r} is not text in UTF-8: rename its folder, or set --labels none"
            ) from None
    return labels


def class_names(labels: Iterable[str | None]) -> tuple[str, ...]:
    """Return the names of the classes in order: of numbers where all are."""
    names = {label for label in labels if label is not None}
    return tuple(sorted(names, key=int if all(map(_is_number, names)) else None))


def _is_number(name: str) -> bool:
    """Tell whether a name is a whole number, written in one way only."""
    return name.isdecimal() and str(int(name)) == name
