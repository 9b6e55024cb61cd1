"""Whatever happens to its job, a run ends as one that nobody disturbed, bit for bit."""

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agehpc import cli, soundness
from tests.cluster import kills
from tests.cluster.slurm import Cluster
from tests.train.runs import manifest, newest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def shards(cluster: Cluster, demo_clips, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "demo"
    assert cli.main(["data", "demo", str(out), "--size", "28"]) == 0
    return out


@pytest.fixture(scope="module")
def reference(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kills.undisturbed(shards, tmp_path_factory.mktemp("undisturbed"))


def test_a_rank_is_killed(cluster: Cluster, shards: Path, reference: Path, tmp_path: Path):
    run = tmp_path / "run"
    job = kills.submit(cluster, shards, run)
    kills.wait_for_step(job, run, 7)
    kills.kill_a_rank(cluster, job, run)
    job.restart()
    state = job.wait()
    log = job.log()
    assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "1"), log
    assert "agehpc: crashed with exit code 137; requeued for start 2" in log
    assert "resumed from step-" in log
    kills.assert_equal_ends(reference, run)


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 12])
@pytest.mark.parametrize("disturbance", [*kills.ANYTIME[1:], kills.kill_all_in_a_save])
def test_disturbed_once(
    cluster: Cluster,
    shards: Path,
    reference: Path,
    tmp_path: Path,
    disturbance: kills.Disturbance,
    step: int,
):
    run = tmp_path / "run"
    job = kills.submit(cluster, shards, run)
    kills.wait_for_step(job, run, step)
    disturbance(cluster, job, run)
    job.restart()
    assert job.wait()["JobState"] == "COMPLETED", job.log()
    kills.assert_equal_ends(reference, run)


@pytest.mark.slow
def test_the_time_limit(cluster: Cluster, shards: Path, reference: Path, tmp_path: Path):
    """The real one: two minutes of a run that is made to take longer."""
    run = tmp_path / "run"
    options = ("--time=2", "--signal=B:USR1@75")
    job = kills.submit(cluster, shards, run, options=options)
    kills.wait_for_step(job, run, 1)
    pids = list(kills.ranks(job).values())
    held = time.monotonic()
    kills.send(pids, kills.signal.SIGSTOP)
    job.wait_until(lambda: "SIGUSR1: the ranks are asked" in job.log(), "signal")
    kills.send(pids, kills.signal.SIGCONT)
    assert time.monotonic() - held < 120
    job.wait_until(lambda: "requeued for start 2" in job.log(), "requeue")
    cluster.run("scontrol", "update", f"JobId={job.number}", "TimeLimit=60")
    job.restart()
    assert job.wait()["JobState"] == "COMPLETED", job.log()
    kills.assert_equal_ends(reference, run)


@pytest.mark.slow
def test_a_rank_that_hangs(cluster: Cluster, shards: Path, reference: Path, tmp_path: Path):
    """The watchdogs of the others say who hangs, and end; Slurm ends the one that does."""
    run = tmp_path / "run"
    job = kills.submit(cluster, shards, run, "--cluster.hang-minutes", "0.5")
    kills.wait_for_step(job, run, 7)
    kills.send([kills.ranks(job)[1]], kills.signal.SIGSTOP)
    held = time.monotonic()
    job.wait_until(lambda: "requeued for start 2" in job.log(), "end of the start", 240)
    # The limit, KillWait, and a loaded machine.
    assert time.monotonic() - held < 30 + 40 + 60
    assert "rank 1 (it does not answer) hangs; the other 1 wait for it" in job.log()
    # Which collective the others are in depends on where it was stopped.
    stacks = (run / "logs" / "rank0.stacks").read_text()
    assert re.search(
        r"rank 0 on n1: no progress for 3\d s, at step \d+, \w+, waits in \w+\n", stacks
    )
    job.restart()
    assert job.wait()["JobState"] == "COMPLETED", job.log()
    kills.assert_equal_ends(reference, run)


@pytest.mark.slow
def test_a_rank_that_is_slow(cluster: Cluster, shards: Path, tmp_path: Path):
    """Stopped most of the time, it is named with its host before the run ends."""
    run = tmp_path / "run"
    job = kills.submit(cluster, shards, run, "--train.kimg", "100")
    kills.wait_for_step(job, run, 7)
    slow = kills.ranks(job)[1]
    for _ in range(400):
        kills.send([slow], kills.signal.SIGSTOP)
        time.sleep(0.4)
        kills.send([slow], kills.signal.SIGCONT)
        time.sleep(0.05)
        if "is slow" in job.log():
            break
    assert "warning: rank 1 on n2 is slow: its own work takes" in job.log()
    assert '"host": "n2"' in (run / "health.jsonl").read_text()
    cluster.run("scancel", job.number)
    job.wait("CANCELLED")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder)])
    if mounted.returncode:
        pytest.skip("tmpfs cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk(cluster: Cluster, shards: Path, reference: Path, small_disk: Path):
    run = small_disk / "run"
    job = kills.submit(cluster, shards, run, AGEHPC_LOCAL_TMP="/tmp")
    kills.wait_for_step(job, run, 1)
    job.wait_until(manifest(run, 5).exists, "first checkpoint")
    ballast = small_disk / "ballast"
    subprocess.run(["dd", "if=/dev/zero", f"of={ballast}", "bs=4096"], stderr=subprocess.DEVNULL)
    state = job.wait()
    log = job.log()
    assert (state["JobState"], state["ExitCode"], state["Restarts"]) == ("FAILED", "1:0", "0"), log
    errors = [line for line in log.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, log
    assert "No space left on device" in errors[0]
    assert "Traceback" not in log
    ballast.unlink()
    soundness.verify(newest(run))

    again = cluster.submit(f"--output={small_disk}/again.out", str(run / "submit.sh"))
    assert again.wait()["JobState"] == "COMPLETED", again.log()
    kills.assert_equal_ends(reference, run)


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_twenty_in_a_row(cluster: Cluster, shards: Path, tmp_path: Path):
    kills.random_moments(cluster, shards, tmp_path, 20, seed=int(time.time()))
