"""Decoding processes: what a bad sample does to one costs that sample, and nothing is left."""

import functools
import itertools
import os
import signal
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path

import pytest

from agehpc.config.schema import DataConfig
from agehpc.data import feed, loader
from agehpc.data.pool import Figures
from agehpc.data.quarantine import Places, Quarantine
from agehpc.data.samples import Samples
from agehpc.data.shards import read_manifest
from agehpc.errors import ConfigError, DataError
from tests.data.broken import BrokenSamples, Faults
from tests.data.levels import SEED, Found, contents, levels_config, levels_shards, read, stream
from tests.ranks import ROOT

BATCH, BATCHES = 6, 4


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return levels_shards(tmp_path_factory.mktemp("levels"))


@pytest.fixture
def data(shards: Path) -> DataConfig:
    return levels_config(shards, workers=2)


def inject(monkeypatch: pytest.MonkeyPatch, faults: Faults) -> None:
    monkeypatch.setattr(loader, "Samples", functools.partial(BrokenSamples, faults))


def good(data: DataConfig) -> Found:
    return read(data.model_copy(update={"workers": 0}), BATCH, BATCHES)


@pytest.mark.parametrize(("ranks", "workers"), [(1, 2), (2, 1), (4, 2)])
def test_bits_do_not_depend_on_ranks_and_workers(data: DataConfig, ranks: int, workers: int):
    wanted = read(data.model_copy(update={"workers": 0}), 8, 4)
    found = read(data.model_copy(update={"workers": workers}), 8, 4, ranks=ranks)
    assert sorted(found) == list(range(32))
    assert found == wanted


def test_crashes_cost_their_samples_alone(data: DataConfig, monkeypatch: pytest.MonkeyPatch):
    """SIGSEGV, abort and exit; the processes that went down are replaced."""
    wanted = good(data)
    faults = {(0, 1): "crash", (1, 2): "abort", (2, 0): "exit"}
    inject(monkeypatch, faults)
    quarantine = Quarantine(data)
    found = read(data, BATCH, BATCHES, quarantine=quarantine)
    told = quarantine.agree(quarantine.take())
    assert {(f.shard, f.index): (f.kind, f.message) for f in told} == {
        ("train-000000.tar", 1): ("crash", "its decoding ended in SIGSEGV"),
        ("train-000001.tar", 2): ("crash", "its decoding ended in SIGABRT"),
        ("train-000002.tar", 0): ("crash", "its decoding ended in exit code 3"),
    }
    assert sorted(found) == sorted(wanted)
    changed = {position for position in wanted if found[position] != wanted[position]}
    # An epoch has 18 samples: each bad one was due once or twice.
    assert {fault.position for fault in told} <= changed
    assert len(changed) <= 2 * len(faults)
    assert all(99 not in pixels for pixels, _ in found.values())


def test_a_hang_costs_the_deadline_and_one_sample(
    data: DataConfig, monkeypatch: pytest.MonkeyPatch
):
    deadline, position = 2.0, 2
    # Nothing of the next epoch is read ahead, where the sample would hang again.
    hasty = data.model_copy(update={"deadline_s": deadline, "prefetch": 1})
    unit = Places(Samples(data, read_manifest(data.shards), "train", SEED)).unit(position, 0)
    start = time.monotonic()
    read(hasty, BATCH, 1)
    undisturbed = time.monotonic() - start
    inject(monkeypatch, {(unit.shard, unit.index): "hang"})
    quarantine, figures = Quarantine(data), Figures()
    start = time.monotonic()
    found = read(hasty, BATCH, 1, quarantine=quarantine, figures=figures)
    took = time.monotonic() - start
    (fault,) = quarantine.take()
    assert (fault.kind, fault.position, fault.index) == ("timeout", position, unit.index)
    assert fault.shard == f"train-{unit.shard:06d}.tar"
    assert fault.message == "it was not decoded in 2 s, in 2 attempts"
    assert figures.retries == 1
    wanted = good(data)
    assert [p for p in found if found[p] != wanted[p]] == [position]
    # A process starts before each attempt: on a busy machine that is what takes the time.
    assert deadline <= took < deadline + 2 + 4 * undisturbed


def test_what_hangs_once_is_not_lost(
    data: DataConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    inject(monkeypatch, {(1, 1): str(tmp_path / "hung")})
    quarantine, figures = Quarantine(data), Figures()
    hasty = data.model_copy(update={"deadline_s": 2.0})
    found = read(hasty, BATCH, BATCHES, quarantine=quarantine, figures=figures)
    assert (tmp_path / "hung").exists()
    assert found == good(data)
    # Its place in the next epoch, read ahead, may have begun before the file was there.
    assert figures.retries in (1, 2)
    assert quarantine.take() == []


def test_a_process_that_is_killed_is_replaced(data: DataConfig):
    wanted = good(data)
    others = set(active_children())
    opened = stream(data, BATCH)
    found = contents(itertools.islice(opened, 1))
    for worker in set(active_children()) - others:
        worker.kill()
        worker.join(30)
    found |= contents(itertools.islice(opened, BATCHES - 1))
    assert found == wanted
    opened.close()
    assert set(active_children()) <= others


def test_without_a_quarantine_the_sample_is_named(
    data: DataConfig, monkeypatch: pytest.MonkeyPatch
):
    inject(monkeypatch, {(0, 0): "exit", (0, 1): "exit", (0, 2): "exit", (0, 3): "exit"})
    with pytest.raises(DataError) as caught:
        read(data, BATCH, BATCHES)
    assert f"{data.shards}/train-000000.tar: sample train-000000-" in str(caught.value)
    assert "its decoding ended in exit code 3" in str(caught.value)


def test_memory_is_bounded(data: DataConfig, monkeypatch: pytest.MonkeyPatch):
    """Fewer slots than a batch has samples do; a sample that finds no room is an error."""
    wanted = good(data)
    monkeypatch.setattr(feed, "MIB", 3 * 64)
    taken = []
    pool = feed.Pool
    monkeypatch.setattr(feed, "Pool", lambda *made: taken.append(made[2]) or pool(*made))
    assert read(data.model_copy(update={"buffer_mib": 1}), BATCH, BATCHES) == wanted
    assert taken == [3]
    monkeypatch.setattr(feed, "MIB", 63)
    with pytest.raises(ConfigError, match="raise it"):
        read(data.model_copy(update={"buffer_mib": 1}), BATCH, 1)


HANGING = """
import itertools, functools, multiprocessing, sys
from pathlib import Path
from agehpc.data import loader
from agehpc.data.quarantine import Places
from agehpc.data.samples import Samples
from agehpc.data.shards import read_manifest
from tests.data.broken import BrokenSamples
from tests.data.levels import SEED, levels_config, stream
if __name__ == "__main__":
    data = levels_config(Path(sys.argv[1]), workers=2)
    faults = {(shard, index): "hang" for shard in range(5) for index in range(4)}
    first = Places(Samples(data, read_manifest(data.shards), "train", SEED)).unit(0, 0)
    del faults[first.shard, first.index]
    loader.Samples = functools.partial(BrokenSamples, faults)
    opened = stream(data, 1)
    for batch in opened:
        print(*(p.pid for p in multiprocessing.active_children()), flush=True)
"""


def test_nothing_is_left_of_a_killed_parent(shards: Path, tmp_path: Path):
    """Neither processes, though they hang in a sample, nor memory: it never had a name."""
    script = tmp_path / "hanging.py"
    script.write_text(HANGING)
    with subprocess.Popen(
        [sys.executable, script, str(shards)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},  # for tests.data
    ) as parent:
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2
        for pid in (parent.pid, *workers):
            deadline = time.monotonic() + 60
            while "/memfd:agehpc samples (deleted)" not in (maps := _maps(pid)):
                assert time.monotonic() < deadline, maps  # a worker may still be starting
                time.sleep(0.1)
            assert "/dev/shm" not in maps
        time.sleep(0.5)  # by now they hang
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while alive := [pid for pid in workers if _runs(pid)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.1)


def _maps(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_decoding_processes_go_without_torch():
    """It would take them seconds to start and hundreds of megabytes each."""
    code = "import sys, agehpc.data.pool_worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
