"""`agehpc`: finds the command and turns errors into messages and exit codes.

Imports nothing heavy, so that help answers at once; a command's module is imported when it is
chosen.
"""

import difflib
import importlib
import os
import sys
from collections.abc import Mapping

from agehpc import __version__
from agehpc.errors import EXIT_DONE, EXIT_FAILURE, EXIT_INTERRUPTED, AgehpcError, UsageError

Table = Mapping[str, tuple[str, str]]
"""Command -> ("module:function", one line of help); the function is `main(argv) -> int`."""

COMMANDS: Table = {
    "train": ("agehpc.train.command:main", "train a recipe, or resume its run"),
    "launch": ("agehpc.launch.command:main", "submit a training to Slurm"),
    "plan": ("agehpc.planning.command:main", "predict memory, traffic and speed on a cluster"),
    "tune": ("agehpc_tune.command:main", "search settings: Bayesian and other sweeps of trainings"),
    "evaluate": ("agehpc.evaluate.command:main", "score samples: FID, KID, precision, recall, ..."),
    "sample": ("agehpc.generate:sample_main", "generate from a run's generator"),
    "reconstruct": ("agehpc.generate:reconstruct_main", "encode and decode samples with a run"),
    "encode": ("agehpc.latent.commands.encode:main", "write the latents of a split to a file"),
    "invert": ("agehpc.latent.commands.invert:main", "find the latents of samples"),
    "interpolate": ("agehpc.latent.commands.interpolate:main", "walk between two latents"),
    "edit": ("agehpc.latent.commands.edit:main", "move latents along a direction"),
    "transfer": ("agehpc.latent.commands.transfer:main", "style onto content, or translation"),
    "restore": ("agehpc.latent.commands.restore:main", "denoise, inpaint or super-resolve"),
    "anomaly": ("agehpc.latent.commands.anomaly:main", "score samples by how unusual they are"),
    "checkpoint": ("agehpc.checkpoint_command:main", "list, verify, export, convert checkpoints"),
    "status": ("agehpc.run_status:main", "show how far runs are, and whether they are well"),
    "data": ("agehpc.data.commands:main", "make and check shards: pack, verify, demo"),
    "config": ("agehpc.config.commands:main", "show configurations and list recipes"),
    "preflight": ("agehpc.preflight.command:main", "check that a job's nodes are fit for a run"),
    "doctor": ("agehpc.doctor:main", "check this machine: versions, devices, decoders, disk"),
}


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code (see `agehpc.errors`)."""
    argv = sys.argv[1:] if argv is None else argv
    os.umask(os.umask(0o077) | 0o002)  # whatever it was: nothing becomes writable for everybody
    try:
        if argv[:1] == ["--version"]:
            sys.stdout.write(f"agehpc {__version__}\n")
            return EXIT_DONE
        code = dispatch("agehpc", COMMANDS, argv)
        sys.stdout.flush()
        return code
    except AgehpcError as error:
        return error.exit_code if error.silent else _report(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _report("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader has gone (`agehpc ... | head`): what is left in the buffer has no taker, and
        # flushing it at exit would print a second complaint.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    except OSError as error:
        return _report(_describe(error), EXIT_FAILURE)


def dispatch(prog: str, table: Table, argv: list[str]) -> int:
    """Run the command that argv names from a table; without one, print the table.

    UsageError for an unknown command, naming the nearest.
    """
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(usage(prog, table))
        return EXIT_DONE
    name, *rest = argv
    if name not in table:
        close = difflib.get_close_matches(name, table, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UsageError(f"unknown command {prog} {name}{hint} (commands: {', '.join(table)})")
    module, _, function = table[name][0].partition(":")
    try:
        return getattr(importlib.import_module(module), function)(rest)
    except SystemExit as stop:  # tyro leaves this way after printing --help
        return stop.code if isinstance(stop.code, int) else EXIT_DONE


def usage(prog: str, table: Table) -> str:
    """Return the help text of a table of commands."""
    width = max(map(len, table))
    rows = "".join(f"  {name:<{width}}  {text}\n" for name, (_, text) in table.items())
    return (
        f"usage: {prog} COMMAND [arguments]\n\n{rows}\n"
        f"`{prog} COMMAND --help` explains a command's arguments.\n"
    )


def _report(message: str, code: int) -> int:
    sys.stderr.write(f"error: {message}\n")
    return code


def _describe(error: OSError) -> str:
    if error.strerror is None:
        return str(error)
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return ": ".join([*names, error.strerror])
