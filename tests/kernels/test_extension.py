"""Building libraries: shared by ranks and nodes, cut short, forbidden, impossible."""

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agehpc_kernels import extension
from agehpc_kernels.extension import Unavailable, load

pytestmark = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "c++")) is None, reason="no C++ compiler"
)
CHILD = """
import sys
from pathlib import Path
from agehpc_kernels.extension import load
print(load("tiny", [Path(sys.argv[1])]))
"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source that needs nothing of torch; the cache is empty."""
    monkeypatch.setenv(extension.VARIABLE, str(tmp_path / "cache"))
    path = tmp_path / "tiny.cpp"
    path.write_text('extern "C" int answer() { return 42; }\n')
    return path


def compiler(tmp_path: Path, before: str) -> str:
    """A compiler that passes for the true one, and runs `before` when it compiles."""
    script = tmp_path / "compiler"
    true = shutil.which(os.environ.get("CXX", "c++"))
    script.write_text(f'#!/bin/sh\ncase "$*" in *" -c "*) {before};; esac\nexec {true} "$@"\n')
    script.chmod(0o755)
    return str(script)


def child(source: Path, **environment: str) -> subprocess.Popen:
    paths = os.pathsep.join(p for p in sys.path if p)
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(source)],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_builds_once_and_says_so(
    source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    library = load("tiny", [source])
    assert ctypes.CDLL(str(library)).answer() == 42
    assert [r.message for r in caplog.records if r.name == extension.__name__] == [
        f"building tiny from C++ for this CPU: half a minute, once ({library})"
    ]
    monkeypatch.setattr(extension, "_build", None)
    assert load("tiny", [source]) == library
    assert {p.suffix for p in library.parent.iterdir()} == {".so", ".lock"}


def test_name_says_what_it_was_built_from_and_for(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = extension._key([source], ())
    assert extension._key([source], ()) == key
    keys = [key, extension._key([source], ("-O1",))]
    with monkeypatch.context() as patch:
        patch.setattr(extension, "_cpu", lambda: "another CPU")
        keys.append(extension._key([source], ()))
    with monkeypatch.context() as patch:
        patch.setattr(extension, "_compiler", lambda: "another compiler")
        keys.append(extension._key([source], ()))
    with monkeypatch.context() as patch:
        patch.setattr(extension.torch, "__version__", "another torch")
        keys.append(extension._key([source], ()))
    source.write_text(source.read_text() + "\n")
    keys.append(extension._key([source], ()))
    assert len(set(keys)) == 6


def test_a_killed_build_does_not_hold_up_the_next(source: Path, tmp_path: Path) -> None:
    slow = child(source, CXX=compiler(tmp_path, "sleep 300"))
    cache = extension.cache()
    try:
        deadline = time.monotonic() + 120
        while not list(cache.glob("building-*/build.ninja")):
            assert slow.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(slow.pid, signal.SIGKILL)
        slow.wait()
        started = time.monotonic()
        library = load("tiny", [source])
        assert time.monotonic() - started < 60
        assert ctypes.CDLL(str(library)).answer() == 42
        assert len(list(cache.glob("*.lock"))) == 1, "the builds did not share a name"
    finally:
        os.killpg(slow.pid, signal.SIGKILL)
        slow.communicate()


def test_what_killed_builds_left_is_removed_later(source: Path) -> None:
    old, new = (extension.cache() / f"building-{name}" for name in ("old", "new"))
    for folder in (old, new):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    load("tiny", [source])
    assert new.exists()
    assert not old.exists()


def test_two_processes_build_once(source: Path, tmp_path: Path) -> None:
    log = tmp_path / "compiled"
    both = [child(source, CXX=compiler(tmp_path, f"echo once >> {log}; sleep 3")) for _ in range(2)]
    outputs = [process.communicate(timeout=240)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outputs[0] == outputs[1]
    assert log.read_text().split() == ["once"]


def test_forbidden_builds_still_find_what_is_built(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGEHPC_KERNELS_BUILD", "0")
    with pytest.raises(Unavailable, match="AGEHPC_KERNELS_BUILD=0 forbids"):
        load("tiny", [source])
    assert not extension.cache().exists()
    monkeypatch.delenv("AGEHPC_KERNELS_BUILD")
    library = load("tiny", [source])
    monkeypatch.setenv("AGEHPC_KERNELS_BUILD", "0")
    assert load("tiny", [source]) == library


def test_no_compiler(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/c++")
    with pytest.raises(Unavailable, match=r"'/nowhere/c\+\+' does not run; install g\+\+"):
        load("tiny", [source])


def test_no_ninja(source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", str(shutil.which(os.environ.get("CXX", "c++"))))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(extension.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(Unavailable, match="Ninja is required"):
        load("tiny", [source])


def test_a_source_that_does_not_compile(source: Path) -> None:
    source.write_text("int answer() { return nothing; }\n")
    with pytest.raises(Unavailable, match=r"error: .*nothing.* was not declared"):
        load("tiny", [source])
    assert not list(extension.cache().glob("building-*"))


def test_a_cache_that_cannot_be_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Below a file: folders without the right to write do not stop root.
    monkeypatch.setenv(extension.VARIABLE, str(source))
    with pytest.raises(Unavailable, match=r"the cache .*tiny.cpp.* cannot be written"):
        load("tiny", [source])


def test_a_lock_that_never_comes_free(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension, "_LONGEST_WAIT_S", 0.2)
    extension.cache().mkdir(parents=True)
    lock = extension.cache() / f"tiny-{extension._key([source], extension.FLAGS)}.lock"
    with (
        extension._turn(lock),
        pytest.raises(Unavailable, match="another process has held"),
    ):
        load("tiny", [source])


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(extension.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert extension.cache() == tmp_path / "agehpc_kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert extension.cache() == Path.home() / ".cache/agehpc_kernels"


def test_a_user_without_a_home(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(user: int) -> None:
        raise KeyError(user)

    for variable in (extension.VARIABLE, "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", fail)
    with pytest.raises(Unavailable, match=f"no home for the cache; set {extension.VARIABLE}"):
        load("tiny", [source])
