from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from agehpc.data import fetch
from agehpc.data.remote import _folder
from tests.data.samples import ramp, write_video
from tests.data.web import Faulty, Nginx, faulty_server, why_no_nginx


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Twelve short videos: 2 actions of 3 people, two takes each."""
    for action in ("bend", "wave"):
        (tmp_path / "people" / action).mkdir(parents=True)
        for person in range(3):
            for take in range(2):
                name = f"p{person}_{take}.mp4"
                write_video(tmp_path / "people" / action / name, ramp(20, 32, 40))
    return tmp_path / "people"


def make_shards(folder: Path, first: int) -> Path:
    """Five training shards of four grey 8 x 8 images, one of validation; levels from `first`."""
    from agehpc.data.commands import main

    for level in range(first, first + 24):
        kind = folder / "images" / ("even" if level % 2 == 0 else "odd")
        kind.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), level).save(kind / f"{level}.png")
    flags = ["--size", "8", "--image-format", "png", "--samples-per-shard", "4"]
    share = ["--validation-fraction", "0.17"]
    assert main(["pack", str(folder / "images"), str(folder / "shards"), *flags, *share]) == 0
    return folder / "shards"


@pytest.fixture(scope="session")
def web_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the servers serve: the folders `shards` and `others`, of shards with equal names."""
    root = tmp_path_factory.mktemp("web")
    make_shards(root, 100)
    make_shards(root / "more", 10).rename(root / "others")
    return root


@pytest.fixture
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no long pauses between tries."""
    pytest.importorskip("aiohttp", reason="needs agehpc[remote]")
    monkeypatch.setattr(fetch, "FIRST_PAUSE", 0.001)
    monkeypatch.setenv("AGEHPC_CACHE", str(tmp_path / "cache"))
    _folder.cache_clear()
    return tmp_path / "cache"


@pytest.fixture
def faulty(web_root: Path, cache_dir: Path) -> Iterator[Faulty]:
    """A server whose faults are scripted; its root is `web_root`."""
    with faulty_server(web_root) as server:
        yield server


@pytest.fixture(scope="session")
def _nginx(
    web_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Nginx, Faulty]]:
    reason = why_no_nginx()
    if reason is not None:
        pytest.skip(reason)
    with faulty_server(web_root) as behind:
        server = Nginx(tmp_path_factory.mktemp("nginx"), web_root, behind.server_port)
        yield server, behind
        server.stop()


@pytest.fixture
def nginx(_nginx: tuple[Nginx, Faulty], cache_dir: Path) -> Nginx:
    """A real nginx that serves `web_root`; skips where there is none."""
    server, behind = _nginx
    server.forget()
    behind.do()
    return server


@pytest.fixture
def behind(_nginx: tuple[Nginx, Faulty]) -> Faulty:
    """The server behind nginx's /faulty/."""
    return _nginx[1]
