"""The batch scripts that are rendered, against files that a person has read.

AGEHPC_WRITE_GOLDEN=1 writes them anew.
"""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from agehpc.launch.flags import parse
from agehpc.launch.script import credentials, render
from tests.launch.cases import CASES, Case

GOLDEN = Path(__file__).parent / "golden"
HOME = Path("/projects/team")


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch) -> None:
    """A working directory with the file of --config."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "faces.yaml").touch()


def rendered(case: Case) -> str:
    launch = parse(shlex.split(case.words))
    run = HOME / launch.out
    return render(launch, run, run / "code" / "0123456789ab", HOME, case.environ)


@pytest.mark.parametrize("name", CASES)
def test_is_what_was_read(name: str):
    golden, text = GOLDEN / f"{name}.sh", rendered(CASES[name])
    if os.environ.get("AGEHPC_WRITE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_every_golden_file_is_compared():
    assert sorted(path.stem for path in GOLDEN.iterdir()) == sorted(CASES)


def test_shellcheck_finds_nothing():
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed: apt-get install shellcheck")
    files = sorted(map(str, GOLDEN.iterdir()))
    # A dollar in single quotes is what was meant.
    done = subprocess.run([shellcheck, "-e", "SC2016", *files], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_bash_reads_the_words_back(tmp_path: Path):
    """What the script gives to `agehpc train` is what was asked for, odd characters and all."""
    case = CASES["odd_names"]
    lib = tmp_path / "slurm" / "lib"
    lib.mkdir(parents=True)
    (lib / "common.sh").write_text("agehpc_resume() { printf '%s\\n' \"$@\"; }\n")
    text = rendered(case).replace(f"'{HOME}/runs/a b%c/code/0123456789ab'", str(tmp_path))
    done = subprocess.run(
        ["bash", "-s", "--", "--train.kimg", "9"], input=text, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [
        *("image_age_64", "--data.shards", "it's here", "$HOME/`x`"),
        *("--out", f"{HOME}/runs/a b%c", "--train.kimg", "9"),
    ], done.stderr


def test_credentials_are_for_the_command_line_only():
    case = CASES["credentials"]
    launch = parse(shlex.split(case.words))
    assert credentials(launch) == ["--data.shards", "https://ann:hunter2@h/x?sig=1"]
    text = rendered(case)
    assert "hunter2" not in text
    assert "sig=1" not in text


def test_no_other_variable_is_written():
    case = CASES["venv"]
    planted = {**case.environ, "WANDB_API_KEY": "hunter2", "AGEHPC_TOKEN": "hunter3"}
    launch = parse(shlex.split(case.words))
    text = render(launch, HOME / "r", HOME / "r" / "code" / "0", HOME, planted)
    assert "hunter" not in text
