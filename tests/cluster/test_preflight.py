"""`slurm/preflight.sh` on two nodes of a real Slurm."""

import os
import sys
from pathlib import Path

import pytest

from tests.cluster.slurm import Cluster
from tests.ranks import ROOT

pytestmark = pytest.mark.cluster


def test_two_nodes(cluster: Cluster, tmp_path: Path):
    worse = tmp_path / "agehpc"  # on n2 fewer files may be open
    worse.write_text(
        f"""#!/bin/sh
        if [ "$SLURMD_NODENAME" = n2 ]; then ulimit -n 512; fi
        exec {sys.executable} -m agehpc "$@"
        """
    )
    worse.chmod(0o755)
    settings = {
        "AGEHPC_HOME": str(ROOT),
        "AGEHPC_COMMAND": f"{sys.executable} -m agehpc",
        "AGEHPC_LOCAL_TMP": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels"), str(ROOT / "tune")]),
    }
    script = str(ROOT / "slurm" / "preflight.sh")
    words = ["--out", str(tmp_path), "--mib", "1", "--timeout-minutes", "5"]
    fine = cluster.submit(
        "--nodes=2", script, *words, "--least-gib=0.001", cwd=tmp_path, **settings
    )
    assert fine.wait()["JobState"] == "COMPLETED", fine.log()
    assert "2 ranks with no GPU: they compute on the CPU" in fine.log()
    assert "\nok    all-reduce     right, 1 MiB over gloo at " in fine.log()
    settings["AGEHPC_COMMAND"] = str(worse)
    unlike = cluster.submit(
        "--nodes=2", script, *words, "--least-gib=0.001", cwd=tmp_path, **settings
    )
    assert unlike.wait()["ExitCode"] == "1:0", unlike.log()
    assert "\nfail  open files     n2: 512 allowed (ulimit -n), 1024 wanted\n" in unlike.log()
    assert "leave these hosts out: --exclude=n2\n" in unlike.log()
