"""`agehpc launch` with a stand-in for sbatch; tests/cluster/test_launch.py has the real one."""

import json
from pathlib import Path

import pytest

from agehpc import cli
from tests.ranks import ROOT

SBATCH = """\
#!/usr/bin/env bash
echo "$*" >>"$(dirname "$0")/calls"
[[ ! -f $(dirname "$0")/refuse ]] || { echo "sbatch: error: invalid partition" >&2; exit 1; }
echo "$((100 + $(wc -l <"$(dirname "$0")/calls")));cluster"
"""


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch) -> Path:
    """A folder with a stand-in for sbatch on PATH, which notes its words in `calls`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sbatch").write_text(SBATCH)
    (folder / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT}/kernels")
    monkeypatch.chdir(tmp_path)
    return folder


def launch(*words: str) -> int:
    return cli.main(["launch", "image_age_64", "--data.shards", "s", "--out", "r", *words])


def test_submits(sbatch: Path, tmp_path: Path, capsys):
    assert launch("--no-check", "--json") == 0
    run = tmp_path / "r"
    told = json.loads(capsys.readouterr().out)
    assert told == {"run": str(run), "script": str(run / "submit.sh"), "jobs": ["101"]}
    assert (sbatch / "calls").read_text() == f"--parsable {run}/submit.sh\n"
    (code,) = (run / "code").iterdir()
    assert f"export AGEHPC_HOME={code}\n" in (run / "submit.sh").read_text()
    assert {path.name for path in run.iterdir()} == {"code", "control", "logs", "submit.sh"}


def test_a_chain_waits_and_has_a_name(sbatch: Path, capsys):
    assert launch("--no-check", "--chain", "3", "--json") == 0
    assert json.loads(capsys.readouterr().out)["jobs"] == ["101", "102", "103"]
    calls = [line.split() for line in (sbatch / "calls").read_text().splitlines()]
    assert len({words[1] for words in calls}) == 1
    assert calls[0][1].startswith("--export=ALL,AGEHPC_CHAIN=")
    assert [words[2:-1] for words in calls] == [
        [],
        ["--dependency=afterany:101"],
        ["--dependency=afterany:102"],
    ]


def test_credentials_go_to_sbatch_alone(sbatch: Path, tmp_path: Path):
    assert launch("--no-check", "--data.shards", "https://ann:hunter2@h/x") == 0
    assert (sbatch / "calls").read_text().endswith("--data.shards https://ann:hunter2@h/x\n")
    for path in (tmp_path / "r").rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes(), path


def test_a_dry_run_writes_nothing(sbatch: Path, tmp_path: Path, capsys):
    assert launch("--no-check", "--dry-run") == 0
    assert capsys.readouterr().out.startswith("#!/usr/bin/env bash\n#SBATCH")
    assert not (tmp_path / "r").exists()
    assert not (sbatch / "calls").exists()


def test_what_training_would_refuse_is_refused_here(sbatch: Path, tmp_path: Path, capsys):
    assert launch() == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert "s/manifest.json" in told or "shards" in told
    assert not (tmp_path / "r").exists()


def test_what_sbatch_says_is_told(sbatch: Path, capsys):
    (sbatch / "refuse").touch()
    assert launch("--no-check") == 1
    assert "invalid partition" in capsys.readouterr().err


def test_without_sbatch(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert launch("--no-check") == 2
    assert "sbatch is not on PATH" in capsys.readouterr().err
    assert (tmp_path / "r" / "submit.sh").is_file()


def test_a_requeued_job_keeps_its_script(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert launch("--prepare", "--nodes", "2") == 0
    script = tmp_path / "r" / "submit.sh"
    assert capsys.readouterr().out == f"{script}\n"
    script.write_text("as it was")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert launch("--prepare", "--nodes", "2") == 0
    assert script.read_text() == "as it was"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    assert launch("--prepare", "--nodes", "2") == 0
    assert script.read_text() != "as it was"


def test_missing_weights_are_known_before_the_queue_is(
    demo_shards: Path, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.setenv("AGEHPC_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    words = ["train", "video_age_demo", "--data.shards", str(demo_shards), "--dry-run"]
    assert cli.main([*words, "--world-size", "2", "--evaluate.metrics", "fid"]) == 1
    assert "error: the weights of inception are missing" in capsys.readouterr().err
    assert cli.main([*words, "--world-size", "2", "--evaluate.metrics", "frechet_lite0"]) == 0
