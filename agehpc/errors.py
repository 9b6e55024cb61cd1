"""Errors a user can act on, and the exit codes of every command.

Messages say what is wrong, the value seen, the flag or file, and the fix. Anything else that
escapes a command is a bug and shows its traceback.
"""

import difflib
import re
from collections.abc import Collection

EXIT_DONE = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_DIVERGED = 3
EXIT_LOST = 75  # another rank or its node is gone; the newest checkpoint is as it was
EXIT_RESTART = 85  # saved, and wants to be run again (time limit, SIGTERM)
EXIT_INTERRUPTED = 130  # Ctrl-C, after a save


MASK = "***"
_MASKS = (
    # User and password: all up to the last @ before the path. A password may hold a slash by
    # mistake; a port is followed by one.
    (re.compile(r"(?<=://)(?:[^/\s:]*:(?!\d+[/?])\S*|[^/\s?]*)@"), f"{MASK}@"),
    # Signatures and tokens: the whole query.
    (re.compile(r"(://[^\s?'\"]*)\?[^\s'\"]*[^\s'\":;,.)]"), rf"\1?{MASK}"),
    # A command may hold them anywhere.
    (re.compile(r"\bpipe:(?!\*\*\*)\S.*"), f"pipe:{MASK}"),
)


def redact(text: str) -> str:
    """Return a text with the credentials of the URLs in it masked: user, query, `pipe:` command."""
    for pattern, mask in _MASKS:
        text = pattern.sub(mask, text)
    return text


def hint(name: str, known: Collection[str]) -> str:
    """Return a question for the nearest of the names there are, or all of them."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"


class AgehpcError(ValueError):
    """Base of every error that is shown as one message instead of a traceback.

    Whatever the message quotes, it shows no credentials.
    """

    exit_code = EXIT_FAILURE
    silent = False
    """Set where another rank shows the message: this one only ends with its exit code."""

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


class UsageError(AgehpcError):
    """A wrong flag, recipe, key or value: the command was never started."""

    exit_code = EXIT_USAGE


class ConfigError(UsageError):
    """A configuration that cannot be trained as asked (batch, stages, shapes)."""


class DataError(AgehpcError):
    """Shards, clips or images that are missing, damaged or of the wrong kind."""


class RunError(AgehpcError):
    """A run directory that is missing, damaged or belongs to another run."""


class LostRankError(AgehpcError):
    """A collective that failed or took too long, as another rank or its node is gone or hangs."""

    exit_code = EXIT_LOST


class StoppedError(AgehpcError):
    """Long work that was cut short, as the run is to stop; it is done when the run goes on."""

    exit_code = EXIT_RESTART


class DivergedError(AgehpcError):
    """Training has gone wrong: figures not finite or beyond their bounds, samples all alike."""

    exit_code = EXIT_DIVERGED
