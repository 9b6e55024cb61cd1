import os
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agehpc.cluster.environment import Environment, expand_counts, expand_nodelist, resolve
from agehpc.errors import UsageError

HOST = os.uname().nodename
TORCHRUN = {
    "RANK": "5",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "8",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node-a",
    "MASTER_PORT": "29500",
}
# As srun of Slurm 22.05 sets them: two tasks on each of two nodes.
SRUN = {
    "SLURM_JOB_ID": "41003",
    "SLURM_STEP_ID": "0",
    "SLURM_STEPID": "0",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS": "4",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_TASKS_PER_NODE": "2(x2)",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_JOB_NODELIST": "n[08-09]",
    "SLURM_STEP_NODELIST": "n[08-09]",
    "SLURMD_NODENAME": "n09",
}
# As sbatch sets them for its script, which is not a rank.
BATCH = {name: value for name, value in SRUN.items() if "STEP" not in name} | {
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}
ALONE = Environment(0, 0, 1, 1, "127.0.0.1", 0, "single", HOST)


def without(environ: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name not in names}


def test_torchrun_comes_first():
    expected = Environment(5, 1, 8, 4, "node-a", 29500, "torchrun", HOST)
    assert resolve(TORCHRUN) == expected
    assert resolve(SRUN | TORCHRUN) == expected
    assert expected.variables() == TORCHRUN


def test_srun_task():
    assert resolve(SRUN) == Environment(3, 1, 4, 2, "n08", 21003, "slurm", "n09")


def test_rendezvous_can_be_overridden():
    place = resolve(SRUN | {"MASTER_ADDR": "10.0.0.8", "MASTER_PORT": "4000"})
    assert (place.master_addr, place.master_port) == ("10.0.0.8", 4000)


def test_step_smaller_than_its_job():
    # One task on the second of two nodes, as measured with `srun -N1 -n1 -w n09`.
    step = {
        "SLURM_STEP_NODELIST": "n09",
        "SLURM_STEP_TASKS_PER_NODE": "1",
        "SLURM_NTASKS": "1",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
    }
    assert resolve(SRUN | step) == Environment(0, 0, 1, 1, "n09", 21003, "slurm", "n09")


def test_uneven_nodes():
    uneven = {"SLURM_STEP_TASKS_PER_NODE": "2(x3),1", "SLURM_NTASKS": "7"}
    last = {"SLURM_NODEID": "3", "SLURM_LOCALID": "0", "SLURM_PROCID": "6"}
    assert resolve(SRUN | uneven).local_world_size == 2
    assert resolve(SRUN | uneven | last).local_world_size == 1


def test_old_slurm_without_step_counts():
    only_job = without(SRUN, "SLURM_STEP_TASKS_PER_NODE", "SLURM_STEP_NODELIST", "SLURM_STEP_ID")
    assert resolve(only_job) == resolve(SRUN)
    assert resolve(without(only_job, "SLURM_TASKS_PER_NODE")) == resolve(SRUN)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"MASTER_ADDR": "node-a", "MASTER_PORT": "1"},
        BATCH,
        without(BATCH, "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"),  # salloc
        SRUN | {"SLURM_STEP_ID": "4294967290", "SLURM_STEPID": "4294967290"},  # interactive step
    ],
    ids=["laptop", "only a rendezvous", "sbatch", "salloc", "salloc with a shell on the node"],
)
def test_alone(environ: dict[str, str]):
    assert resolve(environ) == ALONE


@pytest.mark.parametrize("missing", sorted(TORCHRUN))
def test_partial_torchrun(missing: str):
    with pytest.raises(UsageError, match=rf"partially set environment.* but {missing} missing"):
        resolve(without(TORCHRUN, missing))


@pytest.mark.parametrize(
    "missing", ["SLURM_JOB_ID", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS"]
)
def test_partial_slurm(missing: str):
    with pytest.raises(UsageError, match=rf"but {missing} missing; start the ranks with srun"):
        resolve(without(SRUN, missing))


def test_partial_slurm_without_nodes():
    with pytest.raises(UsageError, match="SLURM_JOB_NODELIST missing"):
        resolve(without(SRUN, "SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (TORCHRUN | {"RANK": "8"}, "RANK=8 must be below the 8 ranks of WORLD_SIZE"),
        (TORCHRUN | {"LOCAL_RANK": "4"}, "LOCAL_RANK=4 must be below the 4 ranks"),
        (TORCHRUN | {"WORLD_SIZE": "two"}, "WORLD_SIZE='two' is not a whole number"),
        (TORCHRUN | {"RANK": "-1"}, "RANK='-1' is not a whole number"),
        (TORCHRUN | {"MASTER_PORT": "70000"}, "MASTER_PORT=70000 is not a port"),
        (SRUN | {"SLURM_PROCID": "4"}, "SLURM_PROCID=4 must be below the 4 ranks of SLURM_NTASKS"),
        (SRUN | {"SLURM_NODEID": "2"}, "SLURM_NODEID=2 is not among the 2 nodes"),
        (SRUN | {"SLURM_STEP_TASKS_PER_NODE": "2(x"}, r"cannot read the tasks per node '2\(x'"),
        (SRUN | {"SLURM_STEP_NODELIST": "n[1-"}, r"cannot read the node list 'n\[1-'"),
    ],
)
def test_wrong_values_are_named(wrong: dict[str, str], message: str):
    with pytest.raises(UsageError, match=message):
        resolve(wrong)


@pytest.mark.parametrize(
    ("nodelist", "hosts"),
    [
        ("n1", ["n1"]),
        ("n[01-03,7],gpu-a1", ["n01", "n02", "n03", "n7", "gpu-a1"]),
        ("r[1-2]n[09-10]", ["r1n09", "r1n10", "r2n09", "r2n10"]),
        ("a[3]-ib,b", ["a3-ib", "b"]),
        ("n[099-101]", ["n099", "n100", "n101"]),
    ],
)
def test_nodelist(nodelist: str, hosts: list[str]):
    assert expand_nodelist(nodelist) == hosts


@pytest.mark.parametrize("nodelist", ["", "n[", "n]1", "n[]", "n[a-b]", "n[3-1]", "n[1-2", "n[1,]"])
def test_bad_nodelist(nodelist: str):
    with pytest.raises(UsageError, match="cannot read the node list"):
        expand_nodelist(nodelist)


def test_counts():
    assert expand_counts("2(x3),1") == [2, 2, 2, 1]
    assert expand_counts("4") == [4]


@st.composite
def _ranges(draw: st.DrawFn) -> str:
    width = draw(st.integers(1, 3))
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        first = draw(st.integers(0, 10**width - 1))
        last = draw(st.integers(first, min(first + 12, 10**width - 1)))
        parts.append(f"{first:0{width}d}" + (f"-{last:0{width}d}" if last > first else ""))
    return "[" + ",".join(parts) + "]"


_NAMES = st.from_regex(r"[a-z]([a-z-]{0,3}[a-z])?", fullmatch=True)
# Slurm knows no name that goes on after its last bracket.
_HOSTS = _NAMES | st.lists(st.tuples(_NAMES, _ranges()).map("".join), min_size=1, max_size=2).map(
    "".join
)


@pytest.fixture(scope="module")
def scontrol_environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A configuration for scontrol, which wants one even where it asks no controller."""
    if shutil.which("scontrol") is None:
        pytest.skip("Slurm is not installed (scontrol missing): apt-get install slurm-client")
    conf = tmp_path_factory.mktemp("slurm") / "slurm.conf"
    conf.write_text("ClusterName=test\nSlurmctldHost=localhost\nNodeName=n1\n")
    return {**os.environ, "SLURM_CONF": str(conf)}


@given(parts=st.lists(_HOSTS, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_nodelist_like_scontrol(scontrol_environ: dict[str, str], parts: list[str]):
    nodelist = ",".join(parts)
    told = subprocess.run(
        ["scontrol", "show", "hostnames", nodelist],
        env=scontrol_environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert expand_nodelist(nodelist) == told.stdout.split()
