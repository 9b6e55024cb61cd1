"""Random weights in the layout of the published files, made once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.evaluate.features.networks import save_inception, save_vgg16


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_inception(tmp_path_factory.mktemp("inception"))


@pytest.fixture(scope="session")
def vgg16_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = save_vgg16(tmp_path_factory.mktemp("vgg16"))
    yield path
    path.unlink()  # half a GB, which pytest would keep for its last runs
