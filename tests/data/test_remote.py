"""Shards behind URLs, from a real nginx and from a server whose faults are scripted."""

import hashlib
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from agehpc.data import fetch
from agehpc.data.commands import main
from agehpc.data.loader import validation_batches
from agehpc.data.remote import RemoteFolder, remote_folder
from agehpc.data.shards import ShardInfo, read_manifest
from agehpc.errors import AgehpcError, ConfigError, DataError
from tests.data.epochs import config, epoch, same, settings
from tests.data.web import Faulty, Nginx

LOST = 600_000


def fetch_first(folder: RemoteFolder) -> bytes:
    """The bytes of the first training shard."""
    pinned = folder.pin(folder.manifest().splits["train"][0])
    return pinned.path.read_bytes()


def first_shard(web_root: Path) -> bytes:
    return (web_root / "shards" / "train-000000.tar").read_bytes()


@pytest.mark.parametrize(("workers", "ahead"), [(0, 0), (0, 3), (1, 3)])
def test_a_url_gives_the_batches_of_its_folder(
    nginx: Nginx, web_root: Path, workers: int, ahead: int
):
    data = config(f"{nginx.url}/shards", workers=workers, fetch_ahead=ahead)
    local = config(web_root / "shards")
    assert data.dataset_id == local.dataset_id
    assert same(epoch(data), epoch(local))
    assert same(
        list(validation_batches(data, batch=2, limit=None)),
        list(validation_batches(local, batch=2, limit=None)),
    )
    tars = [line for line in nginx.asked() if line.startswith("GET") and ".tar" in line]
    assert len(tars) == len(set(tars)) == 6  # each once


def test_what_is_cached_is_not_fetched_again(nginx: Nginx):
    data = config(f"{nginx.url}/shards", fetch_ahead=0, interleave=1)
    epoch(data)
    counts = remote_folder(data).figures.counts
    assert (counts.misses, counts.hits, counts.fetched, counts.retries) == (5, 0, 10, 0)
    assert counts.bytes_fetched > 5 * 10_000
    nginx.forget()
    epoch(data)
    assert not list(nginx.asked())
    assert remote_folder(data).figures.counts.hits == 5


def test_two_folders_with_shards_of_one_name(nginx: Nginx, web_root: Path):
    """webdataset's cache gives the first folder's shard for both."""
    for name in ("shards", "others"):
        assert (web_root / name / "train-000000.tar").is_file()
        assert same(epoch(config(f"{nginx.url}/{name}")), epoch(config(web_root / name)))


def test_a_url_has_one_folder_a_process_however_many_there_are(faulty: Faulty):
    """Another one would have figures that nobody looks at."""
    first = remote_folder(f"{faulty.url}/shards")
    for number in range(40):
        remote_folder(f"{faulty.url}/{number}")
    assert remote_folder(f"{faulty.url}/shards") is first


def test_an_index_is_made_where_the_server_has_none(nginx: Nginx, web_root: Path):
    bare = Path(shutil.copytree(web_root / "shards", web_root / "bare"))
    for path in bare.glob("*.idx.json"):
        path.unlink()
    assert same(epoch(config(f"{nginx.url}/bare")), epoch(config(web_root / "shards")))


def test_a_shard_cut_between_two_members(nginx: Nginx, web_root: Path):
    """Stock webdataset reads three of four samples and says nothing."""
    cut = Path(shutil.copytree(web_root / "shards", web_root / "cut"))
    path = cut / "train-000001.tar"
    index = json.loads((cut / "train-000001.idx.json").read_text())
    last = index["samples"][3]
    end = min(last["media"]["offset"], last["json_member"]["offset"]) - 512
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(DataError, match=rf"/cut/train-000001.tar is {end} bytes long but should"):
        config(f"{nginx.url}/cut")
    data = config(f"{nginx.url}/shards").model_copy(update={"shards": f"{nginx.url}/cut"})
    with pytest.raises(DataError, match=f"a file of {end} bytes, the manifest says"):
        epoch(data)


@pytest.mark.parametrize("field", ["sha256", "index_sha256"])
def test_a_checksum_that_is_a_path(tmp_path: Path, web_root: Path, field: str):
    """Checksums name files in the cache: one made to lead out of it must not."""
    copy = Path(shutil.copytree(web_root / "shards", tmp_path / "copy"))
    about = json.loads((copy / "manifest.json").read_text())
    about["splits"]["train"][0][field] = "../../../home/someone/notes"
    (copy / "manifest.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match=rf"damaged: splits\.train\.0\.{field}"):
        read_manifest(copy)


def test_a_page_instead_of_a_shard(nginx: Nginx):
    """A portal answers 200 with a page; webdataset reads no sample from it and goes on."""
    with pytest.raises(DataError, match=r"train-000000.tar is 26 bytes long but should have"):
        config(f"{nginx.url}/login")
    folder = remote_folder(settings(f"{nginx.url}/login"))
    with pytest.raises(DataError, match=r"it is an HTML page of 26 bytes.*\(5 tries in"):
        fetch_first(folder)
    assert folder.figures.counts.retries == 4


@pytest.mark.parametrize("file", ["manifest.json", "train-000000.idx.json"])
def test_a_page_instead_of_json(faulty: Faulty, web_root: Path, file: str):
    broken = Path(shutil.copytree(web_root / "shards", web_root / f"page-{file}"))
    (broken / file).write_text("<html>no</html>")
    with pytest.raises(DataError, match=f"/{file} cannot be fetched: it is an HTML page"):
        epoch(config(f"{faulty.url}/{broken.name}"))


def large(web_root: Path, folder: RemoteFolder) -> tuple[bytes, Callable[[], bytes]]:
    """A file of four megabytes, and a function that fetches it.

    What came just before a connection broke is lost with it, as far as it lay in aiohttp's buffers
    (LOST at most); so the files that are cut have to be larger.
    """
    data = random.Random(1).randbytes(4_000_000)
    (web_root / "large.tar").write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    about = {"bytes": len(data), "samples": 1, "frames": 1, "least_frames": 1}
    shard = ShardInfo(name="large.tar", sha256=sha256, **about)
    return data, lambda: folder.pin(shard).path.read_bytes()


def starts(ranges: list[str]) -> list[int]:
    return [int(text.removeprefix("bytes=").removesuffix("-") or 0) for text in ranges]


def test_a_connection_closed_early_goes_on_where_it_was(
    nginx: Nginx, behind: Faulty, web_root: Path
):
    """Through nginx, whose upstream closes twice."""
    folder = remote_folder(settings(f"{nginx.url}/faulty"))
    data, whole = large(web_root, folder)
    behind.do("cut 1500000", "cut 1500000")
    assert whole() == data
    first, second, third = starts(behind.ranges)
    assert first == 0
    assert 1_500_000 - LOST <= second <= 1_500_000
    assert second + 1_500_000 - LOST <= third <= second + 1_500_000
    assert folder.figures.counts.retries == 2
    assert folder.figures.counts.bytes_fetched == len(data)  # none twice


def test_progress_is_worth_more_tries(
    faulty: Faulty, web_root: Path, monkeypatch: pytest.MonkeyPatch
):
    """Three connections break where two may, in a row, that bring nothing."""
    monkeypatch.setattr(fetch, "TRIES", 2)
    folder = remote_folder(settings(faulty.url))
    data, whole = large(web_root, folder)
    faulty.do(*["cut 1200000"] * 3)
    assert whole() == data
    assert starts(faulty.ranges) == sorted(set(starts(faulty.ranges)))
    assert len(faulty.ranges) == 4


def test_a_server_that_ignores_the_range(faulty: Faulty, web_root: Path):
    folder = remote_folder(settings(faulty.url))
    data, whole = large(web_root, folder)
    faulty.do("cut 1500000", "500", "html", "cut 1500000", "whole")
    assert whole() == data
    first, second, third, fourth, fifth = starts(faulty.ranges)
    assert first == 0
    assert second == third == fourth >= 1_500_000 - LOST  # what fails brings nothing, takes nothing
    assert fifth >= second + 1_500_000 - LOST


def test_a_server_that_always_closes_early(nginx: Nginx, behind: Faulty):
    behind.do(forever="cut 0")
    with pytest.raises(DataError, match=r"train-000000.tar cannot be fetched: .*\(5 tries in"):
        fetch_first(remote_folder(settings(f"{nginx.url}/faulty/shards")))


@pytest.mark.parametrize(
    ("script", "ranges"),
    [
        (["500", "later"], ["", "", ""]),
        (["html", "500"], ["", "", ""]),
        (["wrong"], ["", ""]),  # the right length, other bytes
    ],
)
def test_faults_that_pass(faulty: Faulty, web_root: Path, script: list[str], ranges: list[str]):
    faulty.do(*script)
    folder = remote_folder(settings(f"{faulty.url}/shards"))
    assert fetch_first(folder) == first_shard(web_root)
    assert faulty.ranges == ranges
    assert folder.figures.counts.retries == len(script)


def test_a_server_without_ranges(nginx: Nginx, web_root: Path, cache_dir: Path):
    """nginx with max_ranges 0 answers 200 to a Range: what had come is not kept."""
    folder = remote_folder(settings(f"{nginx.url}/whole/shards"))
    shard = folder.manifest().splits["train"][0]
    part = cache_dir / f"{shard.sha256}.tar.{shard.bytes}.part"
    part.write_bytes(first_shard(web_root)[:4000])
    assert fetch_first(folder) == first_shard(web_root)
    assert any("train-000000.tar 200 bytes=4000-" in line for line in nginx.asked())


def test_a_download_goes_on_after_its_process_ended(nginx: Nginx, web_root: Path, cache_dir: Path):
    folder = remote_folder(settings(f"{nginx.url}/shards"))
    shard = folder.manifest().splits["train"][0]
    part = cache_dir / f"{shard.sha256}.tar.{shard.bytes}.part"
    part.write_bytes(first_shard(web_root)[:4000])
    assert fetch_first(folder) == first_shard(web_root)
    rest = shard.bytes - 4000
    assert f"GET /shards/train-000000.tar 206 bytes=4000- {rest}" in nginx.asked()
    assert not list(cache_dir.glob("*.part"))


def test_what_was_left_behind_may_be_of_no_use(faulty: Faulty, web_root: Path, cache_dir: Path):
    folder = remote_folder(settings(f"{faulty.url}/shards"))
    shard = folder.manifest().splits["train"][0]
    part = cache_dir / f"{shard.sha256}.tar.{shard.bytes}.part"
    part.write_bytes(b"x" * 4000)
    assert fetch_first(folder) == first_shard(web_root)
    assert faulty.ranges == ["bytes=4000-", ""]


def test_the_deadline(nginx: Nginx, web_root: Path):
    """The slow server takes half a minute for 256 kB."""
    (web_root / "large.tar").write_bytes(bytes(256_000))
    folder = remote_folder(settings(f"{nginx.url}/slow", fetch_minutes=0.02))
    shard = ShardInfo(
        name="large.tar", bytes=256_000, sha256="0" * 64, samples=1, frames=1, least_frames=1
    )
    with pytest.raises(DataError, match=r"of 256000 bytes by the deadline .*fetch-minutes 0.02"):
        folder.pin(shard)


def test_two_processes_fetch_a_shard_once(nginx: Nginx, cache_dir: Path):
    """Three processes start together; nginx is slow enough for all to want it at one time."""
    code = (
        "import sys\n"
        "from agehpc.config.schema import DataConfig\n"
        "from agehpc.data.remote import remote_folder\n"
        "data = DataConfig(kind='image', frames=1, size=8, shards=sys.argv[1])\n"
        "folder = remote_folder(data)\n"
        "shard = folder.manifest().splits['train'][0]\n"
        "folder.pin(shard), folder.index_of(shard)\n"
        "print(folder.figures.counts.fetched)\n"
    )
    command = [sys.executable, "-c", code, f"{nginx.url}/slow/shards"]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    fetched = [int(process.communicate(timeout=120)[0]) for process in started]
    assert sum(fetched) == 2
    # nginx writes a request down when it ends: one that an earlier test broke off may come late.
    asked = [line.split()[1] for line in nginx.asked() if "/slow/shards/" in line]
    assert len([path for path in asked if not path.endswith("manifest.json")]) == 2


def test_verify_asks_the_server(nginx: Nginx, web_root: Path, capsys: pytest.CaptureFixture[str]):
    """What is cached counts for nothing: damage at the server is found."""
    damaged = Path(shutil.copytree(web_root / "shards", web_root / "damaged"))
    url = f"{nginx.url}/damaged"
    epoch(config(url))
    assert main(["verify", url]) == 0
    assert capsys.readouterr().out == f"{url}: 24 samples, no problems\n"
    path = damaged / "train-000002.tar"
    data = bytearray(path.read_bytes())
    data[-3000] ^= 1
    path.write_bytes(data)
    assert main(["verify", url, "--quick"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"{url}/train-000002.tar cannot be fetched: its content is not what")


def test_credentials(nginx: Nginx, web_root: Path, capsys: pytest.CaptureFixture[str]):
    """They open the door, and no message shows them."""
    host = nginx.url.removeprefix("http://")
    url = f"http://ann:hunter2@{host}/private/shards?sig=s3cret"
    assert same(epoch(config(url)), epoch(config(web_root / "shards")))
    assert main(["verify", url, "--quick"]) == 0
    assert "hunter2" not in (shown := capsys.readouterr().out)
    assert f"http://***@{host}/private/shards?***: 24 samples" in shown
    wrong = url.replace("hunter2", "hunter3")
    with pytest.raises(DataError, match=r"the server answers 401") as caught:
        read_manifest(wrong)
    assert "hunter3" not in str(caught.value)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(DataError, match=r"no_such/train-000000.tar|404") as caught:
        config(url.replace("/shards", "/no_such"))
    assert "hunter2" not in str(caught.value)


def test_a_recorded_url_says_that_it_lacks_its_credentials(cache_dir: Path):
    with pytest.raises(DataError, match=r"recorded without its credentials.*--shards"):
        read_manifest("https://***@example.org/shards")


def test_credentials_of_netrc(nginx: Nginx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login ann password hunter2\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert read_manifest(f"{nginx.url}/private/shards").samples("train") == 20


@pytest.mark.parametrize("protocol", ["file", "memory"])
def test_whatever_fsspec_opens(
    cache_dir: Path, web_root: Path, protocol: str, monkeypatch: pytest.MonkeyPatch
):
    # TensorBoard imports google.protobuf: that is no reason to look for google.auth.
    monkeypatch.setitem(sys.modules, "google", ModuleType("google"))
    url = f"file://{web_root}/shards"
    if protocol == "memory":
        import fsspec

        memory = fsspec.filesystem("memory")
        for path in (web_root / "shards").iterdir():
            memory.pipe_file(f"/shards/{path.name}", path.read_bytes())
        url = "memory://shards"
    assert same(epoch(config(url)), epoch(config(web_root / "shards")))
    with pytest.raises(DataError, match=r"there is no such file; is the URL right"):
        read_manifest(f"{url}/none")


def test_a_pipe_only_where_it_is_allowed(cache_dir: Path, web_root: Path):
    url = f"pipe:cat {web_root}/shards/{{}}"
    with pytest.raises(ConfigError, match=r"needs --allow-pipe"):
        read_manifest(url)
    assert same(epoch(config(url, allow_pipe=True)), epoch(config(web_root / "shards")))
    with pytest.raises(ConfigError, match=r"put \{\} there"):
        config("pipe:cat shards", allow_pipe=True)
    failing = settings("pipe:echo token-in-an-option {} >&2; exit 3", allow_pipe=True)
    with pytest.raises(DataError, match=r"the command ended with the exit code 3") as caught:
        read_manifest(failing)
    assert "token" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/shards", "s3fs"),
        ("nonsense://x", "Protocol not known: nonsense"),
        ("http://127.0.0.1:x/shards", "no valid URL"),
        ("http://127.0.0.1:1/shards", r"Cannot connect to host 127.0.0.1:1.*5 tries"),
    ],
)
def test_urls_that_cannot_be_read(cache_dir: Path, url: str, message: str):
    with pytest.raises(AgehpcError, match=message):
        read_manifest(url)


@pytest.mark.parametrize("fault", ["name", "twice", "id"])
def test_a_manifest_that_cannot_be_true(faulty: Faulty, web_root: Path, fault: str):
    wrong = Path(shutil.copytree(web_root / "shards", web_root / f"wrong-{fault}"))
    manifest = json.loads((wrong / "manifest.json").read_text())
    shards = manifest["splits"]["train"]
    if fault == "name":
        shards[1]["name"] = "../shards/train-000001.tar"
    elif fault == "twice":
        shards[1]["name"] = shards[0]["name"]
    else:
        shards[1]["sha256"] = shards[0]["sha256"]
    (wrong / "manifest.json").write_text(json.dumps(manifest))
    message = {"name": "outside its folder", "twice": "a shard twice", "id": "dataset id"}[fault]
    with pytest.raises(DataError, match=message):
        read_manifest(f"{faulty.url}/{wrong.name}")
