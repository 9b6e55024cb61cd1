"""Checkpoints on disk: whole or not there, whatever the disk and the umask."""

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from agehpc import checkpoints
from agehpc.soundness import verify

TENSORS = {"ema": {"w": torch.arange(5000.0)}, "a": {"m": torch.ones(3)}}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB: three checkpoints do not fit."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_what_is_filled_counts_once_it_is_published(tmp_path: Path):
    about = {"ema": {"a": "b"}}
    filled = checkpoints.fill(tmp_path / "checkpoints", 7, TENSORS, {"step": 7}, about)
    assert checkpoints.complete(tmp_path) == []
    path = checkpoints.publish(tmp_path, 7, filled)
    assert checkpoints.complete(tmp_path) == [path]
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000007"]
    verify(path)
    assert checkpoints.read_state(path) == {"step": 7}
    assert torch.equal(checkpoints.read_tensors(path, "ema")["w"], TENSORS["ema"]["w"])
    with safe_open(path / "ema.safetensors", "pt") as file:
        assert file.metadata() == {"a": "b"}


def test_by_way_of_another_folder(tmp_path: Path):
    """The manifest comes last: cut short at any file, the copy is no checkpoint."""
    run, staging = tmp_path / "run", tmp_path / "staging"
    direct = checkpoints.write(tmp_path / "direct", 7, TENSORS, {"step": 7})
    order: list[str] = []
    copy = shutil.copyfile

    def noted(source: Path, target: Path) -> None:
        copy(source, target)
        order.append(Path(target).name)
        assert checkpoints.complete(run) == []

    filled = checkpoints.fill(staging, 7, TENSORS, {"step": 7})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "copyfile", noted)
        path = checkpoints.publish(run, 7, filled)
    assert order[-1] == "manifest.json"
    assert sorted(order) == sorted(p.name for p in path.iterdir())
    assert {p.name: p.read_bytes() for p in path.iterdir()} == {
        p.name: p.read_bytes() for p in direct.iterdir()
    }
    assert everything(staging) == set()
    verify(path)


def test_a_full_disk_leaves_nothing_half_written(disk: Path):
    run = disk / "run"
    first, second = (checkpoints.write(run, step, TENSORS, {"step": step}) for step in (1, 2))
    before = everything(disk)
    with pytest.raises(OSError, match=r"ema\.safetensors: .*No space left on device"):
        checkpoints.write(run, 3, TENSORS, {"step": 3})
    assert everything(disk) == before
    assert checkpoints.complete(run) == [first, second]
    verify(first)
    verify(second)


def test_a_disk_that_is_full_for_the_copy(disk: Path, tmp_path: Path):
    run, staging = disk / "run", tmp_path / "staging"
    first, second = (checkpoints.write(run, step, TENSORS, {"step": step}) for step in (1, 2))
    before = everything(disk)
    filled = checkpoints.fill(staging, 3, TENSORS, {"step": 3})
    with pytest.raises(OSError, match="No space left on device"):
        checkpoints.publish(run, 3, filled)
    assert everything(disk) == before
    assert everything(staging) == set()
    verify(second)
    with pytest.raises(OSError, match="No space left on device"):
        checkpoints.fill(disk / "staging", 4, TENSORS, {"step": 4})
    assert everything(disk) == before | {"staging"}
    # What has no room for the export leaves the checkpoint, and no half of a file.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "link", refused)
        with pytest.raises(OSError, match="No space left on device"):
            checkpoints.export(run, first)
    assert everything(run / "export") == set()


def refused(*_: object) -> None:
    raise OSError("no links here")


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_files_are_as_open_as_their_folder(tmp_path: Path, umask: int):
    """safetensors 0.8 leaves files to their owner alone, beside a manifest that all can read."""
    before = os.umask(umask)
    try:
        path = checkpoints.write(tmp_path / "run", 1, TENSORS, {"step": 1})
    finally:
        os.umask(before)
    for one in (path, *path.iterdir()):
        wanted = (0o777 if one.is_dir() else 0o666) & ~umask
        assert stat.S_IMODE(one.stat().st_mode) == wanted, one
