"""Data that trainings of the tests read."""

from pathlib import Path

import pytest

from agehpc import cli


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of the demo at 28 pixels. Read only."""
    out = tmp_path_factory.mktemp("shards") / "demo"
    assert cli.main(["data", "demo", str(out), "--size", "28"]) == 0
    return out
