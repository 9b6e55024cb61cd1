"""What clusters do to a training job, and whether the run ends as one that nobody disturbed."""

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tests.cluster.slurm import Cluster, Job
from tests.ranks import ROOT
from tests.train.runs import BATCH, SMOOTH, Training, flags, newest, rows, stages, state, tensors

PACKAGES = os.pathsep.join([str(ROOT), str(ROOT / "kernels"), str(ROOT / "tune")])
NODES = 2
# A tick a step: every loss of every step is compared, wherever a start saved and ended.
TRAINED = [
    *(*stages(2, 2), *SMOOTH, "--observe.tick-kimg", str(BATCH / 1000)),
    *("--cluster.device", "cpu", "--cluster.threads", "1"),
]


def undisturbed(shards: Path, folder: Path, *more: str) -> Path:
    """A finished run that was left alone, on as many ranks."""
    run = folder / "undisturbed"
    ended = Training(flags(shards, run, *TRAINED, *more), folder / "log", NODES).end(timeout=900)
    assert ended.codes == [0] * NODES, ended.output
    return run


def submit(
    cluster: Cluster, shards: Path, run: Path, *more: str, options: tuple[str, ...] = (), **env: str
) -> Job:
    """The same run as a job of one rank a node."""
    run.parent.mkdir(parents=True, exist_ok=True)
    words = flags(shards, run, *TRAINED, *more)
    settings = {
        "AGEHPC_COMMAND": f"{sys.executable} -m agehpc",
        "AGEHPC_LOCAL_TMP": str(run.parent),
        "AGEHPC_MAX_RESTARTS": "1000",
        "PYTHONPATH": PACKAGES,
        "OMP_NUM_THREADS": "1",
    }
    return cluster.submit(
        *(f"--nodes={NODES}", f"--output={run.parent}/job.out", *options),
        *("slurm/train_video.sh", *words),
        cwd=ROOT,
        **(settings | env),
    )


def assert_equal_ends(reference: Path, run: Path) -> None:
    """The same weights, moments, averages and counters, losses of every step, figures, pictures."""
    ours, theirs = tensors(newest(run)), tensors(newest(reference))
    assert newest(run).name == newest(reference).name
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(theirs[name], tensor), name
    late = {"owed": False}  # the last look may have been made up for
    assert state(newest(run)) | late == state(newest(reference)) | late
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert rows(run / name) == rows(reference / name), name
    pictures = [sorted((r / "samples").iterdir()) for r in (run, reference)]
    for mine, other in zip(*pictures, strict=True):
        assert (mine.name, mine.read_bytes()) == (other.name, other.read_bytes())
    left = [path.name for path in (run / "checkpoints").iterdir() if path.name.startswith(".")]
    assert left == []


def ranks(job: Job) -> dict[int, int]:
    """Process of each rank that runs."""
    found = job.processes(what=b"agehpc\0train\0")
    # The shells around a rank have its words too.
    return {
        int(environ["SLURM_PROCID"]): pid
        for pid, environ in found.items()
        if "python" in os.path.realpath(f"/proc/{pid}/exe")
    }


def send(pids: list[int], number: signal.Signals = signal.SIGKILL) -> None:
    """Send processes a signal."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def kill_a_rank(cluster: Cluster, job: Job, run: Path) -> None:
    """As the kernel does when memory runs out."""
    send([random.choice(list(ranks(job).values()))])


def kill_all_in_a_save(cluster: Cluster, job: Job, run: Path) -> None:
    """All ranks at once, while a checkpoint is half written; nothing where none comes any more."""
    pids, folder = list(ranks(job).values()), run / "checkpoints"
    deadline = time.monotonic() + 120
    while not any(folder.glob(".step-*")):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"no save within two minutes\n{job.log()}")
    send(pids)


def requeue(cluster: Cluster, job: Job, run: Path) -> None:
    """By the operator."""
    cluster.run("scontrol", "requeue", job.number)


def time_is_nearly_up(cluster: Cluster, job: Job, run: Path) -> None:
    """What `--signal=B:USR1@300` does five minutes before the limit."""
    cluster.run("scancel", "--batch", "--signal=USR1", job.number)


def preempt(cluster: Cluster, job: Job, run: Path) -> None:
    """A job of a partition with a higher priority takes the nodes."""
    words = ("--nodes=2", "--ntasks-per-node=4", "--partition=urgent", "--wrap", "sleep 1")
    cluster.submit(f"--output={run.parent}/urgent.out", *words, cwd=run.parent).wait()


def fail_a_node(cluster: Cluster, job: Job, run: Path) -> None:
    """One node loses power, and comes back."""
    node = random.choice(["n1", "n2"])
    cluster.kill_node(node, job)
    job.wait_until(
        lambda: job.show()["JobState"] not in ("RUNNING", "COMPLETING"), "end of a start"
    )
    cluster.start_node(node)


Disturbance = Callable[[Cluster, Job, Path], None]
ANYTIME: tuple[Disturbance, ...] = (
    kill_a_rank,
    requeue,
    time_is_nearly_up,
    preempt,
    fail_a_node,
)
"""What may come at any moment."""


def random_moments(
    cluster: Cluster,
    shards: Path,
    folder: Path,
    kills: int,
    seed: int,
    tell: Callable[[str], object] = print,
) -> None:
    """Disturb runs `kills` times at random moments; each ends as the undisturbed one does."""
    draw = random.Random(seed)
    reference = undisturbed(shards, folder)
    done, number = 0, 0
    while done < kills:
        number += 1
        run = folder / f"run-{number}" / "run"
        job = submit(cluster, shards, run, AGEHPC_MAX_CRASHES="1000")
        restarts = 0
        while done < kills:
            disturbance, wait = draw.choice([*ANYTIME, kill_all_in_a_save]), draw.uniform(0, 12)
            job.wait_until(lambda job=job: bool(ranks(job)) or is_over(job), "start of the ranks")
            started = time.monotonic()
            while time.monotonic() < started + wait and not is_over(job):
                time.sleep(0.05)
            if not ranks(job):
                break
            disturbance(cluster, job, run)
            if not _restarted(job, restarts + 1):  # it was done just before
                break
            done, restarts = done + 1, restarts + 1
            tell(f"{done} of {kills}: run {number}, {disturbance.__name__} after {wait:.1f} s")
        assert job.wait(seconds=900)["JobState"] == "COMPLETED", job.log()
        assert_equal_ends(reference, run)
        tell(f"run {number} ended as the undisturbed one after {job.show()['Restarts']} restarts")


def _restarted(job: Job, restarts: int) -> bool:
    job.wait_until(lambda: job.show()["Restarts"] == str(restarts) or is_over(job), "next start")
    if job.show()["Restarts"] != str(restarts):
        return False
    job.restart(restarts)
    return True


def is_over(job: Job) -> bool:
    """Whether a job has ended for good."""
    return job.show()["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")


def wait_for_step(job: Job, run: Path, step: int) -> None:
    """Wait until a step's losses are written."""
    metrics = run / "metrics.jsonl"
    job.wait_until(
        lambda: metrics.exists() and metrics.read_text().count("\n") >= step, f"step {step}"
    )
