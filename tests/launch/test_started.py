"""What a rendered script starts: the words of srun, whole, for every kind of environment.

srun and scontrol are stand-ins; tests/cluster/test_launch.py has the real ones.
"""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from agehpc.launch.flags import parse
from agehpc.launch.script import render
from tests.ranks import ROOT

SRUN = """\
#!/usr/bin/env bash
printf '%s\\n' "$@" >>"$CALLS"
echo "$AGEHPC_LOCAL $MASTER_ADDR" >"$CALLS.settings"
"""
# More names than a pipe holds: whoever reads the first one alone ends who writes the others.
SCONTROL = """\
#!/usr/bin/env bash
case $2 in
hostnames) printf 'n%d\\n' {1..20000} ;;
node) echo 'NodeName=n1 NodeAddr=10.0.0.1 Port=1' ;;
esac
"""
JOB = {
    "SLURM_JOB_ID": "40007",
    "SLURM_JOB_NAME": "agehpc-r",
    "SLURM_NNODES": "2",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_JOB_CPUS_PER_NODE": "16(x2)",
    "SLURM_GPUS_ON_NODE": "4",
}
TRAIN = "train image_age_64 --data.shards s --out {run}"
ONE_A_GPU = (
    "--nodes=2 --ntasks=8 --ntasks-per-node=4 --cpus-per-task=4 "
    "--kill-on-bad-exit=1 --mpi=none --input=none"
)
ONE_A_NODE = (
    "--nodes=2 --ntasks=2 --ntasks-per-node=1 --cpus-per-task=16 "
    "--kill-on-bad-exit=1 --mpi=none --input=none"
)
MOUNTS = "{code}:{code},{cwd}:{cwd},/tmp:/tmp,{run}:{run},/data:/data"
LIB = "{code}/slurm/lib"
STARTED = {
    "--environment path": f"{ONE_A_GPU} {LIB}/task.sh {LIB}/rank.sh agehpc {TRAIN}",
    "--environment pyxis --image a.sqsh --mounts /data": f"{ONE_A_GPU} --container-image=a.sqsh "
    f"--container-workdir={{cwd}} --container-mounts={MOUNTS} "
    f"{LIB}/task.sh {LIB}/rank.sh agehpc {TRAIN}",
    "--environment apptainer --image a.sif": f"{ONE_A_GPU} {LIB}/task.sh apptainer exec "
    "--pwd {cwd} --bind {code},{cwd},/tmp,{run} --nv a.sif "
    f"{LIB}/rank.sh agehpc {TRAIN}",
    "--environment apptainer --image a.sif --launcher torchrun": f"{ONE_A_NODE} {LIB}/task.sh "
    "apptainer exec --pwd {cwd} --bind {code},{cwd},/tmp,{run} --nv a.sif "
    "python3 -m torch.distributed.run --nnodes=2 --nproc-per-node=4 --master-addr=10.0.0.1 "
    f"--master-port=20007 --no-python {LIB}/rank.sh agehpc {TRAIN}",
}


@pytest.mark.parametrize("words", STARTED)
def test_the_words_of_srun(tmp_path: Path, words: str):
    folder, run, code = tmp_path / "bin", tmp_path / "run", tmp_path / "code"
    folder.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("agehpc", SRUN)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    code.mkdir()
    (code / "slurm").symlink_to(ROOT / "slurm")
    line = f"image_age_64 --nodes 2 --gpus-per-node 4 --data.shards s --out {run} {words}"
    text = render(parse(shlex.split(line)), run, code, tmp_path, {})
    done = subprocess.run(
        ["bash", "-s"],
        input=text,
        env={**JOB, "PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    wanted = STARTED[words].format(code=code, cwd=tmp_path, run=run)
    assert (tmp_path / "calls").read_text().splitlines() == shlex.split(wanted)
    settings = (tmp_path / "calls.settings").read_text()
    assert settings == "/tmp/agehpc-40007 10.0.0.1\n"
    assert done.stdout.endswith("agehpc: done\n")
