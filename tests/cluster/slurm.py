"""A real Slurm of two nodes on this machine, from Debian's packages, in a folder of its own."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.ranks import free_port

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
NODES = ("n1", "n2")
# Debian puts daemons where a user's PATH does not look.
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

CONF = """\
ClusterName=agehpc
SlurmctldHost={hostname}(127.0.0.1)
SlurmctldPort={controller_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobRequeue=1
KillWait=40
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
GresTypes=gpu
NodeName=n1 NodeHostname={hostname} NodeAddr=127.0.0.1 Port={ports[0]} CPUs=4 Gres=gpu:2
NodeName=n2 NodeHostname={hostname} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 Gres=gpu:2
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=10
"""


def why_not() -> str | None:
    """Why no cluster can be started here; None if one can."""
    missing = [name for name in NEEDED if shutil.which(name, path=PATH) is None]
    if missing:
        return f"Slurm is not installed ({', '.join(missing)} missing): apt-get install slurm-wlm"
    if os.geteuid() != 0:
        return "slurmd starts jobs as root only"
    return None


class Cluster:
    """munged, slurmctld and a slurmd per node while entered; ends all jobs and daemons at exit."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="agehpc-slurm-", dir="/tmp"))
        self.environ = {**os.environ, "PATH": PATH, "SLURM_CONF": str(self.folder / "slurm.conf")}
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Cluster":
        try:
            self._configure()
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._daemons:
            subprocess.run(["scancel", "--full", "--signal=KILL", "--user=root"], env=self.environ)
            self.wait_for("no job step left", lambda: not self._steps(), 20, fail=False)
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in self._daemons:
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(self.folder)

    def run(self, *command: str, check: bool = True) -> str:
        """What a Slurm command writes to stdout."""
        done = subprocess.run(
            command, env=self.environ, capture_output=True, text=True, timeout=60, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"{command} failed: {done.stdout}{done.stderr}")
        return done.stdout

    def submit(
        self, *command: str, cwd: Path | None = None, umask: int = -1, **environ: str
    ) -> "Job":
        """Submit with sbatch: flags, script and its arguments."""
        done = subprocess.run(
            ["sbatch", "--parsable", *command],
            cwd=cwd,
            umask=umask,
            env={**self.environ, **environ},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise AssertionError(f"sbatch failed: {done.stdout}{done.stderr}")
        return Job(self, done.stdout.strip())

    def logs(self) -> str:
        """The ends of the daemons' logs."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}"
            for path in sorted(self.folder.glob("*.log"))
        )

    def _configure(self) -> None:
        self.folder.chmod(0o755)
        (self.folder / "state").mkdir()
        ports = [free_port() for _ in NODES]
        conf = CONF.format(
            hostname=os.uname().nodename,
            folder=self.folder,
            controller_port=free_port(),
            ports=ports,
        )
        (self.folder / "slurm.conf").write_text(conf)
        # Terminals stand in for GPUs: Slurm only wants files that exist.
        (self.folder / "gres.conf").write_text("Name=gpu File=/dev/tty[0-1]\n")
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)

    def _start(self) -> None:
        folder = self.folder
        self._daemon(
            "munged",
            "--foreground",
            "--force",
            f"--socket={folder}/munge.socket",
            f"--key-file={folder}/munge.key",
            f"--pid-file={folder}/munge.pid",
            f"--log-file={folder}/munged.log",
            f"--seed-file={folder}/munge.seed",
        )
        self.wait_for("munge socket", (folder / "munge.socket").exists, 10)
        self._daemon("slurmctld", "-D", "-c", "-f", f"{folder}/slurm.conf")
        for node in NODES:
            self.start_node(node)
        self.wait_for("both nodes idle", self.idle, 30)

    def start_node(self, node: str) -> None:
        """Start a node's slurmd."""
        self._daemon("slurmd", "-D", "-N", node, "-f", f"{self.folder}/slurm.conf")

    def kill_node(self, node: str, job: "Job") -> None:
        """What a power failure does: slurmd and all of a job on the node are gone at once.

        That Slurm finds out, minutes later, is done here by hand.
        """
        (daemon,) = (d for d in self._daemons if node in d.args)  # type: ignore[operator]
        tasks = job.processes(node)
        # The steps' own daemons first: they would tell the controller how the batch script ended.
        for pid in [*filter(_is_step_daemon, map(_parent, tasks)), daemon.pid, *tasks]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        daemon.wait()
        self._daemons.remove(daemon)
        self.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=power")

    def _daemon(self, *command: str) -> None:
        with (self.folder / f"{command[0]}-{len(self._daemons)}.log").open("wb") as log:
            self._daemons.append(
                subprocess.Popen(
                    command,
                    env=self.environ,
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )

    def idle(self) -> bool:
        """Whether nothing runs on the nodes."""
        states = self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%T", check=False).split()
        return states == ["idle"] * len(NODES)

    def _steps(self) -> list[str]:
        """slurmstepd processes of this cluster's nodes, by their sockets in the spool folders."""
        return [str(path) for path in self.folder.glob("spool-*/*_*.*") if path.is_socket()]

    def wait_for(
        self, what: str, ready: Callable[[], bool], seconds: float, fail: bool = True
    ) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > deadline:
                if fail:
                    raise AssertionError(f"no {what} in {seconds} s\n{self.logs()}")
                return
            time.sleep(0.1)


def _parent(pid: int) -> int:
    """The parent of a process; 0 where it has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        # Behind the name, which may hold anything.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _is_step_daemon(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return b"slurmstepd" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


@dataclass(frozen=True)
class Job:
    """A submitted job."""

    cluster: Cluster
    number: str

    def show(self) -> dict[str, str]:
        """What Slurm knows of it: JobState, ExitCode, Restarts, StdOut..."""
        text = self.cluster.run("scontrol", "show", "job", "-o", self.number)
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def processes(self, node: str | None = None, what: bytes = b"") -> dict[int, dict[str, str]]:
        """Variables of the job's processes by their number: of a node, of a command line."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes()
                pairs = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            environ = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
            mine = environ.get("SLURM_JOB_ID") == self.number
            mine &= environ.get("SLURM_CONF") == self.cluster.environ["SLURM_CONF"]
            if mine and node in (None, environ.get("SLURMD_NODENAME")) and what in words:
                found[int(folder.name)] = environ
        return found

    def log(self) -> str:
        """What the job has written."""
        path = Path(self.show()["StdOut"])
        return path.read_text() if path.exists() else ""

    def wait(self, *states: str, seconds: float = 400) -> dict[str, str]:
        """Wait for one of the states, by default any in which the job has ended."""
        ends = states or ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        self.wait_until(lambda: self.show()["JobState"] in ends, " or ".join(ends), seconds)
        return self.show()

    def wait_until(self, true: Callable[[], bool], what: str, seconds: float = 400) -> None:
        """Wait for a condition; AssertionError with the log of the job if it does not come."""
        deadline = time.monotonic() + seconds
        while not true():
            if time.monotonic() > deadline:
                state = self.show()
                raise AssertionError(f"no {what} in {seconds} s: {state}\n{self.log()}")
            time.sleep(0.2)

    def restart(self, restarts: int = 1) -> None:
        """Wait until the job is requeued, then start it at once; Slurm would wait two minutes."""
        self.wait_until(lambda: self.show()["Restarts"] == str(restarts), "requeue")
        self.wait("PENDING")
        # Its first start is over only when the nodes are free and the controller has heard how
        # the batch script ended, which it would take for the next start's end otherwise.
        self.wait_until(self.cluster.idle, "idle nodes")
        time.sleep(5)
        self.cluster.run("scontrol", "update", f"JobId={self.number}", "StartTime=now")
