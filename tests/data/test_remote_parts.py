"""URLs in mixtures, read by decoding processes, of tars that others made, in a small cache."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from agehpc.data.cache import default_directory
from agehpc.data.commands import main
from agehpc.data.fetch import Counts
from agehpc.data.loader import validation_batches
from agehpc.data.mixture import read_shards
from agehpc.data.pool import Figures
from agehpc.data.remote import Tally, remote_folder
from agehpc.errors import DataError
from tests.data.conftest import make_shards
from tests.data.epochs import config, epoch, mixture, same
from tests.data.web import Nginx


@pytest.mark.parametrize("workers", [0, 1])
def test_urls_in_a_mixture(nginx: Nginx, web_root: Path, workers: int):
    """A path, a URL and one with credentials: the batches of three paths; nothing shows the last.

    Shards of equal names in all of them.
    """
    third = make_shards(web_root / f"third-{workers}", 200)
    host = nginx.url.removeprefix("http://")
    secret = f"http://ann:hunter2@{host}/private/{third.relative_to(web_root)}?sig=s3cret"
    values = {"weights": (2, 1, 1), "fetch_ahead": 2, "workers": workers}
    paths = (str(web_root / "shards"), str(web_root / "others"), str(third))
    urls = (paths[0], f"{nginx.url}/others", secret)
    local, mixed = mixture(paths, **values), mixture(urls, **values)
    assert mixed.dataset_id == local.dataset_id
    assert same(epoch(mixed), epoch(local))
    assert same(
        list(validation_batches(mixed, batch=2, limit=None)),
        list(validation_batches(local, batch=2, limit=None)),
    )
    asked = [line.split()[1] for line in nginx.asked() if line.startswith("GET")]
    assert not any(path.startswith("/shards/") for path in asked)
    tars = [path for path in asked if path.endswith(".tar")]
    assert len(tars) == len(set(tars))
    for shown in (mixed.where, mixed.model_dump_json(), read_shards(mixed).model_dump_json()):
        assert f"http://***@{host}/private/" in shown
        assert "hunter2" not in shown
        assert "s3cret" not in shown
    with pytest.raises(DataError, match=r"the server answers 401") as caught:
        mixture((*urls[:2], secret.replace("hunter2", "hunter3")))
    assert "hunter3" not in str(caught.value)


def test_what_workers_read_is_counted(nginx: Nginx):
    figures = Figures()
    data = config(f"{nginx.url}/shards", workers=1, fetch_ahead=0)
    tally = Tally(data)
    epoch(data, figures)
    own = tally.take()  # the manifest
    assert own.bytes_fetched < 5_000
    assert own._replace(bytes_fetched=0) == Counts()
    assert figures.read.misses == 5
    assert figures.read.hits > 0
    assert figures.read.bytes_fetched > 5 * 10_000
    assert not Tally(data.at("/a/path"))


def test_a_cache_smaller_than_what_is_read_side_by_side(
    nginx: Nginx, web_root: Path, caplog: pytest.LogCaptureFixture
):
    """It works, slowly, and says so; the shards are in no way held all at once."""
    size = (web_root / "shards" / "train-000000.tar").stat().st_size
    gib = 3.5 * size / 2**30
    data = config(f"{nginx.url}/shards", interleave=5, cache_gib=gib, fetch_ahead=0)
    assert same(epoch(data), epoch(config(web_root / "shards", interleave=5)))
    assert "5 shards of" in caplog.text
    assert "more than --data.cache-gib" in caplog.text
    assert remote_folder(data).figures.counts.misses > 10
    caplog.clear()
    config_of_two = config(f"{nginx.url}/shards", interleave=2, cache_gib=gib, fetch_ahead=1)
    epoch(config_of_two)
    assert not caplog.text


def test_tars_made_by_others(nginx: Nginx, web_root: Path):
    """Their classes are in the index alone: one tar, indexed in two ways."""
    tars = web_root / "tars"
    tars.mkdir()
    for part in ("train-0", "val-0"):
        with tarfile.open(tars / f"{part}.tar", "w") as tar:
            for number, level in enumerate((10, 60, 110)):
                out = io.BytesIO()
                Image.new("L", (8, 8), level).save(out, "png")
                about = {"class": f"{number % 2}", "shade": f"{number}"}
                for name, content in (
                    ("png", out.getvalue()),
                    ("json", json.dumps(about).encode()),
                ):
                    member = tarfile.TarInfo(f"{part}/{number}.{name}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    for out, key in (("by-class", "class"), ("by-shade", "shade")):
        assert main(["index", str(tars), "--out", str(web_root / out), "--label-key", key]) == 0
        here, there = config(web_root / out), config(f"{nginx.url}/{out}")
        assert same(epoch(there), epoch(here))
        assert main(["verify", f"{nginx.url}/{out}"]) == 0
    (web_root / "by-shade" / "train-0.idx.json").unlink()
    for path in default_directory().glob("*.json"):
        path.unlink()
    with pytest.raises(DataError, match=r"train-0.idx.json cannot be fetched"):
        epoch(config(f"{nginx.url}/by-shade"))


def test_inspect_reads_a_url(
    nginx: Nginx, web_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    told = []
    for place in (f"{nginx.url}/shards?sig=s3cret", str(web_root / "shards")):
        assert main(["inspect", place, "--out", str(tmp_path / "sheet.png")]) == 0
        told.append((capsys.readouterr().out.splitlines(), (tmp_path / "sheet.png").read_bytes()))
    assert told[0][0][0].startswith(f"{nginx.url}/shards?***: images of 8 pixels")
    assert told[0][0][1:] == told[1][0][1:]
    assert told[0][1] == told[1][1]
