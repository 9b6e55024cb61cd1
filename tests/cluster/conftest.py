from collections.abc import Iterator

import pytest

from tests.cluster.slurm import Cluster, why_not


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A real Slurm of two nodes; skips where none can be started."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with Cluster() as started:
        yield started
