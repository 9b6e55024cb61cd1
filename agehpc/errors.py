"""Errors a user can act on, and the exit codes of every command.

Messages say what is wrong, the value seen, the flag or file, and the fix. Anything else that
escapes a command is a bug and shows its traceback.
"""

EXIT_DONE = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_DIVERGED = 3
EXIT_RESTART = 85  # saved, and wants to be run again (time limit, SIGTERM)
EXIT_INTERRUPTED = 130  # Ctrl-C, after a save


class AgehpcError(ValueError):
    """Base of every error that is shown as one message instead of a traceback."""

    exit_code = EXIT_FAILURE
    silent = False
    """Set where another rank shows the message: this one only ends with its exit code."""


class UsageError(AgehpcError):
    """A wrong flag, recipe, key or value: the command was never started."""

    exit_code = EXIT_USAGE


class ConfigError(UsageError):
    """A configuration that cannot be trained as asked (batch, stages, shapes)."""


class DataError(AgehpcError):
    """Shards, clips or images that are missing, damaged or of the wrong kind."""


class RunError(AgehpcError):
    """A run directory that is missing, damaged or belongs to another run."""


class DivergedError(AgehpcError):
    """A loss or gradient that is no longer finite."""

    exit_code = EXIT_DIVERGED
