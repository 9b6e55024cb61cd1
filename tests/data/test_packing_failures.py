"""Packing that cannot finish: nothing half-written, nothing lost."""

import dataclasses
import json
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
from PIL import Image

from agehpc.data import pack, pack_command
from agehpc.data.commands import main
from agehpc.data.shards import Manifest
from agehpc.data.sources import Source
from agehpc.errors import DataError, UsageError
from tests.data.samples import folder_bytes, ramp, write_video


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


def test_output_inside_the_sources_is_no_source(people: Path):
    """Packed again, or gone on with: its own shards would come twice, in both splits."""
    out, left = people / "shards", people / ".shards.partial"
    command = ["pack", str(people), str(out), "--size", "16", "--overwrite"]
    assert main(command) == 0
    before = folder_bytes(out)
    left.mkdir()
    (left / "train-000000.tar").write_bytes(b"begun")
    assert main(command) == 0
    assert folder_bytes(out) == before


def test_output_may_be_a_link(people: Path, tmp_path: Path):
    (tmp_path / "large").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "large" / "shards")
    command = ["pack", str(people / "bend"), str(tmp_path / "out"), "--size", "16"]
    assert main(command) == 0
    assert main([*command, "--overwrite"]) == 0
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "out" / "manifest.json").is_file()
    assert [p.name for p in (tmp_path / "large").iterdir()] == ["shards"]
    assert {p.name for p in tmp_path.iterdir()} == {"large", "out", "people"}


def test_output_that_cannot_be_renamed_is_refused_first(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for out in (".", "/proc"):
        with pytest.raises(UsageError, match="choose a folder inside it"):
            main(["pack", str(people), out, "--dry-run"])


def test_an_old_output_left_half_removed_is_no_hindrance(people: Path, tmp_path: Path):
    """Ctrl-C may come while the shards that were replaced are removed."""
    command = ["pack", str(people / "bend"), str(tmp_path / "out"), "--size", "16"]
    assert main(command) == 0
    (tmp_path / ".out.old").mkdir()
    (tmp_path / ".out.old" / "train-000000.tar").touch()
    assert main([*command, "--overwrite"]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"out", "people"}


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


def test_full_disk_keeps_what_was_finished(
    small_disk: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    flags = ["--samples-per-shard", "2"]
    with pytest.raises(DataError, match=r"No space left on device; free space"):
        main(["pack", str(people), str(small_disk / "out"), *flags])
    assert "finished shard(s) are kept in" in capsys.readouterr().err
    assert [path.name for path in small_disk.iterdir()] == [".out.partial"]
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert main(["pack", str(people), str(small_disk / "out"), *flags]) == 0
    assert main(["pack", str(people), str(tmp_path / "whole"), *flags]) == 0
    assert folder_bytes(small_disk / "out") == folder_bytes(tmp_path / "whole")


def test_full_disk_before_the_first_shard_leaves_nothing(small_disk: Path, people: Path):
    subprocess.run(["mount", "-o", "remount,size=4k", str(small_disk)], check=True)
    with pytest.raises(DataError, match=r"No space left on device; free space"):
        main(["pack", str(people), str(small_disk / "out")])
    assert not list(small_disk.iterdir())


def test_full_disk_keeps_the_shards_that_were_there(small_disk: Path, people: Path):
    out = small_disk / "out"
    assert main(["pack", str(people / "bend" / "p0_0.mp4"), str(out), "--size", "16"]) == 0
    before = folder_bytes(out)
    with pytest.raises(DataError, match="No space left on device"):
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


# While workers start, and while they encode.
@pytest.mark.parametrize("after", [0.1, pytest.param(2.0, marks=pytest.mark.slow)])
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


class BadSource(Source):
    """Does to its process what its path says."""

    def read(self) -> bytes:
        if "crash" in self.name:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "hang" in self.name:
            time.sleep(600)
        if "kill" in self.name:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read()


def packed_with(bad: list[str], source: Path, out: Path, workers: int) -> Manifest:
    flags = pack_command.Pack(size=16, clip_len=16)
    plan = pack_command._plan(flags, [str(source)], None)
    sources = [
        BadSource(s.path, s.name, s.folder) if Path(s.name).stem in bad else s for s in plan.sources
    ]
    return pack.pack(
        dataclasses.replace(plan, sources=sources),
        out,
        overwrite=False,
        workers=pack.Workers(workers, deadline_s=3.0),
        progress=lambda done, total: None,
        resume=True,
    )


@pytest.mark.parametrize("kind", ["mp4", "png"])  # alone, and in a task of many
@pytest.mark.parametrize("workers", [1, 2])
def test_a_source_that_ends_its_process_is_rejected(tmp_path: Path, workers: int, kind: str):
    """The others are packed as if it had not been there."""
    source = tmp_path / "in"
    source.mkdir()
    for name in ("a", "b", "crash", "d", "hang", "z"):
        if kind == "mp4":
            write_video(source / f"{name}.mp4", ramp(16, 16, 16))
        else:
            Image.fromarray(ramp(1, 16, 16)[0]).save(source / f"{name}.png")
    manifest = packed_with(["crash", "hang"], source, tmp_path / "out", workers)
    assert manifest.rejects == {"crash": 1, "timeout": 1}
    assert manifest.sources == 4
    text = (tmp_path / "out/rejects.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines == [
        {"source": f"crash.{kind}", "reason": "crash", "detail": "decoding it ended in SIGSEGV"},
        {
            "source": f"hang.{kind}",
            "reason": "timeout",
            "detail": "not done in 0.05 minutes; see --source-minutes",
        },
    ]


def test_a_process_killed_from_outside_is_no_reject(tmp_path: Path):
    """Out of memory: packing on without the source would make other shards on a larger machine."""
    source = tmp_path / "in"
    source.mkdir()
    for name in ("a", "kill", "z"):
        write_video(source / f"{name}.mp4", ramp(16, 16, 16))
    with pytest.raises(DataError, match=r"packs kill\.mp4 was killed .*--workers"):
        packed_with(["kill"], source, tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


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
