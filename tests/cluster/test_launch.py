"""`agehpc launch` and the scripts it renders, on a real Slurm; the probe stands for the trainer."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.slurm import Cluster, Job
from tests.cluster.test_slurm import PACKAGES, PROBE, seen
from tests.ranks import ROOT

pytestmark = pytest.mark.cluster

# Words of `agehpc launch`: every kind of environment, in shapes that this cluster has.
SHAPES = {
    "cpu": "--nodes 2 --tasks-per-node 2 --cpus-per-task 2 --environment path --time 1:00:00",
    "venv": "--nodes 2 --gpus-per-node 2 --cpus-per-task 2 --partition main --sbatch exclusive",
    "pyxis": "--gpus-per-node 1 --environment pyxis --image a.sqsh --chain 2 --time 2-0",
    "apptainer": "--gpus-per-node 2 --environment apptainer --image a.sif --sbatch mem=0",
    "torchrun": "--nodes 2 --gpus-per-node 2 --launcher torchrun --name 'a job of two'",
}


def launch(cluster: Cluster, folder: Path, words: str, **environ: str) -> str:
    """What `agehpc launch` writes to stdout."""
    run = shlex.quote(str(folder / "run"))
    line = f"image_age_64 --data.shards s --out {run} --no-check {words}"
    done = subprocess.run(
        [sys.executable, "-m", "agehpc", "launch", *shlex.split(line)],
        env={**cluster.environ, "PYTHONPATH": PACKAGES, **environ},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def accepts(cluster: Cluster, script: Path, *flags: str) -> None:
    done = subprocess.run(
        ["sbatch", "--test-only", *flags, str(script)],
        env=cluster.environ,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"Job \d+ to start at", done.stderr)


@pytest.mark.parametrize("shape", SHAPES)
def test_slurm_accepts_what_is_rendered(cluster: Cluster, tmp_path: Path, shape: str):
    folder = tmp_path / "50% of a folder"
    folder.mkdir()
    script = tmp_path / "submit.sh"
    script.write_text(launch(cluster, folder, f"{SHAPES[shape]} --dry-run"))
    accepts(cluster, script)
    bad = tmp_path / "bad.sh"
    bad.write_text(script.read_text().replace("--nodes=", "--nodes=9"))
    with pytest.raises(AssertionError):
        accepts(cluster, bad)


@pytest.mark.parametrize("name", [path.name for path in sorted((ROOT / "slurm").glob("*.sh"))])
def test_slurm_accepts_the_scripts(cluster: Cluster, name: str):
    accepts(cluster, ROOT / "slurm" / name, "--gpus-per-node=2", "--cpus-per-task=4")


def test_a_chain_ends_when_the_run_is_done(cluster: Cluster, tmp_path: Path):
    settings = {"AGEHPC_COMMAND": PROBE, "AGEHPC_PROBE": "chained"}
    told = launch(cluster, tmp_path, "--nodes 2 --chain 3 --json", **settings)
    jobs = [Job(cluster, number) for number in json.loads(told)["jobs"]]
    states = [job.wait() for job in jobs]
    logs = [job.log() for job in jobs]
    codes = [(state["JobState"], state["ExitCode"], state["Restarts"]) for state in states]
    ends = [("FAILED", "85:0", "0"), ("COMPLETED", "0:0", "0"), ("COMPLETED", "0:0", "0")]
    assert codes == ends, logs
    assert "agehpc: saved; the next job of the chain goes on" in logs[0]
    assert logs[1].endswith("agehpc: done\n")
    said = "agehpc: nothing to do: an earlier job of this chain ended with: done\n"
    assert logs[2] == said
    assert states[1]["StdOut"] == str(tmp_path / "run" / "logs" / f"slurm-{jobs[1].number}.out")

    # By hand the run is started again, from the code that it was launched with.
    (tmp_path / "run" / "rank-0-0.json").unlink()
    again = cluster.submit(
        *(str(tmp_path / "run" / "submit.sh"), "--train.kimg", "9"),
        PYTHONPATH=PACKAGES,
        AGEHPC_PROBE="place",
    )
    assert again.wait()["JobState"] == "COMPLETED", again.log()
    first = seen(tmp_path)[0]
    (code,) = (tmp_path / "run" / "code").iterdir()
    assert first["code"] == str(code)
    assert first["argv"][-2:] == ["--train.kimg", "9"]


def submit(cluster: Cluster, tmp_path: Path, act: str, *words: str, **environ: str) -> Job:
    settings = {
        "AGEHPC_HOME": str(ROOT),
        "AGEHPC_COMMAND": PROBE,
        "AGEHPC_LOCAL_TMP": str(tmp_path),
        "AGEHPC_PROBE": act,
        "PYTHONPATH": PACKAGES,
    }
    return cluster.submit(*words, cwd=tmp_path, **(settings | environ))


TRAIN = (str(ROOT / "slurm" / "train_video.sh"), "--data.shards", "s", "--out", "run")


def test_a_requeued_job_runs_the_code_of_its_first_start(cluster: Cluster, tmp_path: Path):
    job = submit(cluster, tmp_path, "once", "--nodes=2", *TRAIN)
    job.wait_until(lambda: job.show()["Restarts"] == "1", "requeue")
    script = tmp_path / "run" / "submit.sh"
    script.write_text(script.read_text().replace("agehpc_resume video_age_64", "echo as it was"))
    job.restart()
    assert job.wait()["JobState"] == "COMPLETED"
    assert f"as it was --data.shards s --out {tmp_path}/run" in job.log()


APPTAINER = """\
#!/usr/bin/env bash
# exec --pwd DIR --bind A,B IMAGE COMMAND...
echo "apptainer $*" >>"$APPTAINER_CALLS"
export IN_CONTAINER=yes
shift 5
[[ $1 == a.sif ]] && shift
exec "$@"
"""


def test_in_a_container(cluster: Cluster, tmp_path: Path):
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "apptainer").write_text(APPTAINER)
    (folder / "apptainer").chmod(0o755)
    job = submit(
        *(cluster, tmp_path, "place", "--nodes=2", *TRAIN),
        PATH=f"{folder}:{os.environ['PATH']}",
        APPTAINER_CALLS=str(tmp_path / "calls"),
        AGEHPC_ENVIRONMENT="apptainer",
        AGEHPC_IMAGE="a.sif",
    )
    assert job.wait()["JobState"] == "COMPLETED", job.log()
    assert [rank["rank"] for rank in seen(tmp_path)] == [0, 1]
    calls = (tmp_path / "calls").read_text().splitlines()
    binds = f"--pwd {tmp_path} --bind {ROOT},{tmp_path},{tmp_path}/run a.sif"
    assert calls[0].startswith(f"apptainer exec {binds} {sys.executable}"), calls
    assert len(calls) == 3  # the snapshot, and a rank on each node
    assert "agehpc: in the container a.sif by apptainer" in job.log()


def test_torchrun(cluster: Cluster, tmp_path: Path):
    job = submit(
        *(cluster, tmp_path, "stuck", "--nodes=2", "--ntasks-per-node=2", *TRAIN),
        AGEHPC_LAUNCHER="torchrun",
        AGEHPC_VENV=sys.prefix,
    )
    state = job.wait()
    # The ranks' 85 comes through, though torchrun has exit codes of its own.
    assert (state["JobState"], state["ExitCode"]) == ("FAILED", "85:0"), job.log()
    assert "agehpc: not requeued: no checkpoint is newer" in job.log()
    ranks = seen(tmp_path)
    assert [rank["rank"] for rank in ranks] == [0, 1, 2, 3]
    assert [rank["local_rank"] for rank in ranks] == [0, 1, 0, 1]
    assert {rank["launcher"] for rank in ranks} == {"torchrun"}
    assert {rank["master"][1] for rank in ranks} == {20000 + int(job.number) % 20000}


def test_evaluate(cluster: Cluster, tmp_path: Path):
    script = str(ROOT / "slurm" / "evaluate.sh")
    words = ("--nodes=2", script, "run", "--metrics", "fid")
    job = submit(cluster, tmp_path, "place", *words)
    assert job.wait()["JobState"] == "COMPLETED", job.log()
    assert [rank["rank"] for rank in seen(tmp_path)] == [0, 1]
    assert seen(tmp_path)[0]["argv"] == ["evaluate", "run", "--metrics", "fid"]
    assert job.log().endswith("agehpc: done\n")


def test_bench_tells_what_is_wrong(cluster: Cluster, tmp_path: Path):
    script = str(ROOT / "slurm" / "bench.sh")
    job = submit(
        *(cluster, tmp_path, "", "--cpus-per-task=2", script, "--recipe", "no_such_recipe"),
        AGEHPC_VENV=sys.prefix,
    )
    assert job.wait()["ExitCode"] == "2:0", job.log()
    assert "no_such_recipe" in job.log()
    assert "agehpc: failed with exit code 2\n" in job.log()
    two = submit(cluster, tmp_path, "", "--nodes=2", script)
    assert two.wait()["ExitCode"] == "2:0"
    assert "submit with --nodes=1" in two.log()
