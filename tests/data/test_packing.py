import gc
import hashlib
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from agehpc.data.commands import main
from agehpc.data.decode import Reader
from agehpc.data.shards import read_manifest
from agehpc.errors import UsageError
from tests.data.samples import decode_pyav, folder_bytes


def abouts(folder: Path) -> list[dict]:
    """The json members of all shards, with the split."""
    found = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for info in tar:
                if info.name.endswith(".json"):
                    file = tar.extractfile(info)
                    assert file
                    found.append(json.load(file) | {"split": path.name.split("-")[0]})
    return found


def test_folders_become_labelled_shards(people: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    flags = ["--group-by", r"p(\d+)_", "--size", "16", "--samples-per-shard", "3"]
    assert main(["pack", str(people), str(out), *flags]) == 0
    manifest = read_manifest(out)
    assert manifest.classes == ("bend", "wave")
    assert manifest.kind == "video"
    assert (manifest.size, manifest.channels, manifest.fps) == (16, 3, 25.0)
    assert manifest.groups == {"train": 2, "validation": 1}
    assert (manifest.samples("train"), manifest.samples("validation")) == (8, 4)
    assert [s.samples for s in manifest.splits["train"]] == [3, 3, 2]
    for about in abouts(out):
        assert about["class"] == about["source"].split("/")[0]
        assert about["label"] == manifest.classes.index(about["class"])
        assert about["group"] == re.findall(r"p(\d)_", about["source"])[0]
        digest = hashlib.sha256((people / about["source"]).read_bytes()).hexdigest()
        assert about["source_sha256"] == digest
        assert about["frames"] == 20
    by_split = {s: {a["group"] for a in abouts(out) if a["split"] == s} for s in manifest.splits}
    assert not by_split["train"] & by_split["validation"]
    assert "12 video source(s)" in capsys.readouterr().out
    assert main(["verify", str(out)]) == 0


def test_bytes_do_not_depend_on_workers_or_place(people: Path, tmp_path: Path):
    one, two = tmp_path / "one", tmp_path / "elsewhere" / "two"
    moved = tmp_path / "moved"
    flags = ["--size", "16", "--json"]
    assert main(["pack", str(people), str(one), *flags]) == 0
    people.rename(moved)
    assert main(["pack", f"{moved}/", str(two), *flags, "--workers", "2"]) == 0
    assert folder_bytes(one) == folder_bytes(two)


def test_members_have_fixed_owner_and_time(demo_shards: Path):
    with tarfile.open(demo_shards / "train-000000.tar") as tar:
        members = tar.getmembers()
    assert {(m.mtime, m.uid, m.gid, m.mode, m.uname) for m in members} == {
        (0, 0, 0, 0o444, "agehpc")
    }
    assert re.fullmatch(r"train-000000-000000\.(json|mp4)", members[0].name)
    raw = (demo_shards / "train-000000.tar").read_bytes()
    assert raw[257:263] == b"ustar\0"


# webdataset leaves its files to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_stock_webdataset_reads_the_shards(demo_shards: Path):
    reader = Reader(demo_shards, read_manifest(demo_shards), "train")
    dataset = webdataset.WebDataset(
        str(demo_shards / "train-000000.tar"), shardshuffle=False, empty_check=True
    )
    samples = list(dataset)
    gc.collect()
    assert len(samples) == 8
    for index, sample in enumerate(samples):
        assert sample["__key__"] == reader.sample(0, index).key
        assert sample["mp4"] == reader.read(0, index)
        assert json.loads(sample["json"])["frames"] == reader.sample(0, index).frames


def test_demo_keeps_sources_apart(demo_shards: Path):
    manifest = read_manifest(demo_shards)
    found = abouts(demo_shards)
    assert {a["source"] for a in found if a["split"] == "validation"} == {"bikes.mp4"}
    assert {a["source"] for a in found if a["split"] == "train"} == {
        "bigbuckbunny.mp4",
        "carphone_pristine.mp4",
    }
    # 132, 250 and 120 frames by 32; ends of 4 frames are dropped, of 26 and 24 kept.
    lengths = {
        s: [a["frames"] for a in found if a["source"] == s]
        for s in ("bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4")
    }
    assert lengths == {
        "bigbuckbunny.mp4": [32] * 4,
        "bikes.mp4": [32] * 7 + [26],
        "carphone_pristine.mp4": [32] * 3 + [24],
    }
    assert manifest.classes == ()
    assert {a["label"] for a in found} == {-1}
    assert main(["verify", str(demo_shards)]) == 0


def test_packed_pixels_follow_the_source(demo_shards: Path, demo_clips: dict[str, Path]):
    """Against an independent path: full decode, square pixels and crop by plain Pillow."""
    source = decode_pyav(demo_clips["carphone_pristine.mp4"])
    with tarfile.open(demo_shards / "train-000000.tar") as tar:
        for about in abouts(demo_shards):
            if about["source"] == "carphone_pristine.mp4" and about["segment"] == 1:
                break
        key = next(
            m.name[:-5]
            for m in tar
            if m.name.endswith(".json") and json.load(tar.extractfile(m)) == _member(about)  # pyright: ignore
        )
        packed = decode_pyav(tar.extractfile(f"{key}.mp4").read())  # pyright: ignore
    expected = []
    for frame in source[32:64]:
        square = Image.fromarray(frame).resize(
            (round(176 * 128 / 117), 144), Image.Resampling.BICUBIC
        )
        left = (square.width - 144) // 2
        small = square.crop((left, 0, left + 144, 144)).resize((64, 64), Image.Resampling.BICUBIC)
        expected.append(np.asarray(small))
    error = np.abs(packed.astype(float) - expected).mean()
    assert error < 6  # of which 3 by the codec
    shifted = np.abs(packed[:-1].astype(float) - expected[1:]).mean()
    assert error < shifted  # the frames are in place


def _member(about: dict) -> dict:
    return {key: value for key, value in about.items() if key != "split"}


def test_rejects_are_listed_and_counted(people: Path, tmp_path: Path, capsys):
    (people / "wave" / "empty.mp4").touch()
    (people / "bend" / "broken.mp4").write_bytes(b"x" * 1000)
    out = tmp_path / "out"
    assert main(["pack", str(people), str(out), "--size", "16"]) == 0
    manifest = read_manifest(out)
    assert manifest.rejects == {"empty": 1, "undecodable": 1}
    assert manifest.sources == 12
    lines = [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]
    assert {(line["source"], line["reason"]) for line in lines} == {
        ("wave/empty.mp4", "empty"),
        ("bend/broken.mp4", "undecodable"),
    }
    assert "rejected   1 undecodable" in capsys.readouterr().out


def test_a_split_of_rejects_alone_is_split_again(tmp_path: Path):
    """Whichever of the groups is held out first, one of the good ones must end up held out."""
    source = tmp_path / "in"
    source.mkdir()
    names = [f"{i}.png" for i in range(6)]
    from agehpc.data.sources import split_groups

    held_out = [n for n, split in split_groups(names, 0.3).items() if split == "validation"]
    for name in names:
        if name in held_out:
            (source / name).write_bytes(b"broken")
        else:
            Image.new("RGB", (16, 16), "red").save(source / name)
    assert (
        main(
            [
                "pack",
                str(source),
                str(tmp_path / "out"),
                "--size",
                "8",
                "--validation-fraction",
                "0.3",
            ]
        )
        == 0
    )
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.samples("train"), manifest.samples("validation")) == (3, 1)
    assert manifest.rejects == {"undecodable": 2}


def test_dry_run_writes_nothing(people: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    command = ["pack", str(people), str(out), "--group-by", r"p(\d+)_", "--dry-run"]
    assert main(command) == 0
    assert "12 videos" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert (about["groups"], len(about["validation_groups"])) == (3, 1)
    assert not out.exists()


def test_people_are_held_out_whole(shared_data: Path, tmp_path: Path, capsys):
    """Each clip has a mirrored twin: only a split by person is a fair one."""
    command = ["pack", str(shared_data / "actions64.tar"), str(tmp_path / "out"), "--dry-run"]
    flags = ["--group-by", r"p(\d+)_", "--validation-fraction", "0.25", "--json"]
    assert main([*command, *flags]) == 0
    about = json.loads(capsys.readouterr().out)
    assert (about["sources"], about["groups"]) == (56, 7)
    assert len(about["validation_groups"]) == 2
    assert about["classes"] == ["bend", "jack", "wave1", "wave2"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--size", "15"], "odd"),
        (["--size", "4"], "--size must be 8"),
        (["--validation-fraction", "1"], "--validation-fraction"),
        (["--fps", "fast"], "--fps"),
        (["--crf", "60"], "--crf"),
        (["--workers", "-1"], "--workers"),
        (["--workers", "2000"], "--workers"),
        (["--source-minutes", "0"], "--source-minutes"),
        (["--group-by", "nomatch(x)"], "does not match"),
    ],
)
def test_wrong_flags(people: Path, tmp_path: Path, flags: list[str], message: str):
    with pytest.raises(UsageError, match=re.escape(message)):
        main(["pack", str(people), str(tmp_path / "out"), *flags])
    assert not (tmp_path / "out").exists()


def test_grey_video(people: Path, tmp_path: Path):
    out = tmp_path / "out"
    assert main(["pack", str(people), str(out), "--size", "16", "--channels", "1"]) == 0
    assert read_manifest(out).channels == 1
    with tarfile.open(out / "train-000000.tar") as tar:
        media = next(tar.extractfile(m).read() for m in tar if m.name.endswith("mp4"))  # pyright: ignore
    frames = decode_pyav(media).astype(int)
    assert np.ptp(frames, axis=-1).max() == 0
