"""The snapshot of a run's code: whole, unchanging, and what a job then runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agehpc.errors import UsageError
from agehpc.launch import snapshot as snapshots
from agehpc.launch.snapshot import Snapshot
from tests.ranks import ROOT


def test_it_holds_code_scripts_configuration_and_revision(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(snapshots, "revision", lambda: "abc-dirty")
    config = tmp_path / "mine.yaml"
    config.write_text("train: {kimg: 3}\n")
    code = Snapshot(str(config)).write(tmp_path / "run")
    assert (code / "config.yaml").read_text() == config.read_text()
    for name in ("agehpc/cli.py", "agehpc/launch/snapshot.py", "slurm/lib/common.sh"):
        assert (code / name).read_bytes() == (ROOT / name).read_bytes()
    norm = "agehpc_kernels/by_cpp.cpp"
    assert (code / norm).read_bytes() == (ROOT / "kernels" / norm).read_bytes()
    assert os.access(code / "slurm" / "lib" / "task.sh", os.X_OK)
    assert not list(code.rglob("__pycache__"))
    assert sorted(path.name for path in code.parent.iterdir()) == [code.name]
    for path in code.rglob("*"):
        assert not path.stat().st_mode & 0o002, path

    where = (
        "import agehpc, agehpc_kernels; from agehpc.observe.environment import revision; "
        "print(agehpc.__file__, agehpc_kernels.__file__, revision())"
    )
    environ = {**os.environ, "PYTHONPATH": str(code)}
    command = [sys.executable, "-c", where]
    told = subprocess.run(command, env=environ, cwd="/", check=True, capture_output=True, text=True)
    seen = [str(code / name / "__init__.py") for name in ("agehpc", "agehpc_kernels")]
    assert told.stdout.split() == [*seen, "abc-dirty"]


def test_the_name_is_that_of_the_content(tmp_path: Path):
    one, other = tmp_path / "a.yaml", tmp_path / "b.yaml"
    one.write_text("train: {kimg: 3}\n")
    other.write_text("train: {kimg: 4}\n")
    plain = Snapshot(None)
    names = {plain.name, Snapshot(str(one)).name, Snapshot(str(other)).name}
    assert len(names) == 3
    assert Snapshot(None).name == plain.name
    # What is there is left alone: a job may be running it.
    code = plain.write(tmp_path / "run")
    before = (code / "agehpc" / "cli.py").stat().st_mtime_ns
    assert Snapshot(None).write(tmp_path / "run") == code
    assert (code / "agehpc" / "cli.py").stat().st_mtime_ns == before


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(snapshots.shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space"):
        Snapshot(None).write(tmp_path / "run")
    assert list((tmp_path / "run" / "code").iterdir()) == []


def test_no_scripts_and_no_file(tmp_path: Path, monkeypatch):
    with pytest.raises(UsageError, match=r"--config none\.yaml is not a file"):
        Snapshot("none.yaml")
    monkeypatch.setattr(snapshots, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    monkeypatch.setenv("AGEHPC_HOME", str(tmp_path))
    with pytest.raises(UsageError, match="export AGEHPC_HOME"):
        Snapshot(None)
