"""`agehpc status` over runs in every state, without torch and without a cluster."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from agehpc import cli, heartbeat
from tests.ranks import ROOT


def make(folder: Path, **beat: Any) -> Path:
    """A run whose heartbeat was a second ago, but for what is given."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").touch()
    now = time.time()
    told = {"state": "running", "time": now - 1, "progressed": now - 2, "phase": "train"}
    told |= {"step": 7, "kimg": 1.5, "total_kimg": 1000, "samples_per_s": 31.25, "eta_s": 7380.0}
    heartbeat.write(folder, told | {"hang_s": 480.0, "job": None, "hosts": ["n1"]} | beat)
    return folder


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    assert cli.main(["status", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    now = time.time()
    make(tmp_path / "running")
    make(tmp_path / "a" / "b" / "hung", progressed=now - 500)
    make(tmp_path / "unwatched", progressed=now - 500, hang_s=0.0)
    make(tmp_path / "killed", time=now - 100, progressed=now - 101)
    make(tmp_path / "done", state="done", time=now - 5000)
    make(tmp_path / "diverged", state="diverged", why="loss is too large", time=now - 5000)
    ended = make(tmp_path / "watched", time=now - 9000, progressed=now - 9400)
    row = {"event": "hang", "time": now - 9000, "ranks": [{"rank": 3}]}
    (ended / "health.jsonl").write_text(f'{{"event": "straggler"}}\n{json.dumps(row)}\n{{"torn')
    resumed = make(tmp_path / "resumed", time=now - 1, progressed=now - 2)
    (resumed / "health.jsonl").write_text(json.dumps(row) + "\n")
    (make(tmp_path / "old") / "heartbeat.json").unlink()
    states = {Path(row["run"]).name: row["state"] for row in shown(capsys, str(tmp_path))}
    assert states == {
        "running": "running",
        "hung": "hung",
        "unwatched": "running",
        "killed": "stopped",
        "done": "done",
        "diverged": "diverged",
        "watched": "hung",
        "resumed": "running",
        "old": "unknown",
    }


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any):
    run = make(tmp_path / "first", job="42", phase="sample")
    for step in (99_999_999, 100_000_000, 100_000_001):
        (run / "checkpoints" / f"step-{step:08d}").mkdir()
    for step in (99_999_999, 100_000_000):
        (run / "checkpoints" / f"step-{step:08d}" / "manifest.json").touch()
    figures = [{"metric": "fid", "value": v, "kimg": 1} for v in (9.0, 8.25)]
    text = "".join(json.dumps(row) + "\n" for row in figures)
    (run / "evaluations.jsonl").write_text(text)
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "squeue").write_text('#!/bin/sh\necho "42|PENDING|Priority"; echo "$@" >&2\n')
    (bin_folder / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(bin_folder), prepend=":")
    assert cli.main(["status", str(run), str(run)]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.split() == [
        "run",
        "state",
        "age",
        "kimg",
        "samples/s",
        "eta",
        "checkpoint",
        "figure",
        "job",
    ]
    for cell in ("running (sample)", "1.5/1000", "31.2", "2h03m", "step-100000000", "fid 8.25"):
        assert f"  {cell}  " in line
    assert line.endswith("42 PENDING (Priority)")


def test_no_credentials_are_written(tmp_path: Path):
    run = make(
        tmp_path / "run", state="failed", why="no https://me:secret@host/x?token=hidden here"
    )
    text = (run / "heartbeat.json").read_text()
    assert "secret" not in text
    assert "hidden" not in text
    assert heartbeat.state(run) == ("failed", "no https://***@host/x?*** here")


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "[]",
        "{}",
        '{"state": "running", "time": null, "progressed": 1, "total_kimg": 1}',
        '{"state": "done", "time": "now", "progressed": 1, "total_kimg": 1}',
        '{"state": "done", "time": 1, "progressed": 1, "kimg": 1}',
        '{"state": "done", "time": 1, "progressed": 1, "total_kimg": 1, "job": 42}',
        b"\xff",
    ],
)
def test_a_heartbeat_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str | bytes
):
    make(tmp_path / "sound")
    path = make(tmp_path / "damaged") / "heartbeat.json"
    path.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
    states = {Path(row["run"]).name: row["state"] for row in shown(capsys, str(tmp_path))}
    assert states == {"sound": "running", "damaged": "unknown"}
    assert cli.main(["status", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("row", "cell"), [({"metric": "fid", "value": "NaN"}, "fid NaN"), ({"other": 1}, "")]
)
def test_figures_that_are_no_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], row: dict[str, Any], cell: str
):
    (make(tmp_path / "run") / "evaluations.jsonl").write_text(json.dumps(row) + "\n")
    assert cli.main(["status", str(tmp_path)]) == 0
    assert capsys.readouterr().out.rstrip().endswith(cell or "2h03m")


def test_folders_of_others_are_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    make(tmp_path / "mine")
    (tmp_path / "theirs").mkdir()
    inner = Path.iterdir

    def refused(path: Path) -> Any:
        if path.name == "theirs":  # tests may run as root, whom nobody refuses
            raise PermissionError(13, "Permission denied", str(path))
        return inner(path)

    monkeypatch.setattr(Path, "iterdir", refused)
    assert [Path(row["run"]).name for row in shown(capsys, str(tmp_path))] == ["mine"]
    assert cli.main(["status", str(tmp_path / "theirs")]) == 1
    assert "Permission denied" in capsys.readouterr().err


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["status", str(tmp_path)]) == 1
    assert "error: no run in" in capsys.readouterr().err
    assert cli.main(["status", str(tmp_path / "none")]) == 1


def test_without_torch(tmp_path: Path):
    make(tmp_path / "run")
    code = (
        "import sys; from agehpc import cli; cli.main(sys.argv[1:]); print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, "status", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
