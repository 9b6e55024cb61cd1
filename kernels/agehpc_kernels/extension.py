"""Operators in C++, built at first use by torch's own loader and kept in the user's cache.

torch's loader builds in a shared folder, where a build that was cut short, another node's build or
one for another CPU can be met; here every build has a private folder, and its library takes its
place in the cache by a rename, under a name that says what it was built from and for.
"""

import fcntl
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

FLAGS = ("-O3", "-march=native", "-fopenmp")
VARIABLE = "AGEHPC_KERNELS_CACHE"
_LONGEST_WAIT_S = 600.0
_ABANDONED_S = 24 * 3600.0
_logger = logging.getLogger(__name__)


class Unavailable(Exception):
    """Why a library can be neither found nor built, in a line."""


def load(name: str, sources: Sequence[Path], flags: Sequence[str] = ()) -> Path:
    """Load the library of `sources` into the process, building it where the cache has none.

    Ranks and nodes that share a cache build once: others wait for the first, or take over when it
    is killed. ``AGEHPC_KERNELS_BUILD=0`` forbids building.

    Args:
        name: of the library.
        sources: the first is compiled; the others are what it includes.
        flags: of the compiler, further to FLAGS.

    Returns:
        The library's file, below ``AGEHPC_KERNELS_CACHE`` or the user's cache.

    Raises:
        Unavailable: no compiler, a failed build, a cache that cannot be written.
    """
    flags = (*FLAGS, *flags)
    folder = cache()
    library = folder / f"{name}-{_key(sources, flags)}.so"
    if not library.exists():
        if os.environ.get("AGEHPC_KERNELS_BUILD") == "0":
            raise Unavailable("AGEHPC_KERNELS_BUILD=0 forbids building it")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _turn(library.with_suffix(".lock")):
                if not library.exists():
                    _build(name, sources[0], flags, library)
        except OSError as error:
            raise Unavailable(f"the cache {folder} cannot be written: {error}") from error
    try:
        torch.ops.load_library(library)
    except OSError as error:
        raise Unavailable(f"{library} cannot be loaded: {error.__cause__ or error}") from error
    return library


def cache() -> Path:
    """Return the folder of built libraries.

    Not TORCH_EXTENSIONS_DIR: jobs set that to a folder of the node that ends with them, for torch's
    loader breaks on shared ones, and every start would build anew.
    """
    if own := os.environ.get(VARIABLE):
        return Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared, "agehpc_kernels")
    try:
        return Path.home() / ".cache" / "agehpc_kernels"
    except RuntimeError as error:  # a container's user without an entry and without HOME
        raise Unavailable(f"the user has no home for the cache; set {VARIABLE}") from error


def _key(sources: Sequence[Path], flags: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.read_bytes())
    for text in (*flags, torch.__version__, str(torch.version.git_version), _compiler(), _cpu()):
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()[:16]


def _compiler() -> str:
    """Return what the compiler that torch's loader takes says it is."""
    command = os.environ.get("CXX", "c++")
    try:
        return subprocess.run(
            [*shlex.split(command), "--version"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unavailable(
            f"no C++ compiler: {command!r} does not run; install g++ or set CXX"
        ) from error


def _cpu() -> str:
    """Return model and features: nodes that share a cache may have different CPUs."""
    kinds = ("vendor", "cpu family", "model", "flags", "features", "cpu implementer", "cpu part")
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0].lower()
    except OSError:
        first = ""
    lines = [line for line in first.splitlines() if line.startswith(kinds)]
    return "\n".join([platform.machine(), platform.processor(), *lines])


@contextmanager
def _turn(lock: Path) -> Iterator[None]:
    """Wait for other builds of the same library. The system frees the lock of a killed process."""
    with lock.open("w") as file:
        deadline = time.monotonic() + _LONGEST_WAIT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"another process has held {lock} for {_LONGEST_WAIT_S:.0f} s"
                    ) from None
                time.sleep(0.1)
                continue
            except OSError:
                pass  # a file system without locks: then several build, and the last one stays
            break
        yield


def _build(name: str, source: Path, flags: Sequence[str], library: Path) -> None:
    for left in library.parent.glob("building-*"):
        if time.time() - left.stat().st_mtime > _ABANDONED_S:
            shutil.rmtree(left, ignore_errors=True)
    _logger.warning("building %s from C++ for this CPU: half a minute, once (%s)", name, library)
    with tempfile.TemporaryDirectory(prefix="building-", dir=library.parent) as folder:
        try:
            with warnings.catch_warnings(), _installed_programs():
                warnings.simplefilter("ignore")
                from torch.utils import cpp_extension

                built = cpp_extension.load(
                    name,
                    [str(source)],
                    extra_cflags=list(flags),
                    extra_ldflags=["-fopenmp"],
                    build_directory=folder,
                    with_cuda=False,
                    is_python_module=False,
                )
        except (RuntimeError, ImportError, subprocess.SubprocessError) as error:
            raise Unavailable(f"building it failed: {_summary(str(error))}") from error
        # Only a whole library is ever seen under its name, and the last of several is as good.
        Path(str(built)).replace(library)


@contextmanager
def _installed_programs() -> Iterator[None]:
    """Find ninja where pip put it, also when the environment is not activated."""
    before = os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = before + os.pathsep + sysconfig.get_path("scripts")
    try:
        yield
    finally:
        os.environ["PATH"] = before


def _summary(text: str) -> str:
    """Return the compiler's first error, or else the first line."""
    lines = text.splitlines() or [text]
    return next((line for line in lines if "error:" in line), lines[0])
