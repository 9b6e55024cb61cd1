"""Packing that was stopped goes on where it was, and nobody can tell from the shards."""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agehpc.data import encode, pack, pack_command
from agehpc.data.commands import main
from agehpc.errors import UsageError
from tests.data.samples import folder_bytes, ramp, write_video

# In this process: tests count what is encoded.
FLAGS = ["--size", "16", "--clip-len", "16", "--samples-per-shard", "3", "--gop", "8"]
FLAGS += ["--workers", "0"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine videos of two or three segments, which straddle shards of three, and a broken one."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(9):
        write_video(folder / f"{number}.mp4", ramp(32 + 16 * (number % 2), 16, 24))
    (folder / "broken.mp4").write_bytes(b"broken" * 50)
    return folder


@pytest.fixture(scope="module")
def whole(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every file of a packing that was never stopped."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert main(["pack", str(videos), str(out), *FLAGS]) == 0
    return folder_bytes(out)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the sources that are encoded, as they are."""
    names: list[str] = []

    def noted(source: encode.Source, settings: encode.Settings) -> object:
        names.append(source.name)
        return original(source, settings)

    original = encode.encode
    monkeypatch.setattr(encode, "encode", noted)
    return names


def stopped(command: list[str], after: int, error: BaseException | None = None) -> None:
    """Pack until `after` sources are done."""

    def progress(done: int, total: int) -> None:
        if done == after:
            raise error or KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack_command, "_progress", progress)
        with pytest.raises(type(error or KeyboardInterrupt())):
            main(command)


@pytest.mark.parametrize("stops", [[3], [6], [9], [2, 5, 8], [4, 4, 4]])
def test_the_same_command_goes_on(
    videos: Path,
    whole: dict[str, bytes],
    tmp_path: Path,
    encoded: list[str],
    capsys: pytest.CaptureFixture[str],
    stops: list[int],
):
    out = tmp_path / "out"
    command = ["pack", str(videos), str(out), *FLAGS]
    for stop in stops:
        stopped(command, stop)
        assert not out.exists()
    kept = {path.name: path.stat().st_ino for path in (tmp_path / ".out.partial").glob("*.tar")}
    assert kept
    assert "finished shard(s) are kept in" in capsys.readouterr().err
    encoded.clear()
    assert main(command) == 0
    assert folder_bytes(out) == whole
    assert len(encoded) < 10  # what lies in finished shards is not encoded again
    left = {path.name: path.stat().st_ino for path in out.glob("*.tar")}
    assert sum(left[name] == inode for name, inode in kept.items()) >= len(kept) - 2
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_stop_before_the_first_shard_leaves_nothing(videos: Path, tmp_path: Path):
    stopped(["pack", str(videos), str(tmp_path / "out"), *FLAGS], 1)
    assert not list(tmp_path.iterdir())


def test_another_plan_starts_anew(videos: Path, whole: dict[str, bytes], tmp_path: Path):
    out = tmp_path / "out"
    stopped(["pack", str(videos), str(out), *FLAGS, "--crf", "40"], 8)
    assert main(["pack", str(videos), str(out), *FLAGS]) == 0
    assert folder_bytes(out) == whole


def test_a_changed_source_starts_anew(videos: Path, tmp_path: Path, encoded: list[str]):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for path in videos.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    command = ["pack", str(source), str(out), *FLAGS]
    stopped(command, 8)
    (source / "3.mp4").write_bytes((videos / "1.mp4").read_bytes())
    encoded.clear()
    assert main(command) == 0
    assert len(encoded) == 10


def test_a_kill_and_other_workers(
    videos: Path, whole: dict[str, bytes], tmp_path: Path, encoded: list[str]
):
    """SIGKILL runs no code of ours: what is on the disk is all there is, torn lines included."""
    out, unfinished = tmp_path / "out", tmp_path / ".out.partial"
    command = ["pack", str(videos), str(out), *FLAGS]
    process = subprocess.Popen(
        [sys.executable, "-m", "agehpc", "data", *command, "--workers", "2"],
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    journal = unfinished / "journal.jsonl"
    while not (journal.is_file() and '"shard"' in journal.read_text()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not out.exists()
    with journal.open("a") as file:
        file.write('{"samples": [["25", 1')
    assert main(command) == 0
    assert folder_bytes(out) == whole
    assert len(encoded) < 10
    while any(workers_of(process.pid)):  # they do not outlive the one that was killed
        assert time.monotonic() < deadline
        time.sleep(0.02)


def workers_of(session: int) -> Iterator[int]:
    """The processes of a session that run."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, found = path.read_text().rpartition(") ")[2].split()[:4]
        except OSError:
            continue
        if int(found) == session and state != "Z":
            yield int(path.parent.name)


def test_two_at_once_are_refused(videos: Path, tmp_path: Path):
    unfinished = tmp_path / ".out.partial"
    unfinished.mkdir()
    descriptor = os.open(unfinished, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    (unfinished / "theirs").touch()
    with pytest.raises(UsageError, match="another process is packing into"):
        main(["pack", str(videos), str(tmp_path / "out"), *FLAGS])
    assert (unfinished / "theirs").exists()
    os.close(descriptor)


def test_a_worker_that_dies_keeps_what_was_finished(
    videos: Path, whole: dict[str, bytes], tmp_path: Path
):
    out = tmp_path / "out"
    command = ["pack", str(videos), str(out), *FLAGS]
    stopped(command, 8, pack.KilledError("it was killed"))
    assert list((tmp_path / ".out.partial").glob("*.tar"))
    assert main(command) == 0
    assert folder_bytes(out) == whole


def test_sources_that_are_no_files_are_never_resumed(videos: Path, tmp_path: Path):
    """What a model generates may be another thing the next time, under the same names."""
    flags = pack_command.Pack(size=16, clip_len=16, samples_per_shard=3)
    plan = pack_command._plan(flags, [str(videos)], "video")

    def stop(done: int, total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack.pack(plan, tmp_path / "out", overwrite=False, workers=pack.Workers(), progress=stop)
    assert not list(tmp_path.iterdir())
