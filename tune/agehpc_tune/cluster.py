"""The Ray that runs a sweep: of this machine alone, or one node of it in every task of srun.

It is the sweep's own: started with it, seen by nobody else (a token of its own), gone with it.
"""

import contextlib
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from agehpc.cluster.environment import Environment
from agehpc.errors import EXIT_DONE, EXIT_LOST, AgehpcError, UsageError

START_S = 300.0
_STORE_BYTES = 80 * 2**20  # the least that Ray takes: reports are small
# The longest name that Ray makes below its folder, within the 107 bytes of a Unix socket's.
_SOCKET = "/session_2000-01-01_00-00-00_000000_4194304/sockets/plasma_store.10"
_FOLDER = "agehpc-ray-"
_DAEMONS = ("gcs_server", "raylet")

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DEDUP_LOGS": "0",
    # A worker that ends leaves its ranks to their guard, which lets them save.
    "RAY_kill_child_processes_on_worker_exit": "false",
    "RAY_AUTH_MODE": "token",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000",
}


def cores(environ: Mapping[str, str], place: Environment) -> int:
    """Return the CPUs of this node that are the sweep's."""
    if place.launcher == "slurm" and (count := environ.get("SLURM_CPUS_PER_TASK")):
        return int(count)
    return len(os.sched_getaffinity(0))


def gpus() -> int:
    """Return the GPUs of this node that are the sweep's."""
    import torch

    return torch.cuda.device_count()


def _prepare_environment(local: bool, token: str) -> None:
    """Set what Ray reads when it is imported, here and in what is started from here."""
    assert "ray" not in sys.modules
    os.environ.update(SETTINGS, RAY_AUTH_TOKEN=token)
    if local:  # its name notwithstanding: every port on the loopback device
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ.pop("RAY_ADDRESS", None)
    if path := os.environ.get("PYTHONPATH"):  # workers start in other folders
        parts = path.split(os.pathsep)
        os.environ["PYTHONPATH"] = os.pathsep.join(str(Path(part).absolute()) for part in parts)


def _ignore_requests() -> None:
    """Let what is started from here outlive a request to save.

    Slurm sends it to every process of a step. The driver takes it; it asks the trials to save, and
    ends Ray when they have.
    """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def _short_folder(note: Path) -> str:
    """Return a new folder whose name leaves room for those of Ray's sockets.

    A driver that was killed has left its own: `note` names it.
    """
    if note.exists() and (old := Path(note.read_text())).name.startswith(_FOLDER):
        shutil.rmtree(old, ignore_errors=True)
    limit = 107 - len(_SOCKET)
    base = tempfile.gettempdir()
    if len(base) + len(f"/{_FOLDER}12345678") > limit:
        base = "/tmp"
    made = tempfile.mkdtemp(prefix=_FOLDER, dir=base)
    note.write_text(made)
    return made


def _head_file(out: Path, environ: Mapping[str, str]) -> Path:
    start = "-".join(
        environ.get(name, "0") for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_STEP_ID")
    )
    return out / "ray" / f"head-{start}.json"


class Cluster:
    """Ray while it is entered; on the first node, whose process is the driver.

    Args:
        place: of this process among the tasks of srun.
        cpus: of this node.
        gpus: of this node.
        out: the sweep directory, which every node sees.
    """

    def __init__(self, place: Environment, cpus: int, gpus: int, out: Path) -> None:
        self._place, self._cpus, self._gpus, self._out = place, cpus, gpus, out
        self._daemons: list[int] = []
        self._head: Path | None = None

    def __enter__(self) -> "Cluster":
        token = secrets.token_hex(32)
        _ignore_requests()
        _prepare_environment(self._place.world_size == 1, token)
        self._folder = _short_folder(self._out / "ray" / "folder")
        try:
            self._start(token)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self, token: str) -> None:
        import ray

        _to_file(self._out / "ray" / "driver.log")
        options: dict[str, Any] = {}
        if self._place.world_size > 1:
            options["_node_ip_address"] = _address(self._place)
        try:
            ray.init(
                address="local",
                num_cpus=self._cpus,
                num_gpus=self._gpus,
                include_dashboard=False,
                object_store_memory=_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=self._folder,
                **options,
            )
        except (RuntimeError, ConnectionError, TimeoutError) as error:
            raise AgehpcError(f"Ray cannot be started here: {error}") from error
        self._daemons = _children(_DAEMONS)
        if self._place.world_size == 1:
            return
        self._head = _head_file(self._out, os.environ)
        told = {"address": ray.get_runtime_context().gcs_address, "token": token}
        # Whoever reads it may run programs in the user's name.
        partial = self._head.with_suffix(".partial")
        partial.touch(0o600)
        partial.write_text(json.dumps(told))
        partial.replace(self._head)
        nodes = self._place.world_size
        _wait(lambda: len(ray.nodes()) == nodes, f"{nodes} nodes of Ray")

    def healthy(self) -> bool:
        """Whether the processes of Ray on this node are alive."""
        return all(_alive(pid) for pid in self._daemons)

    def __exit__(self, *_: object) -> None:
        if self._head is not None:
            self._head.unlink(missing_ok=True)
        if "ray" in sys.modules and self.healthy():
            import ray

            ray.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)
        (self._out / "ray" / "folder").unlink(missing_ok=True)


def join(place: Environment, cpus: int, gpus: int, out: Path) -> int:
    """Be a node of the Ray that the first task of srun starts, until that is over."""
    head = _head_file(out, os.environ)
    stopped = []
    _ignore_requests()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.append(1))
    _wait(lambda: _read(head) is not None, f"the first node's {head}", lambda: bool(stopped))
    told = _read(head)
    if told is None:
        return EXIT_DONE
    _prepare_environment(False, told["token"])
    resources = [f"--num-cpus={cpus}", f"--num-gpus={gpus}"]
    memory = f"--object-store-memory={_STORE_BYTES}"
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
    address = f"--address={told['address']}"
    own = f"--node-ip-address={_address(place)}"
    log = out / "ray" / f"node-{place.rank}.log"
    with log.open("ab") as output:
        node = subprocess.Popen(
            [*command, address, own, *resources, memory, "--disable-usage-stats"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        while head.exists() and node.poll() is None and (not stopped or _listens(told["address"])):
            time.sleep(0.5)
    finally:
        code = node.poll()
        node.terminate()
        try:
            node.wait(30)
        except subprocess.TimeoutExpired:
            node.kill()
            node.wait()
    return EXIT_DONE if code is None or stopped else EXIT_LOST


def _address(place: Environment) -> str:
    """Return the address of this node that the others reach."""
    name = place.master_addr if place.rank == 0 else place.hostname
    with contextlib.suppress(OSError):
        return socket.gethostbyname(name)
    return "127.0.0.1"


def _read(head: Path) -> dict[str, str] | None:
    with contextlib.suppress(FileNotFoundError, ValueError):
        return json.loads(head.read_text())
    return None


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=2):
        return True
    return False


def _wait(
    ready: Callable[[], bool], what: str, given_up: Callable[[], bool] = lambda: False
) -> None:
    deadline = time.monotonic() + START_S
    while not ready() and not given_up():
        if time.monotonic() > deadline:
            raise AgehpcError(f"no {what} in {START_S:g} s; the logs are in the sweep's ray/")
        time.sleep(0.2)


def _children(names: tuple[str, ...]) -> list[int]:
    """Return this process's children whose program has one of the names."""
    found = []
    for pid, parent, program in _processes():
        if parent == os.getpid() and program in names:
            found.append(pid)
    return found


def _processes() -> Iterator[tuple[int, int, str]]:
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            program, _, rest = (folder / "stat").read_text().partition(" (")[2].rpartition(") ")
            yield int(folder.name), int(rest.split()[1]), program


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


def _to_file(path: Path) -> None:
    """Send what Ray logs in this process to a file: the sweep says what people need."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logger = logging.getLogger("ray")
    logger.handlers[:] = [handler]
    logger.propagate = False


def check_place(place: Environment) -> None:
    """Raise UsageError unless a task of srun has its node to itself."""
    if place.launcher == "torchrun":
        raise UsageError(
            "agehpc tune starts the ranks of its trials itself: run it without torchrun"
        )
    if place.local_world_size > 1:
        raise UsageError(
            f"{place.local_world_size} tasks of srun on this node; agehpc tune wants one a node "
            "(--ntasks-per-node=1)"
        )
