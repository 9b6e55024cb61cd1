"""The batch scripts where no Slurm runs."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.ranks import ROOT

SCRIPTS = sorted((ROOT / "slurm").rglob("*.sh"))
BATCH = sorted((ROOT / "slurm").glob("*.sh"))
TRAIN = [path for path in BATCH if path.name.startswith("train_")]
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
@pytest.mark.parametrize("script", BATCH, ids=by_name)
def test_help(script: Path, flag: str):
    done = bash(str(script), "some_recipe", flag)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: sbatch [SBATCH FLAGS] slurm/{script.name} ")
    assert "AGEHPC_ENVIRONMENT" in done.stdout


@pytest.mark.parametrize("script", BATCH, ids=by_name)
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
    environ = {"AGEHPC_HOME": str(ROOT)} | environ
    code = f"set -euo pipefail; AGEHPC_GPUS=0 AGEHPC_RUN=; source {common}; {code}"
    return bash("-c", code, **environ)


def test_a_log_shows_no_credentials():
    words = ["--a", "https://ann:hunter2@h/x?sig=1&b=2", "--b", "pipe:curl -H 'K: s' h/{}", "--c"]
    code = f"WORDS=({shlex.join(words)}); printf ' %q' \"${{WORDS[@]}}\" | agehpc_redact"
    done = functions(code)
    assert done.stdout == " --a https://***@h/x\\?*** --b pipe:*** --c"


# What an environment comes to: the words that run agehpc, those before them, and srun's flags.
SHOWN = """printf '%s|' "${AGEHPC_PROGRAM[@]}" / "${AGEHPC_INSIDE[@]}" / "${AGEHPC_SRUN[@]}" """


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An agehpc folder in which nothing is installed."""
    (tmp_path / "home" / "slurm").mkdir(parents=True)
    (tmp_path / "home" / "slurm" / "lib").symlink_to(ROOT / "slurm" / "lib")
    return {"AGEHPC_HOME": str(tmp_path / "home")}


def test_no_agehpc_command(home: dict[str, str]):
    done = functions("agehpc_environment", **home, PATH="/usr/bin:/bin")
    assert done.returncode == 2
    assert f"error: no agehpc command in {home['AGEHPC_HOME']}/.venv/bin or on PATH" in done.stderr


def test_a_virtual_environment(home: dict[str, str], tmp_path: Path):
    program = tmp_path / "venv of mine" / "bin" / "agehpc"
    program.parent.mkdir(parents=True)
    program.touch(0o755)
    home["AGEHPC_VENV"] = str(program.parent.parent)
    assert functions(f"agehpc_environment; {SHOWN}", **home).stdout == f"{program}|/|/|"
    told = functions(f"agehpc_environment; {SHOWN}", AGEHPC_COMMAND="a --b c", **home)
    assert told.stdout == "a|--b|c|/|/|"
    # Of the run's own folder, wherever the script looks next.
    kept = functions("agehpc_environment; env", **home).stdout.splitlines()
    assert {"AGEHPC_ENVIRONMENT=venv", f"AGEHPC_VENV={home['AGEHPC_VENV']}"} <= set(kept)


def test_containers_see_the_run(home: dict[str, str], tmp_path: Path):
    run = tmp_path / "run"
    image = {"AGEHPC_IMAGE": "/images/a b.sif", "AGEHPC_MOUNTS": "/data,/more data"} | home
    seen = [home["AGEHPC_HOME"], str(Path.cwd()), "/tmp", str(run), "/data", "/more data"]
    code = f"AGEHPC_RUN={run}; AGEHPC_GPUS=4; agehpc_environment; {SHOWN}"
    done = functions(code, AGEHPC_ENVIRONMENT="apptainer", **image)
    assert done.stdout.splitlines()[1] == "|".join(
        [
            *("agehpc", "/", "apptainer", "exec", "--pwd", str(Path.cwd()), "--bind"),
            *(",".join(seen), "--nv", "/images/a b.sif", "/", ""),
        ]
    )
    done = functions(code, AGEHPC_ENVIRONMENT="pyxis", **image)
    assert done.stdout.splitlines()[1] == "|".join(
        [
            *("agehpc", "/", "/", "--container-image=/images/a b.sif"),
            f"--container-workdir={Path.cwd()}",
            "--container-mounts=" + ",".join(f"{folder}:{folder}" for folder in seen) + "|",
        ]
    )
    assert run.is_dir()


def test_a_container_needs_an_image(home: dict[str, str]):
    done = functions("agehpc_environment", AGEHPC_ENVIRONMENT="pyxis", **home)
    assert done.returncode == 2
    assert "needs AGEHPC_IMAGE" in done.stderr
    done = functions("agehpc_environment", AGEHPC_ENVIRONMENT="docker", **home)
    assert done.returncode == 2
    assert "choose path, venv, pyxis or apptainer" in done.stderr


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
