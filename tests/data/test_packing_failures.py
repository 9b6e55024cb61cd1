"""Packing that cannot finish: nothing half-written, nothing lost."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agehpc.data.commands import main
from agehpc.errors import DataError, UsageError
from tests.data.samples import folder_bytes


def test_nothing_usable_leaves_nothing(tmp_path: Path):
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.mp4").write_bytes(b"nonsense" * 100)
    with pytest.raises(DataError, match=r"none of the 1 sources.*a\.mp4"):
        main(["pack", str(source), str(tmp_path / "out")])
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_existing_output_needs_overwrite(people: Path, tmp_path: Path):
    out = tmp_path / "out"
    command = ["pack", str(people / "bend"), str(out), "--size", "16"]
    assert main(command) == 0
    before = folder_bytes(out)
    with pytest.raises(UsageError, match=f"{out}.*--overwrite"):
        main(command)
    assert folder_bytes(out) == before
    assert main([*command, "--overwrite", "--crf", "30"]) == 0
    assert folder_bytes(out) != before
    assert {p.name for p in tmp_path.iterdir()} == {"out", "people"}
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.txt").touch()
    with pytest.raises(UsageError, match="holds no shards"):
        main(["pack", str(people), str(tmp_path / "photos"), "--overwrite"])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB; skips where it cannot be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_leaves_nothing(small_disk: Path, people: Path):
    with pytest.raises(DataError, match=r"No space left on device.*nothing was kept"):
        main(["pack", str(people), str(small_disk / "out")])
    assert not list(small_disk.iterdir())


def test_full_disk_keeps_the_shards_that_were_there(small_disk: Path, people: Path):
    out = small_disk / "out"
    assert main(["pack", str(people / "bend" / "p0_0.mp4"), str(out), "--size", "16"]) == 0
    before = folder_bytes(out)
    with pytest.raises(DataError, match="nothing was kept"):
        main(["pack", str(people), str(out), "--overwrite"])
    assert folder_bytes(out) == before
    assert list(small_disk.iterdir()) == [out]


def test_a_limit_on_file_size_leaves_nothing(people: Path, tmp_path: Path):
    """What a quota looks like, without root."""
    done = subprocess.run(
        [sys.executable, "-m", "agehpc", "data", "pack", str(people), str(tmp_path / "out")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert re.fullmatch(r"error: packing into .*File too large.*\n", done.stderr)
    assert [p.name for p in tmp_path.iterdir()] == ["people"]


@pytest.mark.parametrize("after", [0.1, 2.0])  # while workers start, and while they encode
def test_interrupt_leaves_nothing(demo_clips: dict[str, Path], tmp_path: Path, after: float):
    command = [sys.executable, "-m", "agehpc", "data", "demo", str(tmp_path / "out")]
    process = subprocess.Popen(
        [*command, "--workers", "2", "--size", "1536"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Started in the background by a shell, the tests ignore SIGINT, and so would a child.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert wait_for(lambda: list(tmp_path.iterdir()))
    time.sleep(after)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: workers get it as well
    _, errors = process.communicate(timeout=30)  # encoding on would take longer
    assert process.returncode == 130, errors
    assert errors == "error: interrupted\n"
    assert not list(tmp_path.iterdir())
    assert wait_for(lambda: group_is_gone(process.pid))


def group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def wait_for(condition: Callable[[], object], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False
