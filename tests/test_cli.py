"""The command line: help without heavy imports, exit codes, one message an error."""

import errno
import json
import os
import subprocess
import sys

import pytest

import agehpc
from agehpc import cli, errors

QUIET = errors.DivergedError("another rank says it")
QUIET.silent = True
FAILURES = {
    "quiet": QUIET,
    "usage": errors.UsageError("a wrong flag"),
    "config": errors.ConfigError("a wrong batch"),
    "data": errors.DataError("no shards"),
    "run": errors.RunError("no run"),
    "diverged": errors.DivergedError("loss is nan"),
    "interrupt": KeyboardInterrupt(),
    "full": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/a/x.pt"),
    "help": SystemExit(0),
    "bug": RuntimeError("unexpected"),
}


def fail(argv: list[str]) -> int:
    if argv[0] in FAILURES:
        raise FAILURES[argv[0]]
    return int(argv[0])


@pytest.fixture
def run(monkeypatch, capsys):
    monkeypatch.setattr(cli, "COMMANDS", {"fail": (f"{__name__}:fail", "fails")})

    def run(*argv):
        code = cli.main(list(argv))
        return code, capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("usage", 2, "error: a wrong flag\n"),
        ("config", 2, "error: a wrong batch\n"),
        ("data", 1, "error: no shards\n"),
        ("run", 1, "error: no run\n"),
        ("diverged", 3, "error: loss is nan\n"),
        ("quiet", 3, ""),
        ("interrupt", 130, "error: interrupted\n"),
        ("full", 1, "error: runs/a/x.pt: No space left on device\n"),
        ("help", 0, ""),
        ("85", 85, ""),
    ],
)
def test_exit_codes(run, name, code, message):
    seen, printed = run("fail", name)
    assert (seen, printed.err, printed.out) == (code, message, "")


def test_a_bug_keeps_its_traceback(run):
    with pytest.raises(RuntimeError, match="unexpected"):
        run("fail", "bug")


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(capsys, argv):
    assert cli.main(argv) == 0
    shown = capsys.readouterr().out
    for name, (_, text) in cli.COMMANDS.items():
        assert f"  {name} " in shown
        assert text in shown


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"agehpc {agehpc.__version__}\n"


def test_unknown_command_names_the_nearest(capsys):
    assert cli.main(["trian"]) == 2
    assert "error: unknown command agehpc trian; did you mean train?" in capsys.readouterr().err
    assert cli.main(["config", "shwo"]) == 2
    assert "unknown command agehpc config shwo; did you mean show?" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["config", "--help"]])
def test_help_imports_nothing_heavy(argv):
    program = (
        "import json, sys; from agehpc.cli import main; code = main(sys.argv[1:]); "
        "json.dump([code, sorted(sys.modules)], sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *argv], capture_output=True, text=True, check=True
    )
    code, modules = json.loads(done.stderr)
    assert code == 0
    assert {"torch", "numpy", "pydantic", "tyro", "yaml", "rich"}.isdisjoint(modules)


def test_a_reader_that_leaves_is_no_error():
    words = [sys.executable, "-m", "agehpc", "config", "show", "video_age_64"]
    # The pipe's only reader is closed before the command writes.
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_every_command_leads_to_a_function_of_the_package():
    for target, text in cli.COMMANDS.values():
        module, _, function = target.partition(":")
        assert module.startswith(("agehpc.", "agehpc_tune."))
        assert function
        assert text
