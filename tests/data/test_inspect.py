import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agehpc.data.commands import main
from agehpc.data.index import read_index
from agehpc.data.shards import read_manifest
from agehpc.errors import UsageError
from tests.data.samples import decode_pyav


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plain images of two classes, and one that was left out."""
    folder = tmp_path_factory.mktemp("colours")
    for n in range(12):
        path = folder / "in" / ("blue" if n % 3 else "red") / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (0, 0, 250 - n) if n % 3 else (250 - n, 0, 0)).save(path)
    (folder / "in" / "red" / "broken.png").write_bytes(b"broken")
    flags = ["--size", "16", "--image-format", "webp", "--samples-per-shard", "4"]
    assert main(["pack", str(folder / "in"), str(folder / "out"), *flags]) == 0
    return folder / "out"


def test_the_table_counts_what_there_is(colours: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["inspect", str(colours), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert (about["kind"], about["size"], about["fps"]) == ("image", 16, None)
    assert [(s["shard"], s["samples"]) for s in about["shards"]] == [
        ("train-000000.tar", 4),
        ("train-000001.tar", 4),
        ("train-000002.tar", 3),
        ("validation-000000.tar", 1),
    ]
    for shard in about["shards"]:
        assert shard["bytes"] == (colours / shard["shard"]).stat().st_size
        labels = {sample.label for sample in read_index(colours, shard["shard"]).samples}
        assert shard["classes"] == len(labels)
    totals = {name: sum(counts.values()) for name, counts in about["classes"].items()}
    assert totals == {"blue": 8, "red": 4}
    assert about["rejects"] == {"undecodable": 1}
    assert main(["inspect", str(colours)]) == 0
    text = capsys.readouterr().out
    assert re.search(r"train +3 +3 +\d\.\d +\d  train-000002\.tar", text)
    assert re.search(r"1  undecodable", text)


def test_a_grid_of_images(colours: Path, tmp_path: Path):
    """Every cell shows its sample, in the order of the split."""
    out = tmp_path / "sheet.png"
    assert main(["inspect", str(colours), "--out", str(out), "--samples", "100"]) == 0
    sheet = np.asarray(Image.open(out))
    assert sheet.shape == (2 * (64 + 14 + 2), 8 * 66, 3)
    train = read_manifest(colours).splits["train"]
    samples = [sample for shard in train for sample in read_index(colours, shard.name).samples]
    for n, sample in enumerate(samples):
        pixel = sheet[n // 8 * 80 + 40, n % 8 * 66 + 32]
        assert pixel.argmax() == (0 if sample.label else 2)
        assert pixel.max() > 200
        text = sheet[n // 8 * 80 : n // 8 * 80 + 14, n % 8 * 66 : n % 8 * 66 + 64]
        assert text.min() < 128  # the name of its class stands above


def test_clips_are_rows_of_frames(demo_shards: Path, tmp_path: Path):
    out = tmp_path / "sheet.png"
    command = ["inspect", str(demo_shards), "--out", str(out), "--frames", "3", "--samples", "2"]
    assert main(command) == 0
    sheet = np.asarray(Image.open(out)).astype(int)
    assert sheet.shape == (2 * 80, 3 * 64 + 2, 3)
    raw = (demo_shards / "train-000000.tar").read_bytes()
    for row, index in enumerate((0, 4)):
        sample = read_index(demo_shards, "train-000000.tar").samples[index]
        frames = decode_pyav(raw[sample.media.offset :][: sample.media.size])
        for column, frame in enumerate((0, round((sample.frames - 1) / 2), sample.frames - 1)):
            shown = sheet[row * 80 + 14 : row * 80 + 78, column * 64 : column * 64 + 64]
            assert np.abs(shown - frames[frame]).mean() < 1


def test_damaged_samples_do_not_stop_the_rest(demo_shards: Path, tmp_path: Path):
    copied = Path(shutil.copytree(demo_shards, tmp_path / "shards"))
    member = read_index(copied, "train-000000.tar").samples[0].media
    data = bytearray((copied / "train-000000.tar").read_bytes())
    data[member.offset + 50] ^= 1
    (copied / "train-000000.tar").write_bytes(data)
    out = tmp_path / "sheet.png"
    assert main(["inspect", str(copied), "--out", str(out), "--samples", "2"]) == 0
    sheet = np.asarray(Image.open(out))
    assert (sheet[20:70, 5:60] == 128).all()
    assert sheet[100:150].std() > 5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out", "x.jpg"], "the sheet is a PNG"),
        (["--samples", "0"], "--samples must be 1 or more"),
        (["--frames", "0"], "--frames must be 1 or more"),
    ],
)
def test_wrong_flags(colours: Path, flags: list[str], message: str):
    with pytest.raises(UsageError, match=message):
        main(["inspect", str(colours), *flags])
