"""Tars made by others: by GNU tar, by webdataset, and laid out as img2dataset does."""

import gc
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from agehpc.config.schema import DataConfig
from agehpc.data.check import check
from agehpc.data.commands import main
from agehpc.data.index import index_name, read_index
from agehpc.data.loader import validation_batches
from agehpc.data.shards import Manifest, read_manifest
from agehpc.errors import DataError, UsageError
from tests.data.samples import decode_pyav, folder_bytes, rotate, write_video

SIZE = 16


def picture(seed: int, size: int = SIZE, **options: object) -> bytes:
    """An image of noise as JPEG, or as `format` says."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, **({"format": "JPEG"} | options))
    return out.getvalue()


def make_tar(path: Path, members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def img2dataset(folder: Path, shards: int = 3, count: int = 4) -> Path:
    """What `img2dataset --output_format webdataset` leaves: tars, parquet and stats beside."""
    for shard in range(shards):
        members: dict[str, bytes] = {}
        for n in range(count):
            key = f"{shard:05d}{n:04d}"
            about = {"caption": f"noise {n}", "url": "http://a/b.jpg", "key": key, "width": SIZE}
            about |= {"status": "success", "error_message": None, "animal": "cat" if n % 2 else 7}
            members[f"{key}.jpg"] = picture(100 * shard + n)
            members[f"{key}.json"] = json.dumps(about).encode()
            members[f"{key}.txt"] = b"noise"
        make_tar(folder / f"{shard:05d}.tar", members)
        (folder / f"{shard:05d}.parquet").write_bytes(b"PAR1")
        (folder / f"{shard:05d}_stats.json").write_text("{}")
    return folder


def index(*arguments: object) -> Manifest:
    """Run `data index`; every result must verify."""
    words = [str(argument) for argument in arguments]
    assert main(["index", *words]) == 0
    out = words[words.index("--out") + 1]
    assert main(["verify", out]) == 0
    return read_manifest(out)


def test_packed_tars_without_classes_have_none(tmp_path: Path):
    (tmp_path / "in").mkdir()
    for number in range(4):
        (tmp_path / "in" / f"{number}.jpg").write_bytes(picture(number))
    assert main(["pack", str(tmp_path / "in"), str(tmp_path / "packed"), "--size", str(SIZE)]) == 0
    assert index(tmp_path / "packed", "--out", tmp_path / "out").classes == ()


def test_links_of_an_earlier_run_are_no_tars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """However the two folders are written."""
    img2dataset(tmp_path / "raw")
    monkeypatch.chdir(tmp_path)
    first = index("raw", "--out", "out", "--label-key", "animal")
    for source, out in ((tmp_path, "out"), (".", tmp_path / "out")):
        command = (source, "--out", out, "--overwrite", "--label-key", "animal")
        assert index(*command).dataset_id == first.dataset_id


def labels(out: Path, manifest: Manifest) -> dict[str, str | None]:
    """Class by key of all samples."""
    return {
        sample.key: manifest.classes[sample.label] if sample.label >= 0 else None
        for shards in manifest.splits.values()
        for shard in shards
        for sample in read_index(out, shard.name).samples
    }


def test_img2dataset_layout(tmp_path: Path):
    source, out = img2dataset(tmp_path / "in"), tmp_path / "out"
    before = folder_bytes(source)
    manifest = index(source, "--out", out)
    assert folder_bytes(source) == before  # not one byte of it is written
    assert (manifest.kind, manifest.size, manifest.channels) == ("image", SIZE, 3)
    assert (manifest.samples("train"), manifest.samples("validation")) == (8, 4)
    assert manifest.classes == ()  # shards are numbered: that is no class
    by_key = index(source, "--out", tmp_path / "named", "--label-key", "animal")
    assert by_key.classes == ("7", "cat")
    assert labels(tmp_path / "named", by_key)["000010003"] == "cat"
    assert by_key.dataset_id != manifest.dataset_id
    with pytest.raises(UsageError, match="no json member has that field"):
        index(source, "--out", tmp_path / "x", "--label-key", "breed")


def test_pixels_are_those_of_the_tar(tmp_path: Path):
    source, out = img2dataset(tmp_path / "in"), tmp_path / "out"
    manifest = index(source, "--out", out, "--validation", "00001*")
    values = {"kind": "image", "size": SIZE, "frames": 1, "shards": str(out)}
    data = check(DataConfig.model_validate(values), manifest)
    (batch,) = validation_batches(data, batch=8, limit=None)
    for n, x_CHW in enumerate(batch.pixels.numpy()):
        expected = np.asarray(Image.open(io.BytesIO(picture(100 + n))))
        np.testing.assert_array_equal(x_CHW.transpose(1, 2, 0), expected)


# webdataset leaves its files to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_writer(tmp_path: Path):
    """Its classes are whole numbers: ten comes after nine."""
    pattern = str(tmp_path / "in" / "set-%06d.tar")
    Path(pattern).parent.mkdir()
    with webdataset.ShardWriter(pattern, maxcount=8, verbose=0) as sink:
        for n in range(24):
            sink.write(
                {"__key__": f"sample{n:03d}", "png": picture(n, format="PNG"), "cls": n % 12}
            )
    manifest = index(tmp_path / "in", "--out", tmp_path / "out")
    assert manifest.classes == tuple(str(n) for n in range(12))
    found = labels(tmp_path / "out", manifest)
    assert found == {f"sample{n:03d}": str(n % 12) for n in range(24)}
    # What webdataset reads from the links is what the index names.
    shard = manifest.splits["train"][0].name
    stock = list(webdataset.WebDataset(str(tmp_path / "out" / shard), shardshuffle=False))
    gc.collect()
    samples = read_index(tmp_path / "out", shard).samples
    assert [s["__key__"] for s in stock] == [s.key for s in samples]
    raw = (tmp_path / "out" / shard).read_bytes()
    for read, sample in zip(stock, samples, strict=True):
        assert raw[sample.media.offset :][: sample.media.size] == read["png"]


@pytest.mark.parametrize("form", ["gnu", "pax", "ustar"])
def test_gnu_tar(tmp_path: Path, form: str):
    """Folders are classes; long names, hidden files and folders of their own are no obstacle."""
    tree = tmp_path / "tree"
    long = "a" * 90 if form == "ustar" else "long" * 40  # USTAR ends at 100 letters
    for n, name in enumerate(("bend/1", f"bend/{long}", "wave/x/1", "wave/x/2")):
        path = tree / f"{name}.JPG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(n))
    (tree / "bend" / "._1.JPG").write_bytes(b"resource fork")
    for folder in ("bend", "wave"):
        command = ["tar", f"--format={form}", "-cf", f"{folder}.tar", "-C", "tree", f"./{folder}"]
        subprocess.run(command, cwd=tmp_path, check=True)
    manifest = index(tmp_path / "bend.tar", tmp_path / "wave.tar", "--out", tmp_path / "out")
    assert manifest.classes == ("bend", "x")
    found = labels(tmp_path / "out", manifest)
    assert found == {"./bend/1": "bend", f"./bend/{long}": "bend"} | {
        f"./wave/x/{n}": "x" for n in (1, 2)
    }


def test_members_in_any_order_and_several_media(tmp_path: Path):
    members = {"a.cls": b"7", "b.png": picture(1, format="PNG"), "b.cls": b"3"}
    members |= {"a.png": picture(0, format="PNG"), "b.thumb.png": b"", "a.thumb.png": b""}
    tar = make_tar(tmp_path / "x.tar", members)
    with pytest.raises(UsageError, match=r"sample a has 2 images \(png, thumb.png\).*--media"):
        index(tar, "--out", tmp_path / "out")
    manifest = index(tar, "--out", tmp_path / "out", "--media", "png")
    assert labels(tmp_path / "out", manifest) == {"a": "7", "b": "3"}


def test_in_the_folder_of_the_tars(tmp_path: Path):
    """Names are paths inside the folder, so that equal basenames stay apart."""
    for n, split in enumerate(("train", "val")):
        make_tar(tmp_path / split / "0.tar", {f"{i}.jpg": picture(10 * n + i) for i in range(3)})
    manifest = index(tmp_path, "--out", tmp_path)
    assert [shard.name for shard in manifest.splits["train"]] == ["train/0.tar"]
    assert [shard.name for shard in manifest.splits["validation"]] == ["val/0.tar"]
    assert not (tmp_path / "train" / "0.tar").is_symlink()
    again = index(tmp_path, "--out", tmp_path, "--overwrite")
    assert again == manifest
    with pytest.raises(UsageError, match="--overwrite"):
        index(tmp_path, "--out", tmp_path)


def test_one_basename_in_two_folders(tmp_path: Path):
    """Of which webdataset's cache reads the first, twice."""
    one = make_tar(tmp_path / "a" / "x.tar", {"0.jpg": picture(0)})
    two = make_tar(tmp_path / "b" / "x.tar", {"0.jpg": picture(1)})
    manifest = index(one, two, "--out", tmp_path / "out", "--validation-fraction", 0)
    assert [shard.name for shard in manifest.splits["train"]] == ["a/x.tar", "b/x.tar"]
    shutil.copyfile(one, two)
    with pytest.raises(DataError, match=r"a/x\.tar and b/x\.tar are the same to the last byte"):
        index(tmp_path / "a", tmp_path / "b", "--out", tmp_path / "twins")


def cut(path: Path, member: str) -> None:
    """Cut a tar right before a member, where tarfile and webdataset notice nothing."""
    with tarfile.open(path) as tar:
        offset = tar.getmember(member).offset
    os.truncate(path, offset)


def damage(path: Path, how: str) -> None:
    if how == "html":
        path.write_bytes(b"<!DOCTYPE html>\n<html><body>404</body></html>" + b" " * 4000)
    elif how == "boundary":
        cut(path, "000010002.jpg")
    elif how == "inside":
        cut(path, "000010002.json")
    elif how == "joined":
        path.write_bytes(path.read_bytes() + path.with_name("00002.tar").read_bytes())
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "gzip":
        subprocess.run(["gzip", "-k", str(path)], check=True)
        path.with_suffix(".tar.gz").rename(path)
    else:
        with tarfile.open(path, "a") as tar:
            tar.addfile(tarfile.TarInfo("000010002.jpg"))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("html", "a page of a web server .*DOCTYPE html"),
        ("boundary", "is truncated"),
        ("inside", "is truncated"),
        ("joined", "goes on after its end mark.*cat"),
        ("empty", "it is empty"),
        ("gzip", "compressed by gzip"),
        ("twice", "holds 000010002.jpg twice"),
    ],
)
def test_tars_that_are_damaged(tmp_path: Path, how: str, message: str):
    """Seen while indexing, while packing, and, where it happens later, by verify and training."""
    source, out = img2dataset(tmp_path / "in"), tmp_path / "out"
    manifest = index(source, "--out", out)
    damage(source / "00001.tar", how)
    with pytest.raises(DataError, match=rf"00001\.tar.*{message}"):
        index(source, "--out", tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(DataError, match=rf"00001\.tar.*{message}"):
        main(["pack", str(source), str(tmp_path / "packed")])
    assert main(["verify", str(out), "--quick"]) == 1
    if how != "twice":  # which fits into the padding of the tar
        values = {"kind": "image", "size": SIZE, "frames": 1, "shards": str(out)}
        with pytest.raises(DataError, match=r"00001\.tar"):
            check(DataConfig.model_validate(values), manifest)


def test_what_would_have_to_be_packed(tmp_path: Path):
    image = Image.new("RGB", (SIZE, SIZE), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    odd = {
        "good": picture(0),
        "large": picture(1, size=24),
        "turned": picture(2, exif=exif),
        "wide": picture(3),
        "clear": b"",
        "broken": picture(4)[:200],
        "empty": b"",
    }
    out = io.BytesIO()
    image.resize((24, SIZE)).save(out, "PNG")
    odd["wide"] = out.getvalue()
    out = io.BytesIO()
    Image.new("RGBA", (SIZE, SIZE)).save(out, "PNG")
    odd["clear"] = out.getvalue()
    members = {f"{key}.jpg": data for key, data in odd.items()} | {"alone.txt": b"no image"}
    tar = make_tar(tmp_path / "x.tar", members)
    with pytest.raises(DataError) as caught:
        index(tar, "--out", tmp_path / "out", "--size", SIZE)
    assert "4 of 8 samples cannot be trained on as they are: 2 by size" in str(caught.value)
    assert f"agehpc data pack {tar} OUT --size {SIZE}" in str(caught.value)
    manifest = index(tar, "--out", tmp_path / "out", "--size", SIZE, "--skip-unfit")
    assert manifest.rejects == {
        "size": 2, "rotated": 1, "colours": 1, "undecodable": 1, "empty": 1, "incomplete": 1,
    }  # fmt: skip
    lines = (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()
    assert {json.loads(line)["source"] for line in lines} == {
        f"x.tar/{key}" for key in (*odd, "alone") if key != "good"
    }


def clips(tmp_path: Path) -> dict[str, bytes]:
    """A clip of long groups and B-frames as encoders make them, and those that do not fit."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    frames = [
        np.roll(np.asarray(Image.fromarray(noise).resize((64, 64))), 3 * t, axis=1)
        for t in range(40)
    ]
    made = {"good": write_video(tmp_path / "good.mp4", frames)}
    made["turned"] = write_video(tmp_path / "turned.mp4", frames)
    rotate(made["turned"], 1)
    made["variable"] = write_video(
        tmp_path / "variable.mp4", frames[:20], times=[t + 5 * (t > 9) for t in range(20)]
    )
    made["matroska"] = write_video(tmp_path / "matroska.mkv", frames)
    made["cut"] = tmp_path / "cut.mp4"
    made["cut"].write_bytes(made["good"].read_bytes()[:-800])
    return {path.name: path.read_bytes() for path in made.values()}


def test_video2dataset_layout(tmp_path: Path):
    held = clips(tmp_path)
    about = json.dumps({"caption": "noise", "clips": [[0, 1]], "key": "000000000"}).encode()
    for shard in range(2):
        key = f"{shard:05d}0000"
        members = {f"{key}.mp4": held["good.mp4"], f"{key}.json": about, f"{key}.txt": b"a {shard}"}
        members[f"{key}.txt"] = str(shard).encode()
        make_tar(tmp_path / "in" / f"{shard:05d}.tar", members)
    manifest = index(tmp_path / "in", "--out", tmp_path / "out", "--workers", "2")
    assert (manifest.kind, manifest.size, manifest.fps) == ("video", 64, 25.0)
    assert manifest.encoder == {"gop": 40}
    values = {"kind": "video", "frames": 8, "shards": str(tmp_path / "out")}
    data = check(DataConfig.model_validate(values), manifest)
    (batch,) = validation_batches(data, batch=8, limit=None)
    expected_THWC = decode_pyav(held["good.mp4"])[16:24]
    x_THWC = batch.pixels[0].numpy().transpose(1, 2, 3, 0)
    assert np.abs(x_THWC.astype(int) - expected_THWC).mean() < 1


def test_clips_that_would_have_to_be_packed(tmp_path: Path):
    tar = make_tar(tmp_path / "x.tar", clips(tmp_path))
    with pytest.raises(DataError, match="3 of 5 samples cannot be trained on as they are"):
        index(tar, "--out", tmp_path / "out")
    manifest = index(tar, "--out", tmp_path / "out", "--skip-unfit")
    assert manifest.rejects == {"rotated": 1, "rate": 1, "format": 1, "undecodable": 1}
    assert manifest.samples("train") == 1
    # Packing takes the rest as well.
    assert main(["pack", str(tar), str(tmp_path / "packed"), "--size", "32"]) == 0
    assert read_manifest(tmp_path / "packed").sources == 4


def test_pack_reads_the_classes_of_foreign_tars(tmp_path: Path):
    source = img2dataset(tmp_path / "in", shards=2)
    out = tmp_path / "out"
    command = ["pack", str(source), str(out), "--size", "8", "--overwrite"]
    assert main(command) == 0
    assert read_manifest(out).classes == ()  # numbered shards are no classes
    assert main([*command, "--label-key", "animal"]) == 0
    assert read_manifest(out).classes == ("7", "cat")
    for path in source.glob("*.tar"):
        members = {f"{path.stem}{n}.jpg": picture(n) for n in range(3)}
        make_tar(path, members | {f"{path.stem}{n}.cls": str(n).encode() for n in range(3)})
    assert main(command) == 0
    assert read_manifest(out).classes == ("0", "1", "2")


def test_a_label_of_the_index_is_guarded(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The tar itself does not know it: only the manifest can."""
    source, out = img2dataset(tmp_path / "in"), tmp_path / "out"
    manifest = index(source, "--out", out, "--label-key", "animal")
    place = out / index_name(manifest.splits["train"][0].name)
    place.write_text(place.read_text().replace('"label":0', '"label":1', 1))
    capsys.readouterr()
    assert main(["verify", str(out)]) == 1
    assert "index_sha256" in capsys.readouterr().out


def test_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source, out = img2dataset(tmp_path / "in"), tmp_path / "out"
    assert main(["index", str(source), "--out", str(out), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["origin"] == "indexed"
    assert not out.exists()


def test_training_on_foreign_tars(tmp_path: Path):
    """From the command line, as users do."""
    source, out = img2dataset(tmp_path / "in", count=8), tmp_path / "out"
    index(source, "--out", out)
    run = tmp_path / "run"
    words = ["train", "mnist_autoencoder", "--data.shards", str(out), "--out", str(run)]
    flags = ["--data.size", str(SIZE), "--train.global-batch", "4", "--train.kimg", "0.016"]
    done = subprocess.run(
        [sys.executable, "-m", "agehpc", *words, *flags, "--observe.tensorboard", "False"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["kimg"] == 0.016
