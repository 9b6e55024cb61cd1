import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agehpc.config.schema import DataConfig
from agehpc.data.check import check
from agehpc.data.commands import main
from agehpc.data.index import read_index
from agehpc.data.loader import validation_batches
from agehpc.data.shards import Manifest, read_manifest
from agehpc.errors import UsageError


def pack(source: Path, *flags: str) -> tuple[Manifest, dict[str, Image.Image]]:
    """Pack and return the manifest and the packed images by source name."""
    out = source.parent / "packed"
    assert main(["pack", str(source), str(out), "--size", "16", "--overwrite", *flags]) == 0
    found = {}
    for path in out.glob("*.tar"):
        with tarfile.open(path) as tar:
            files = {m.name: tar.extractfile(m).read() for m in tar}  # pyright: ignore
        for name, data in files.items():
            if name.endswith("json"):
                media = next(
                    d for n, d in files.items() if n.rpartition(".")[0] == name[:-5] and d != data
                )
                found[json.loads(data)["source"]] = Image.open(io.BytesIO(media))
    assert main(["verify", str(out)]) == 0
    return read_manifest(out), found


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


def test_channels_are_grey_only_where_all_are(images: Path):
    Image.new("L", (20, 30), 77).save(images / "grey.png")
    Image.new("1", (20, 30), 1).save(images / "bits.png")
    manifest, packed = pack(images)
    assert manifest.channels == 1
    assert {image.mode for image in packed.values()} == {"L"}
    assert manifest.fps is None
    Image.new("RGB", (20, 30), "red").save(images / "red.png")
    assert pack(images)[0].channels == 3
    assert pack(images, "--channels", "1")[0].channels == 1


def test_bytes_at_size_are_kept(images: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(images / "same.jpg", quality=60)
    Image.fromarray(pixels).save(images / "other.png")
    out = images.parent / "packed"
    pack(images)
    stored = b"".join(path.read_bytes() for path in out.glob("*.tar"))
    assert (images / "same.jpg").read_bytes() in stored
    assert (images / "other.png").read_bytes() not in stored


def test_png_is_lossless(images: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(images / "a.bmp")
    _, packed = pack(images, "--image-format", "png")
    np.testing.assert_array_equal(np.asarray(packed["a.bmp"]), pixels)


def test_camera_orientation_is_baked_in(images: Path):
    image = Image.new("RGB", (16, 16), "black")
    image.paste("white", (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter clockwise: the top becomes the right
    image.save(images / "turned.jpg", exif=exif, quality=95)
    _, packed = pack(images)
    grey = np.asarray(packed["turned.jpg"].convert("L"))
    assert grey[:, 10:].min() > 200
    assert grey[:, :6].max() < 50


def test_transparency_lies_on_white_and_palettes_are_coloured(images: Path):
    Image.new("RGBA", (16, 16), (255, 0, 0, 0)).save(images / "clear.png")
    Image.new("RGB", (16, 16), "blue").convert("P").save(images / "palette.png")
    manifest, packed = pack(images, "--image-format", "png")
    assert manifest.channels == 3
    assert packed["clear.png"].getpixel((3, 3)) == (255, 255, 255)
    assert packed["palette.png"].getpixel((3, 3)) == (0, 0, 255)


def test_sixteen_bits_are_scaled(images: Path):
    deep = np.full((16, 16), 40_000, np.uint16)
    Image.fromarray(deep).save(images / "deep.png")
    _, packed = pack(images, "--image-format", "png")
    assert packed["deep.png"].getpixel((0, 0)) == 40_000 // 257


def test_crop_and_pad(images: Path):
    image = Image.new("RGB", (64, 32), "red")
    image.paste("lime", (16, 0, 48, 32))
    image.save(images / "wide.png")
    cropped = np.asarray(pack(images, "--image-format", "png")[1]["wide.png"])
    assert (cropped[:, 1:-1] == [0, 255, 0]).all()
    assert (cropped[:, [0, -1], 1] > 200).all()  # the filter sees a little beyond the edge
    _, packed = pack(images, "--image-format", "png", "--fit", "pad")
    padded = np.asarray(packed["wide.png"])
    assert (padded[:4] == 0).all()
    assert (padded[12:] == 0).all()
    assert (padded[5:11, 6:10] == [0, 255, 0]).all()
    assert (padded[5:11, :3] == [255, 0, 0]).all()


def test_a_class_that_is_held_out_is_validation_alone(images: Path):
    for name, count in {"a": 6, "b": 5, "c": 4}.items():
        (images / name).mkdir()
        for n in range(count):
            Image.new("L", (16, 16), 10 * n).save(images / name / f"{n}.png")
    manifest, _ = pack(images, "--hold-out", "b", "--validation-fraction", "0.2")
    labels = {
        split: [
            sample.label
            for shard in shards
            for sample in read_index(images.parent / "packed", shard.name).samples
        ]
        for split, shards in manifest.splits.items()
    }
    assert manifest.classes == ("a", "b", "c")
    assert 1 not in labels["train"]
    assert labels["validation"].count(1) == 5
    assert len(labels["train"]) == 8  # two of the ten others are held out as ever
    with pytest.raises(UsageError, match="there is no class d; the classes are a, b, c"):
        pack(images, "--hold-out", "d")
    with pytest.raises(UsageError, match="no class is left to train on"):
        pack(images, *(word for name in "abc" for word in ("--hold-out", name)))


def test_damage_that_a_decoder_meets_with_any_error_is_rejected(images: Path):
    """Pillow's AVIF decoder raises RuntimeError; under which name the file goes says nothing."""
    whole = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(whole, "AVIF")
    (images / "whole.png").write_bytes(whole.getvalue())
    (images / "damaged.png").write_bytes(whole.getvalue()[:-30] + b"\xff" * 30)
    assert main(["pack", str(images), str(images.parent / "out"), "--size", "16"]) == 0
    assert read_manifest(images.parent / "out").rejects == {"undecodable": 1}


def test_jpegs_that_hide_damage_are_rejected(images: Path):
    """Pillow decodes this one, whatever its size, with what is left of it."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for name, size in (("same", 16), ("larger", 32), ("whole", 16)):
        Image.fromarray(pixels).resize((size, size)).save(images / f"{name}.jpg")
        data = bytearray((images / f"{name}.jpg").read_bytes())
        middle = data.index(b"\xff\xda") + 100  # in the scan
        if name != "whole":
            data[middle : middle + 8] = bytes(8)
            Image.open(io.BytesIO(data)).load()
            (images / f"{name}.jpg").write_bytes(data)
    manifest, packed = pack(images)
    assert list(packed) == ["whole.jpg"]
    assert manifest.rejects == {"undecodable": 2}


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_webp_is_lossless(images: Path, mode: str):
    """WebP knows no grey: what is packed as grey must be read as it was."""
    shape = (16, 16, 3) if mode == "RGB" else (16, 16)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(images / "a.png")
    manifest, packed = pack(images, "--image-format", "webp")
    assert packed["a.png"].format == "WEBP"
    assert manifest.channels == len(mode)
    np.testing.assert_array_equal(np.asarray(packed["a.png"].convert(mode)), pixels)
    values = {"kind": "image", "size": 16, "frames": 1, "shards": str(images.parent / "packed")}
    data = check(DataConfig.model_validate(values), manifest)
    (batch,) = validation_batches(data, split="train", batch=1, limit=None)
    x_HWC = batch.pixels[0].numpy().transpose(1, 2, 0)
    np.testing.assert_array_equal(x_HWC, pixels.reshape(16, 16, -1))
