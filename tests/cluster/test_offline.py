"""Compute nodes have no internet: nothing on the way from shards to scores asks for it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agehpc import cli
from tests.ranks import ROOT

# A network namespace of its own has no interface but a loopback, which is down.
OFFLINE = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
TINY = [
    *("--train.kimg", "0.064", "--train.global-batch", "16", "--train.save-every-kimg", "0.032"),
    *("--observe.tick-kimg", "0.032", "--evaluate.samples", "8", "--evaluate.generated", "8"),
    *("--evaluate.metrics", "frechet_lite0", "--cluster.device", "cpu"),
]


def why_not() -> str | None:
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return "unshare or ip is not installed: apt-get install util-linux iproute2"
    tried = subprocess.run([*OFFLINE, "true"], capture_output=True, text=True)
    return None if tried.returncode == 0 else f"no network namespace: {tried.stderr.strip()}"


def offline(*words: str, cwd: Path) -> str:
    """What a command of the toolkit writes, in a place without a network."""
    environ = {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels"), str(ROOT / "tune")]),
        "OMP_NUM_THREADS": "1",
        "AGEHPC_CACHE": str(cwd / "cache"),
    }
    done = subprocess.run(
        [*OFFLINE, sys.executable, *words],
        env=environ,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_from_shards_to_scores(tmp_path: Path):
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    outside = "import socket; socket.create_connection(('192.0.2.1', 53), timeout=5)"
    with pytest.raises(AssertionError, match="Network is unreachable"):
        offline("-c", outside, cwd=tmp_path)
    assert cli.main(["data", "digits", str(tmp_path / "shards")]) == 0
    shards = ("--data.shards", "shards")
    agehpc, torchrun = ("-m", "agehpc"), ("-m", "torch.distributed.run", "--nproc-per-node", "2")
    offline(*torchrun, *agehpc, "train", "mnist_vae", *shards, "--out", "run", *TINY, cwd=tmp_path)
    assert "frechet_lite0" in (tmp_path / "run" / "evaluations.jsonl").read_text()
    told = offline(
        *(*agehpc, "evaluate", "run", "--metrics", "frechet_lite0", "psnr_db"),
        *("--n-real", "8", "--n-fake", "8", "--n-rebuilt", "8"),
        cwd=tmp_path,
    )
    assert "frechet_lite0" in told
    offline(*agehpc, "sample", "run", "--out", "samples", "--n", "4", cwd=tmp_path)
    assert list((tmp_path / "samples").glob("*.png"))
