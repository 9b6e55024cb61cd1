from pathlib import Path

import pytest

import agehpc
from agehpc.trained import Model
from tests.latent.runs import make_run, pack_clips, pack_images


@pytest.fixture(scope="session")
def image_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def clip_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="session")
def image_run(image_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "image", image_shards)


@pytest.fixture(scope="session")
def clip_run(clip_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "clip", clip_shards)


@pytest.fixture(scope="session")
def model(image_run: Path) -> Model:
    return agehpc.load(image_run)
