"""The batch scripts in a real Slurm of two nodes, with a probe in the place of the trainer."""

import json
import os
import re
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.slurm import Cluster, Job
from tests.ranks import ROOT

pytestmark = pytest.mark.cluster
PACKAGES = os.pathsep.join([str(ROOT), str(ROOT / "kernels"), str(ROOT / "tune")])
PROBE = f"{sys.executable} {ROOT}/tests/cluster/probe.py"


@pytest.fixture
def probe(cluster: Cluster, tmp_path: Path):
    """Submit a batch script whose ranks run the probe."""

    def submit(act: str, *flags: str, script: str = "train_video.sh", **environ: str) -> Job:
        arguments = ("--out", str(tmp_path / "run"), "--data.shards", "a  b's")
        settings = {
            "AGEHPC_HOME": str(ROOT),
            "AGEHPC_COMMAND": PROBE,
            "AGEHPC_LOCAL_TMP": str(tmp_path),
            "AGEHPC_PROBE": act,
            "PYTHONPATH": PACKAGES,
        }
        path = str(ROOT / "slurm" / script)
        return cluster.submit(*flags, path, *arguments, cwd=tmp_path, **(settings | environ))

    return submit


def seen(tmp_path: Path, start: int = 0) -> list[dict]:
    paths = sorted((tmp_path / "run").glob(f"rank-{start}-*.json"))
    return [json.loads(path.read_text()) for path in paths]


def left_over(tmp_path: Path) -> list[str]:
    """What jobs left in the nodes' folder for temporary files."""
    return [path.name for path in tmp_path.iterdir() if not re.match(r"run$|.*\.out$", path.name)]


def test_one_rank_a_node(probe, tmp_path: Path):
    job = probe("reduce", "--nodes=2")
    log = f"{job.wait()}\n{job.log()}"
    assert job.show()["JobState"] == "COMPLETED", log
    first, second = seen(tmp_path)
    assert [rank["hostname"] for rank in (first, second)] == ["n1", "n2"]
    for number, rank in enumerate((first, second)):
        assert (rank["rank"], rank["world_size"]) == (number, 2)
        assert (rank["local_rank"], rank["local_world_size"]) == (0, 1)
        assert rank["master"] == ["127.0.0.1", 20000 + int(job.number) % 20000]
        assert rank["launcher"] == "slurm"
        assert rank["tmp_is_there"]
        assert len({Path(folder).parent for folder in rank["folders"].values()}) == 1
    assert first["folders"]["TMPDIR"] != second["folders"]["TMPDIR"]
    assert first["argv"] == [
        "train",
        "video_age_64",
        *("--out", str(tmp_path / "run"), "--data.shards", "a  b's"),
    ]
    assert left_over(tmp_path) == []

    lines = job.log().splitlines()
    # The ranks' own lines come in any order.
    assert lines[0] == f"agehpc: job {job.number} (agehpc-video), start 1"
    assert lines[1] == "agehpc: 2 ranks on 2 nodes (n[1-2]), a rank has 1 CPUs and 0 GPUs"
    assert lines[2] == "agehpc: the ranks meet at 127.0.0.1 (n1)"
    assert re.fullmatch(
        r"agehpc: command: .*probe.py train video_age_64 --out .*a\\ \\ b\\'s", lines[3]
    )
    assert sorted(lines[4:6]) == ["mean of rank 0 is 0.5", "mean of rank 1 is 0.5"]
    assert lines[6:] == ["agehpc: done"], log


def test_one_rank_a_gpu(probe, tmp_path: Path):
    job = probe(
        "place", "--nodes=2", "--gpus-per-node=2", "--cpus-per-task=3", script="train_image.sh"
    )
    assert job.wait()["JobState"] == "COMPLETED", job.log()
    ranks = seen(tmp_path)
    assert [rank["hostname"] for rank in ranks] == ["n1", "n1", "n2", "n2"]
    assert [rank["local_rank"] for rank in ranks] == [0, 1, 0, 1]
    assert {rank["local_world_size"] for rank in ranks} == {2}
    assert ranks[0]["argv"][:2] == ["train", "image_age_64"]
    assert ranks[0]["folders"] == ranks[1]["folders"]
    assert "4 ranks on 2 nodes (n[1-2]), a rank has 1 CPUs and 1 GPUs" in job.log()
    assert left_over(tmp_path) == []


def test_tasks_of_a_node(probe, tmp_path: Path):
    job = probe("place", "--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=2")
    assert job.wait()["JobState"] == "COMPLETED", job.log()
    assert [rank["local_world_size"] for rank in seen(tmp_path)] == [2, 2, 2, 2]
    assert "a rank has 2 CPUs and 0 GPUs" in job.log()


def test_gpus_without_cpus(probe):
    job = probe("place", "--nodes=1", "--gpus-per-node=2")
    assert job.wait()["ExitCode"] == "2:0"
    assert "error: 1 CPUs a node for 2 GPUs" in job.log()
    assert "--ntasks-per-node=2" in job.log()


def test_saved_run_is_requeued(probe, tmp_path: Path):
    job = probe("once", "--nodes=2")
    job.restart()
    state = job.wait()
    assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "1"), job.log()
    assert len(seen(tmp_path, 0)) == len(seen(tmp_path, 1)) == 2
    assert "start 1\n" in job.log()
    assert "agehpc: saved; requeued for start 2 of at most 21" in job.log()
    assert "start 2\n" in job.log()
    assert job.log().endswith("agehpc: done\n")
    # Rank 1 shut down later than rank 0: it was waited for, not killed.
    assert "srun: error" not in job.log()
    assert left_over(tmp_path) == []


def test_no_requeue_without_progress(probe):
    job = probe("stuck", "--nodes=2")
    state = job.wait()
    assert (state["JobState"], state["ExitCode"], state["Restarts"]) == ("FAILED", "85:0", "0")
    assert "agehpc: not requeued: no checkpoint is newer" in job.log()


def test_requeues_are_bounded(probe):
    job = probe("once", "--nodes=2", AGEHPC_MAX_RESTARTS="0")
    state = job.wait()
    assert (state["JobState"], state["ExitCode"], state["Restarts"]) == ("FAILED", "85:0", "0")
    assert "agehpc: saved; not requeued: 1 starts, AGEHPC_MAX_RESTARTS=0" in job.log()


def _wait_for_training(job: Job, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job.wait_until(lambda: len(list(run.glob("training-*"))) == 2, "training")


def test_time_limit_saves_and_requeues(probe, cluster: Cluster, tmp_path: Path):
    job = probe("wait", "--nodes=2")
    _wait_for_training(job, tmp_path)
    # What `--signal=B:USR1@300` does five minutes before the limit.
    cluster.run("scancel", "--batch", "--signal=USR1", job.number)
    job.wait_until(lambda: job.show()["Restarts"] == "1", "restart")
    cluster.run("scancel", job.number)
    for line in (
        "agehpc: SIGUSR1: the ranks are asked to save and stop",
        "rank 0 stops: restart",
        "rank 1 stops: restart",
        "agehpc: saved; requeued for start 2",
    ):
        assert line in job.log()


def test_cancelled_run_saves_and_stays_cancelled(probe, cluster: Cluster, tmp_path: Path):
    job = probe("wait", "--nodes=2")
    _wait_for_training(job, tmp_path)
    cluster.run("scancel", job.number)
    job.wait_until(lambda: "Slurm decides if it runs again" in job.log(), "last line")
    assert "rank 1 stops: restart" in job.log()
    time.sleep(1)
    state = job.show()
    assert (state["JobState"], state["Restarts"]) == ("CANCELLED", "0")


def test_failure_of_a_rank_ends_the_job(probe):
    started = time.monotonic()
    job = probe("fail", "--nodes=2")
    state = job.wait()
    # Its exit code, not that of the rank which srun ends for it.
    assert (state["JobState"], state["ExitCode"]) == ("FAILED", "3:0"), job.log()
    assert "agehpc: failed with exit code 3\n" in job.log()
    assert time.monotonic() - started < 60


def test_help_in_a_job(probe, cluster: Cluster, tmp_path: Path):
    script = str(ROOT / "slurm" / "train_video.sh")
    job = cluster.submit(script, "-h", cwd=tmp_path, AGEHPC_HOME=str(ROOT))
    assert job.wait()["JobState"] == "COMPLETED"
    assert job.log().startswith("usage: sbatch")


def test_submitted_from_the_wrong_folder(cluster: Cluster, tmp_path: Path):
    job = cluster.submit(str(ROOT / "slurm" / "train_video.sh"), cwd=tmp_path)
    assert job.wait()["ExitCode"] == "2:0"
    assert "export AGEHPC_HOME=" in job.log()


def test_a_batch_script_and_salloc_are_no_ranks(cluster: Cluster, tmp_path: Path):
    code = "import os; from agehpc.cluster.environment import resolve; print(resolve(os.environ))"
    python = f"{sys.executable} -c '{code}'"
    job = cluster.submit("--nodes=2", "--wrap", python, cwd=ROOT, PYTHONPATH=str(ROOT))
    try:
        job.wait()
        assert "launcher='single'" in job.log()
    finally:
        Path(job.show()["StdOut"]).unlink()
    in_salloc = cluster.run("salloc", "--nodes=2", "sh", "-c", f"cd {ROOT} && {python}")
    assert "launcher='single'" in in_salloc
