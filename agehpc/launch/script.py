"""RUN/submit.sh: the batch script that starts a run, or resumes it, from the run's own snapshot."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from agehpc.errors import redact
from agehpc.launch.flags import Launch, LaunchFlags
from agehpc.launch.snapshot import CONFIG

SETTINGS = (
    "AGEHPC_SITE",
    "AGEHPC_ENVIRONMENT",
    "AGEHPC_VENV",
    "AGEHPC_IMAGE",
    "AGEHPC_MOUNTS",
    "AGEHPC_COMMAND",
    "AGEHPC_LAUNCHER",
    "AGEHPC_LOCAL_TMP",
    "AGEHPC_MAX_RESTARTS",
    "AGEHPC_MAX_CRASHES",
    "AGEHPC_CACHE",
    "AGEHPC_WEIGHTS",
)
"""Variables that the script sets: no other is looked at, let alone written."""


def render(launch: Launch, run: Path, code: Path, cwd: Path, environ: Mapping[str, str]) -> str:
    """Return the batch script.

    Args:
        launch: what is to be trained, and how.
        run: the run directory, absolute.
        code: its snapshot.
        cwd: what relative paths among the flags start from.
        environ: SETTINGS are read from it.
    """
    secret = [group[0] for group in launch.train if _is_secret(group)]
    left_out = [f"# It lacks {', '.join(secret)}: credentials are for the command line."]
    options = [f"#SBATCH --{option}" for option in _options(launch.flags, run, cwd)]
    settings = [f"export {k}={shlex.quote(v)}" for k, v in _settings(launch.flags, environ).items()]
    train = " \\\n".join(["agehpc_resume " + launch.recipe, *_words(launch, run, code), '    "$@"'])
    return "\n".join(
        [
            "#!/usr/bin/env bash",
            *options,
            "#",
            "# Starts this run, or resumes it: sbatch submit.sh [more flags of agehpc train]",
            *(left_out if secret else []),
            "set -euo pipefail",
            "",
            f"export AGEHPC_HOME={shlex.quote(str(code))}",
            "export PYTHONPATH=$AGEHPC_HOME${PYTHONPATH:+:$PYTHONPATH}",
            *settings,
            "# shellcheck source=/dev/null",
            'source "$AGEHPC_HOME/slurm/lib/common.sh"',
            "",
            train,
            "",
        ]
    )


def credentials(launch: Launch) -> list[str]:
    """Return the flags of `agehpc train` that the script does not hold, as they are secret."""
    return [word for group in launch.train if _is_secret(group) for word in group]


def _is_secret(group: list[str]) -> bool:
    return any(redact(word) != word for word in group)


def _words(launch: Launch, run: Path, code: Path) -> list[str]:
    """The lines of the flags."""
    own = {"--out": str(run), "--config": str(code / CONFIG)}
    lines = []
    for group in launch.train:
        name = group[0]
        words = [name, own[name]] if name in own else group
        if name in own or not _is_secret(group):
            lines.append(f"    {shlex.join(words)}")
    return lines


def _options(flags: LaunchFlags, run: Path, cwd: Path) -> list[str]:
    given: dict[str, str | int | None] = {
        "job-name": flags.name or f"agehpc-{run.name}",
        "nodes": flags.nodes,
        "ntasks-per-node": flags.ranks_per_node,
        "gpus-per-node": flags.gpus_per_node or None,
        "cpus-per-task": flags.cpus_per_task,
        "time": flags.time,
        "partition": flags.partition,
        "account": flags.account,
        "wait-all-nodes": 1,
        "open-mode": "append",
        "signal": f"B:USR1@{flags.grace_s}",
        "chdir": str(cwd),
        # In a file's name a percent sign begins a placeholder.
        "output": f"{str(run).replace('%', '%%')}/logs/slurm-%j.out",
    }
    options = [f"{k}={shlex.quote(str(v))}" for k, v in given.items() if v is not None]
    requeue = "requeue" if flags.chain is None else "no-requeue"
    return [*options, requeue, *flags.sbatch]


def _settings(flags: LaunchFlags, environ: Mapping[str, str]) -> dict[str, str]:
    given = {
        "AGEHPC_SITE": flags.site,
        "AGEHPC_ENVIRONMENT": flags.environment,
        "AGEHPC_IMAGE": flags.image,
        "AGEHPC_MOUNTS": flags.mounts,
        "AGEHPC_LAUNCHER": flags.launcher,
    }
    found = {}
    for name in SETTINGS:
        value = given.get(name) or environ.get(name)
        if value:
            found[name] = value
    wanted = found.get("AGEHPC_ENVIRONMENT", "venv")
    if wanted == "venv" and not found.keys() & {"AGEHPC_VENV", "AGEHPC_COMMAND"}:
        # What this command runs in; a checkout that nobody installed has no script.
        if (Path(sys.prefix) / "bin" / "agehpc").is_file():
            found["AGEHPC_VENV"] = sys.prefix
        else:
            found["AGEHPC_COMMAND"] = f"{sys.executable} -m agehpc"
    return found
