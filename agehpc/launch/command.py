"""`agehpc launch RECIPE [train flags] --out RUN --nodes N ...`: submit a training to Slurm.

Writes RUN/submit.sh and the code it runs; `sbatch RUN/submit.sh` starts the run again, or resumes
it. Imports nothing heavy, so that login nodes answer at once.
"""

import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from agehpc.errors import EXIT_DONE, AgehpcError, UsageError
from agehpc.files import write_text
from agehpc.launch import script
from agehpc.launch.flags import Launch, parse
from agehpc.launch.snapshot import Snapshot

SUBMIT = "submit.sh"


def main(argv: list[str]) -> int:
    """Run the command."""
    launch = parse(argv)
    run = Path(launch.out).absolute()
    if launch.flags.prepare:
        return _prepare(launch, run)
    snapshot = Snapshot(launch.config)
    code = run / "code" / snapshot.name
    text = script.render(launch, run, code, Path.cwd(), os.environ)
    if launch.flags.no_check:
        _say(launch, "not checked: a wrong setting is found by the job")
    else:
        _say(launch, _check(launch))
    told: dict[str, Any] = {"run": str(run), "script": str(run / SUBMIT), "jobs": []}
    if launch.flags.dry_run:
        sys.stdout.write(
            json.dumps(told | {"text": text}, indent=2) + "\n" if _json(launch) else text
        )
        return EXIT_DONE
    _write(snapshot, run, text)
    told["jobs"] = _submit(launch, run)
    if _json(launch):
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
    else:
        log = run / "logs" / f"slurm-{told['jobs'][0]}.out"
        sys.stdout.write(f"submitted {' '.join(told['jobs'])}; the log will be {log}\n")
    return EXIT_DONE


def _json(launch: Launch) -> bool:
    return launch.flags.json_


def _say(launch: Launch, line: str) -> None:
    if not _json(launch):
        sys.stderr.write(f"{line}\n")


def _prepare(launch: Launch, run: Path) -> int:
    """Inside a job: what it runs from now on. A requeued job runs the code of its first start."""
    restarted = int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0
    if not (restarted and (run / SUBMIT).is_file()):
        snapshot = Snapshot(launch.config)
        code = run / "code" / snapshot.name
        _write(snapshot, run, script.render(launch, run, code, Path.cwd(), os.environ))
    words = [str(run / SUBMIT), *script.credentials(launch)]
    sys.stdout.writelines(f"{word}\n" for word in words)
    return EXIT_DONE


def _write(snapshot: Snapshot, run: Path, text: str) -> None:
    for folder in (run, run / "logs", run / "control"):
        folder.mkdir(parents=True, exist_ok=True)
    snapshot.write(run)
    write_text(run / SUBMIT, text)


def _check(launch: Launch) -> str:
    """The training's own checks, before the queue: `agehpc train --dry-run`."""
    world = launch.flags.nodes * launch.flags.ranks_per_node
    words = [word for group in launch.train for word in group]
    checking = ["--dry-run", "--json", "--world-size", str(world)]
    done = subprocess.run(
        [sys.executable, "-m", "agehpc", "train", launch.recipe, *words, *checking],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        error = AgehpcError(done.stderr.strip().removeprefix("error: "))
        error.exit_code = done.returncode
        raise error
    plan = json.loads(done.stdout)
    return (
        f"checked: {plan['steps']} steps of {plan['global_batch']} samples = {world} ranks x "
        f"{plan['micro_batch']} x {plan['accumulation']}, about "
        f"{plan['total_bytes'] / 2**30:.2f} GiB a rank"
    )


def _submit(launch: Launch, run: Path) -> list[str]:
    """Submit the script, or a chain of it; return the numbers of the jobs."""
    if shutil.which("sbatch") is None:
        raise UsageError(
            f"sbatch is not on PATH: {run / SUBMIT} is written, submit it on a login node with "
            f"sbatch {shlex.quote(str(run / SUBMIT))}"
        )
    jobs: list[str] = []
    # The jobs of a chain know each other by a name: a later start by hand is none of them.
    chained = [] if launch.flags.chain is None else [f"--export=ALL,AGEHPC_CHAIN={_name()}"]
    for _ in range(launch.flags.chain or 1):
        after = [f"--dependency=afterany:{jobs[-1]}"] if jobs else []
        command = ["sbatch", "--parsable", *chained, *after, str(run / SUBMIT)]
        done = subprocess.run(
            [*command, *script.credentials(launch)], capture_output=True, text=True
        )
        if done.returncode:
            before = f"; submitted before it: {' '.join(jobs)}" if jobs else ""
            raise AgehpcError(f"{' '.join(command)}: {done.stderr.strip()}{before}")
        jobs.append(done.stdout.strip().partition(";")[0])  # JOB;CLUSTER
    return jobs


def _name() -> str:
    return secrets.token_hex(4)
