"""The code and configuration of a run, kept in it: RUN/code/HASH, never changed once written.

It holds the packages side by side, `slurm/`, the file of --config and the revision: with it first
on PYTHONPATH a job runs the code that was submitted, whatever becomes of the checkout.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from agehpc.errors import UsageError
from agehpc.observe.environment import REVISION, revision

PACKAGES = ("agehpc", "agehpc_kernels", "agehpc_tune")
CONFIG = "config.yaml"
_LEFT_OUT = {"__pycache__", ".pytest_cache"}


class Snapshot:
    """What a run's code folder will hold.

    Args:
        config: the file of --config, or None.

    Raises:
        UsageError: slurm/ or the configuration's file is nowhere.
    """

    def __init__(self, config: str | None) -> None:
        self._files = dict(sorted(_files(config)))
        told = revision()
        self._texts = {} if told is None else {REVISION: f"{told}\n"}
        digest = hashlib.sha256()
        for name, path in self._files.items():
            digest.update(f"{name}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
        digest.update("".join(self._texts.values()).encode())
        self.name = digest.hexdigest()[:12]

    def write(self, run: Path) -> Path:
        """Write it below a run, whole or not at all; return where. OSError as the disk does."""
        final = run / "code" / self.name
        if final.is_dir():
            return final
        partial = final.with_name(f".{self.name}.{os.getpid()}.partial")
        try:
            for name, path in self._files.items():
                target = partial / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
                if path.stat().st_mode & 0o100:
                    target.chmod(target.stat().st_mode | 0o100)
            for name, text in self._texts.items():
                (partial / name).write_text(text)
            if not final.is_dir():  # or another start has written it meanwhile
                partial.replace(final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return final


def _files(config: str | None) -> Iterator[tuple[str, Path]]:
    """Yield name in the snapshot, and file."""
    for package in PACKAGES:
        spec = find_spec(package)
        for folder in [] if spec is None else spec.submodule_search_locations or []:
            yield from _below(Path(folder), package)
    yield from _below(_slurm(), "slurm")
    if config is not None:
        if not Path(config).is_file():
            raise UsageError(f"--config {config} is not a file")
        yield CONFIG, Path(config)


def _below(folder: Path, name: str) -> Iterator[tuple[str, Path]]:
    for path in folder.rglob("*"):
        within = path.relative_to(folder)
        if path.is_file() and not _LEFT_OUT & set(within.parts):
            yield f"{name}/{within}", path


def _slurm() -> Path:
    """The folder of the batch scripts: of AGEHPC_HOME, or beside the package."""
    package = Path(__file__).resolve().parents[2]
    places = [Path(home) for home in (os.environ.get("AGEHPC_HOME"), package) if home]
    for place in places:
        if (place / "slurm" / "lib" / "common.sh").is_file():
            return place / "slurm"
    raise UsageError(
        f"slurm/lib/common.sh is not below {' or '.join(map(str, places))}: launch from a checkout "
        "(pip install -e), or export AGEHPC_HOME=/path/to/checkout"
    )
