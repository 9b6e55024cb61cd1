import json
import os
import shutil
from pathlib import Path

import pytest

from agehpc.data.commands import main
from agehpc.data.index import index_name, read_index
from agehpc.errors import DataError


@pytest.fixture
def copied(demo_shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo_shards, tmp_path / "shards"))


def report(folder: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> list[str]:
    """The problems that `verify --json` lists; checks the exit code against them."""
    capsys.readouterr()
    code = main(["verify", str(folder), "--json", *flags])
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert code == (1 if problems else 0)
    return problems


def test_good_shards_have_no_problems(demo_shards: Path, capsys: pytest.CaptureFixture[str]):
    assert report(demo_shards, capsys) == []
    assert report(demo_shards, capsys, "--quick") == []


def test_one_line_a_problem(copied: Path, capsys: pytest.CaptureFixture[str]):
    (copied / "train-000000.tar").unlink()
    (copied / index_name("validation-000000.tar")).unlink()
    assert main(["verify", str(copied)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{copied}/train-000000.tar: missing",
        f"{copied}/validation-000000.tar: its index validation-000000.idx.json is missing",
        f"{copied}: 16 samples, 2 problem(s)",
    ]


@pytest.mark.parametrize("part", ["media", "json_member"])
def test_a_flipped_byte_names_its_sample(
    copied: Path, capsys: pytest.CaptureFixture[str], part: str
):
    path = copied / "train-000000.tar"
    sample = read_index(copied, path.name).samples[5]
    data = bytearray(path.read_bytes())
    data[getattr(sample, part).offset + 20] ^= 4
    path.write_bytes(data)
    assert any("sha256" in line for line in report(copied, capsys, "--quick"))
    problems = report(copied, capsys)
    assert any("sha256" in line for line in problems)
    assert any(f"sample {sample.key}" in line for line in problems)
    others = [s.key for s in read_index(copied, path.name).samples if s != sample]
    assert not any(key in line for key in others for line in problems)


def test_a_truncated_tar(copied: Path, capsys: pytest.CaptureFixture[str]):
    path = copied / "train-000000.tar"
    length = path.stat().st_size // 2
    os.truncate(path, length)
    problems = report(copied, capsys)
    assert any(f"{length} bytes" in line or f"bytes {length}" in line for line in problems)
    assert any("truncated" in line for line in problems)


def test_shards_of_another_pack(copied: Path, capsys: pytest.CaptureFixture[str]):
    """Every file is whole, but they do not belong together."""
    manifest = json.loads((copied / "manifest.json").read_text())
    train, validation = (manifest["splits"][s] for s in ("train", "validation"))
    train[0]["sha256"], validation[0]["sha256"] = validation[0]["sha256"], train[0]["sha256"]
    (copied / "manifest.json").write_text(json.dumps(manifest))
    problems = report(copied, capsys, "--quick")
    assert any("dataset id" in line for line in problems)
    assert sum("sha256" in line for line in problems) == 2


def test_no_shards_at_all(tmp_path: Path):
    with pytest.raises(DataError, match="no folder of shards at"):
        main(["verify", str(tmp_path / "nowhere")])
    with pytest.raises(DataError, match=r"has no manifest\.json"):
        main(["verify", str(tmp_path)])
    (tmp_path / "manifest.json").write_text('{"format": "agehpc-wds/9"}')
    with pytest.raises(DataError, match=r"manifest\.json is damaged: format"):
        main(["verify", str(tmp_path)])
