"""The batch scripts where no Slurm runs."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.ranks import ROOT

SCRIPTS = sorted((ROOT / "slurm").rglob("*.sh"))
TRAIN = [path for path in SCRIPTS if path.name.startswith("train_")]
BARE = {"PATH": os.environ["PATH"]}


def bash(*command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", *command], env=BARE | environ, capture_output=True, text=True, timeout=60
    )


def by_name(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("script", SCRIPTS, ids=by_name)
def test_syntax(script: Path):
    done = bash("-n", str(script))
    assert (done.returncode, done.stderr) == (0, "")


def test_shellcheck():
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed: apt-get install shellcheck")
    done = subprocess.run(
        [shellcheck, "-x", *map(str, SCRIPTS)], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("script", TRAIN, ids=by_name)
def test_help(script: Path, flag: str):
    done = bash(str(script), "some_recipe", flag)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: sbatch [SBATCH FLAGS] slurm/{script.name} [RECIPE]")


@pytest.mark.parametrize("script", TRAIN, ids=by_name)
def test_outside_slurm(script: Path):
    done = bash(str(script), "--data.shards", "my shards")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert rf"sbatch --nodes=2 slurm/{script.name} --data.shards my\ shards" in done.stderr


def test_unknown_site():
    done = bash(str(TRAIN[0]), SLURM_JOB_ID="1", SLURM_JOB_NAME="x", AGEHPC_SITE="moon")
    assert done.returncode == 2
    assert "error: AGEHPC_SITE=moon: no file" in done.stderr


def functions(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run some of the scripts' functions."""
    common = ROOT / "slurm" / "lib" / "common.sh"
    return bash("-c", f"set -euo pipefail; source {common}; {code}", **environ)


def test_a_log_shows_no_credentials():
    words = ["--a", "https://ann:hunter2@h/x?sig=1&b=2", "--b", "pipe:curl -H 'K: s' h/{}", "--c"]
    code = f"WORDS=({shlex.join(words)}); printf ' %q' \"${{WORDS[@]}}\" | agehpc_redact"
    done = functions(code)
    assert done.stdout == " --a https://***@h/x\\?*** --b pipe:*** --c"


def test_no_agehpc_command(tmp_path: Path):
    done = functions("agehpc_command", AGEHPC_HOME=str(tmp_path), PATH="/usr/bin:/bin")
    assert done.returncode == 2
    assert f"error: no agehpc command in {tmp_path}/.venv/bin or on PATH" in done.stderr


def test_agehpc_command(tmp_path: Path):
    program = tmp_path / "venv of mine" / "bin" / "agehpc"
    program.parent.mkdir(parents=True)
    program.touch(0o755)
    home = {"AGEHPC_HOME": str(tmp_path), "AGEHPC_VENV": str(program.parent.parent)}
    assert functions("agehpc_command", **home).stdout == f"{program}\n"
    assert functions("agehpc_command", AGEHPC_COMMAND="a --b c", **home).stdout == "a\n--b\nc\n"


@pytest.mark.parametrize(
    ("arguments", "out"),
    [("--out 'a b'", "a b"), ("x --out=r --y", "r"), ("--output r", ""), ("--out a --out b", "b")],
)
def test_out_of_arguments(arguments: str, out: str):
    assert functions(f"agehpc_out {arguments}").stdout == f"{out}\n"


def test_newest_checkpoint_is_complete(tmp_path: Path):
    for step in ("step-00000009", "step-00000010", "step-00000011"):
        (tmp_path / "checkpoints" / step).mkdir(parents=True)
    code = f"agehpc_newest_checkpoint {tmp_path}"
    assert functions(code).stdout == "\n"
    for step in ("step-00000009", "step-00000010"):
        (tmp_path / "checkpoints" / step / "manifest.json").touch()
    newest = tmp_path / "checkpoints" / "step-00000010" / "manifest.json"
    assert functions(code).stdout == f"{newest}\n"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"SLURM_JOB_CPUS_PER_NODE": "8(x2),4"}, "1 4"),
        ({"SLURM_JOB_CPUS_PER_NODE": "16", "SLURM_NTASKS_PER_NODE": "3"}, "3 5"),
        ({"SLURM_JOB_CPUS_PER_NODE": "64(x4)", "SLURM_GPUS_ON_NODE": "4"}, "4 16"),
        ({"SLURM_JOB_CPUS_PER_NODE": "64(x4)", "SLURM_GPUS_PER_NODE": "a100:8"}, "8 8"),
    ],
)
def test_layout(environ: dict[str, str], expected: str):
    job = {"SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "n[1-2]"}
    code = 'agehpc_layout >/dev/null; echo "$AGEHPC_TASKS $AGEHPC_CPUS"'
    assert functions(code, **job, **environ).stdout == f"{expected}\n"
