"""A function over many tasks in other processes: stopping in the middle ends."""

import os
import subprocess
import sys
from pathlib import Path

from agehpc.data.processes import mapped
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
