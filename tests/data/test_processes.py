"""A function over many tasks in other processes, which a task or the user may end."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path

import pytest

from agehpc.data.processes import Failed, StartError, mapped
from tests.ranks import ROOT

STOPPED = """
import _thread, sys, threading, time
from pathlib import Path
from agehpc.data.processes import mapped

def large(marker: str) -> bytes:
    result = bytes(200_000_000)
    Path(marker).touch()
    return result

def interrupt(marker: str, delay: float) -> None:
    while not Path(marker).exists():
        time.sleep(0.001)
    time.sleep(delay)
    _thread.interrupt_main()

if __name__ == "__main__":
    marker, delay = sys.argv[1], float(sys.argv[2])
    threading.Thread(target=interrupt, args=(marker, delay), daemon=True).start()
    try:
        list(mapped(large, [marker] * 4, 2))
    except KeyboardInterrupt:
        sys.exit(7)
"""


def test_results_come_in_order():
    assert list(mapped(abs, range(-20, 0), 2)) == list(range(20, 0, -1))


def test_a_result_cut_in_the_middle_does_not_hang(tmp_path: Path):
    """A worker ends while it sends: the rest of the message never comes."""
    script = tmp_path / "stopped.py"
    script.write_text(STOPPED)
    for delay in (0.0, 0.05, 0.1):
        command = [sys.executable, str(script), str(tmp_path / f"marker{delay}"), str(delay)]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=env, timeout=20)
        assert done.returncode == 7, done.stderr


def at_once(task: int) -> int:
    """Return twice the task, unless it is one that goes wrong."""
    if task == 3:
        os.kill(os.getpid(), signal.SIGSEGV)
    if task == 5:
        os._exit(4)
    if task == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    if task == 9:
        time.sleep(600)
    return 2 * task


@pytest.mark.parametrize("workers", [1, 2])
def test_what_ends_a_process_costs_its_task(workers: int):
    before = set(active_children())
    start = time.monotonic()
    found = list(mapped(at_once, range(12), workers, deadline_s=5.0))
    assert time.monotonic() - start < 30
    lost = {3: "SIGSEGV", 5: "exit code 4", 7: "SIGKILL", 9: "took too long"}
    for task, result in enumerate(found):
        if task in lost:
            assert isinstance(result, Failed)
            assert result.task == task
            assert lost[task] in str(result)
            assert result.is_to_blame is (task != 7)  # who kills means the machine
        else:
            assert result == 2 * task
    assert set(active_children()) <= before


def under_signals(task: int) -> int:
    """Send this process what a job's launcher or a terminal may send to all."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(os.getpid(), number)
    return task


def test_a_signal_to_the_whole_job_costs_no_task():
    assert list(mapped(under_signals, range(3), 2)) == [0, 1, 2]


def test_starting_a_process_takes_nothing_of_the_deadline():
    """A tenth of a second is less than any process takes to start."""
    assert list(mapped(abs, range(3), 2, deadline_s=0.1)) == [0, 1, 2]


class Unloadable:
    """A function that no other process can load."""

    def __call__(self, task: int) -> int:
        return task

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (3,)


def test_a_process_that_cannot_start_is_no_fault_of_its_task():
    before = set(active_children())
    with pytest.raises(StartError, match=r"ended in exit code 3 before it was ready.*--workers 0"):
        list(mapped(Unloadable(), range(9), 2))
    assert set(active_children()) <= before


def refuse(task: int) -> int:
    """Raise at one task."""
    if task == 2:
        raise ValueError("not this one")
    return task


def test_an_exception_of_a_task_is_raised_here():
    before = set(active_children())
    with pytest.raises(ValueError, match="not this one"):
        list(mapped(refuse, range(9), 2))
    assert set(active_children()) <= before


def test_results_that_nobody_takes_do_not_pile_up():
    drawn = []

    def tasks():
        for task in range(100):
            drawn.append(task)
            yield task

    results = mapped(abs, tasks(), 2)
    assert next(results) == 0
    assert len(drawn) <= 10
    results.close()
