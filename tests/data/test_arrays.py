"""NumPy arrays of pictures and clips."""

import tarfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from agehpc.config.schema import DataConfig
from agehpc.data.check import check
from agehpc.data.commands import main
from agehpc.data.loader import validation_batches
from agehpc.data.shards import Manifest, read_manifest
from agehpc.errors import AgehpcError, DataError, UsageError
from tests.data.samples import decode_pyav, folder_bytes

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (10, 16, 16), dtype=np.uint8)
RGB = RNG.integers(0, 256, (10, 16, 16, 3), dtype=np.uint8)


def pack(source: Path, out: Path, *flags: str, size: int = 16) -> Manifest:
    assert main(["pack", str(source), str(out), "--size", str(size), *flags]) == 0
    assert main(["verify", str(out)]) == 0
    return read_manifest(out)


def pictures(folder: Path) -> list[bytes]:
    """All pictures as HWC bytes, sorted."""
    manifest = read_manifest(folder)
    made = DataConfig(kind="image", shards=str(folder), size=manifest.size, frames=1)
    data = check(made, manifest)
    return sorted(
        np.ascontiguousarray(x.permute(1, 2, 0).numpy()).tobytes()
        for split in manifest.splits
        for batch in validation_batches(data, split=split, batch=10, limit=None)
        for x in batch.pixels
    )


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (GREY, GREY),
        (GREY[..., None], GREY),
        (RGB, RGB),
        (RGB.transpose(0, 3, 1, 2), RGB),
        ((RGB / 255).astype(np.float32), RGB),
        ((GREY / 255).astype(np.float16), GREY),
        (np.full(GREY.shape, 0.999), np.full_like(GREY, 255)),  # nearest, not next below
    ],
)
def test_pictures_come_back_to_the_bit(tmp_path: Path, array: np.ndarray, expected: np.ndarray):
    np.save(tmp_path / "in.npy", array)
    manifest = pack(tmp_path / "in.npy", tmp_path / "out")
    assert manifest.channels == (3 if expected.ndim == 4 else 1)
    assert manifest.sources == 10
    assert pictures(tmp_path / "out") == sorted(x.tobytes() for x in expected)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (np.arange(10) % 3 + 8, ("8", "9", "10")),
        ((np.arange(10) % 2)[:, None], ("0", "1")),
        (np.array(["cat", "dog"] * 5), ("cat", "dog")),
        (np.array([b"cat", b"dog"] * 5), ("cat", "dog")),
        (np.zeros(10, np.int64), ("0",)),
        (np.arange(10) % 2 == 0, ("0", "1")),
    ],
)
def test_labels_of_an_npz(tmp_path: Path, labels: np.ndarray, classes: tuple[str, ...]):
    np.savez_compressed(tmp_path / "in.npz", images=RGB, y=labels)
    manifest = pack(tmp_path / "in.npz", tmp_path / "out")
    assert manifest.classes == classes
    none = pack(tmp_path / "in.npz", tmp_path / "none", "--labels", "none", "--workers", "2")
    assert none.classes == ()
    assert pictures(tmp_path / "none") == sorted(x.tobytes() for x in RGB)
    made = DataConfig(kind="image", shards=str(tmp_path / "out"), size=16, frames=1)
    data = check(made, manifest)
    by_pixels = {
        np.ascontiguousarray(x.permute(1, 2, 0).numpy()).tobytes(): manifest.classes[int(label)]
        for batch in validation_batches(data, split="train", batch=10, limit=None)
        for x, label in zip(batch.pixels, batch.labels, strict=True)
    }
    assert len(by_pixels) == 9
    names = [n.decode() if isinstance(n, bytes) else str(int(n) if isinstance(n, bool) else n)
             for n in labels.reshape(-1).tolist()]  # fmt: skip
    for x, name in zip(RGB, names, strict=True):
        assert by_pixels.get(x.tobytes(), name) == name


def test_keys_are_chosen_where_there_is_a_choice(tmp_path: Path):
    arrays = {"x_train": RGB, "y_train": np.arange(10), "x_test": RGB[:4], "y_test": np.arange(4)}
    np.savez(tmp_path / "in.npz", **arrays)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match=r"x_train \[10, 16, 16, 3\], y_train .*--image-key"):
        pack(tmp_path / "in.npz", tmp_path / "out")
    flags = ["--image-key", "x_test", "--label-key", "y_test"]
    manifest = pack(tmp_path / "in.npz", tmp_path / "out", *flags)
    assert (manifest.sources, manifest.classes) == (4, ("0", "1", "2", "3"))
    with pytest.raises(UsageError, match=r"has no array z \(it holds x_train"):
        pack(tmp_path / "in.npz", tmp_path / "two", "--image-key", "z")
    with pytest.raises(UsageError, match=r"no array z .*see --label-key"):
        pack(tmp_path / "in.npz", tmp_path / "two", "--image-key", "x_test", "--label-key", "z")


def test_ambiguous_shapes_need_a_layout(tmp_path: Path):
    both = RNG.integers(0, 256, (5, 3, 12, 3), dtype=np.uint8)
    np.save(tmp_path / "in.npy", both)
    with pytest.raises(UsageError, match=r"\[5, 3, 12, 3\], which may be NHWC or NCHW.*--layout"):
        pack(tmp_path / "in.npy", tmp_path / "out")
    pack(tmp_path / "in.npy", tmp_path / "out", "--layout", "NCHW", "--fit", "pad", size=12)
    padded = np.zeros((5, 12, 12, 3), np.uint8)
    padded[:, :, 4:7] = both.transpose(0, 2, 3, 1)
    assert pictures(tmp_path / "out") == sorted(x.tobytes() for x in padded)
    np.save(tmp_path / "one.npy", RGB[0])  # one picture without N
    with pytest.raises(UsageError, match=r"\[16, 16, 3\], which may be none of NHW"):
        pack(tmp_path / "one.npy", tmp_path / "one")


@pytest.mark.parametrize(
    ("array", "flags", "message"),
    [
        (RGB.astype(np.int64), [], "holds int64: make it uint8 from 0 to 255 or float from 0 to 1"),
        (RGB.astype(np.float32), [], "holds float32 from 0 to 255: make it"),
        (np.full((2, 16, 16), np.nan), [], "holds float64 from nan to nan"),
        (np.full((2, 16, 16), -0.1), [], "from -0.1 to -0.1"),
        (RGB[:0], [], "is empty: its shape is [0, 16, 16, 3]"),
        (RGB[0, 0], [], "has the shape [16, 3], which may be none of"),
        (RGB, ["--layout", "NCHW"], "has the shape [10, 16, 16, 3], which is not --layout NCHW"),
        (RGB, ["--image-key", "x"], "holds one array without a name"),
        (RGB[None] / 255, [], "holds float64: make it uint8 from 0 to 255"),
    ],
)
def test_arrays_that_are_no_pictures(tmp_path: Path, array, flags: list[str], message: str):
    np.save(tmp_path / "in.npy", array)
    with pytest.raises(AgehpcError) as caught:
        pack(tmp_path / "in.npy", tmp_path / "out", *flags)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pickles_and_damage_are_refused(tmp_path: Path):
    np.save(tmp_path / "in.npy", np.array([{"x": 1}]), allow_pickle=True)
    np.savez(tmp_path / "in.npz", x=np.array([{"x": 1}]))
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY\x01")
    np.savez(tmp_path / "whole.npz", images=RGB)
    data = bytearray((tmp_path / "whole.npz").read_bytes())
    data[500] ^= 1
    (tmp_path / "cut.npz").write_bytes(data)
    (tmp_path / "text.npz").write_text("no zip")
    for name in ("in.npy", "in.npz", "cut.npy", "cut.npz", "text.npz"):
        with pytest.raises(DataError, match=r"cannot be read as arrays of numbers .*np\.savez"):
            pack(tmp_path / name, tmp_path / "out")
    np.savez(tmp_path / "labels.npz", images=RGB, labels=np.arange(9))
    with pytest.raises(DataError, match=r"has the shape \[9\]: 10 images need 10"):
        pack(tmp_path / "labels.npz", tmp_path / "out")
    np.savez(tmp_path / "labels.npz", images=RGB, labels=np.arange(10) / 2)
    with pytest.raises(DataError, match="holds float64: labels are whole numbers or text"):
        pack(tmp_path / "labels.npz", tmp_path / "out")


def test_arrays_in_a_folder_of_images_are_left_alone(tmp_path: Path):
    from PIL import Image

    folder = tmp_path / "in"
    folder.mkdir()
    Image.new("L", (16, 16)).save(folder / "a.png")
    np.save(folder / "landmarks.npy", np.zeros((3, 5)))
    assert pack(folder, tmp_path / "out").sources == 1
    (folder / "a.png").unlink()
    with pytest.raises(UsageError, match=r"\.npy \.npz \(the last two named themselves\)"):
        pack(folder, tmp_path / "two")
    for flags in (["--layout", "NHW"], ["--image-key", "x"]):
        with pytest.raises(UsageError, match="SRC holds none"):
            pack(folder, tmp_path / "two", *flags)


@pytest.mark.parametrize("channels", [1, 3])
def test_clips(tmp_path: Path, channels: int):
    x_NTHWC = np.zeros((4, 8, 32, 32, channels), np.uint8)
    for n in range(4):
        for t in range(8):
            x_NTHWC[n, t] = 20 + 40 * n + 4 * t
    np.savez(tmp_path / "in.npz", clips=x_NTHWC, labels=np.array(["a", "b"] * 2))
    flags = ["--fps", "12", "--validation-fraction", "0.25"]
    manifest = pack(tmp_path / "in.npz", tmp_path / "out", *flags, size=32)
    assert (manifest.kind, manifest.fps, manifest.classes) == ("video", 12.0, ("a", "b"))
    found = []
    for path in (tmp_path / "out").glob("*.tar"):
        with tarfile.open(path) as tar:
            media = [tar.extractfile(m).read() for m in tar if m.name.endswith("mp4")]  # pyright: ignore
        found += [decode_pyav(data)[..., 0].mean((1, 2)).round().astype(int) for data in media]
    assert len(found) == 4
    for levels in found:
        n = round((levels[0] - 20) / 40)
        assert np.abs(levels - (20 + 40 * n + 4 * np.arange(8))).max() <= 1
    slow = pack(tmp_path / "in.npz", tmp_path / "two", "--workers", "2", size=32)
    assert slow.fps == float(Fraction(25))
    assert slow.sources == 4


def test_bytes_do_not_depend_on_workers_or_place(tmp_path: Path):
    np.savez(tmp_path / "in.npz", images=RGB, labels=np.arange(10))
    pack(tmp_path / "in.npz", tmp_path / "one")
    (tmp_path / "else").mkdir()
    (tmp_path / "in.npz").rename(tmp_path / "else" / "in.npz")
    pack(tmp_path / "else" / "in.npz", tmp_path / "two", "--workers", "2")
    assert folder_bytes(tmp_path / "one") == folder_bytes(tmp_path / "two")


def test_pairs_out_of_arrays(tmp_path: Path):
    """Rows go the same way as files."""
    np.save(tmp_path / "in.npy", RGB)
    manifest = pack(tmp_path / "in.npy", tmp_path / "out", "--pairs", "grey")
    assert (manifest.pairs, manifest.input_channels) == ("grey", 1)
