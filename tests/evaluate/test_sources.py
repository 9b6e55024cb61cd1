"""Samples of shards, folders, arrays and runs as they come to a metric."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from agehpc import cli
from agehpc.config.schema import DataConfig
from agehpc.errors import DataError, UsageError
from agehpc.evaluate.sources import Source, of_data, open_source


def pixels(count: int = 5, size: int = 8, channels: int = 3, seed: int = 0) -> np.ndarray:
    """uint8 [N, H, W, C]."""
    shape = (count, size, size, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def whole(source: Source) -> torch.Tensor:
    return torch.stack(source.read(range(source.count)))


def folder_of(path: Path, x_NHWC: np.ndarray, names: list[str] | None = None) -> Path:
    for number, x_HWC in enumerate(x_NHWC):
        file = path / (names[number] if names else f"{number:03d}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x_HWC.squeeze()).save(file)
    return path


class TestFolder:
    """Pictures of a folder."""

    def test_at_any_depth_in_the_order_of_their_names(self, tmp_path: Path):
        x = pixels(3)
        names = ["b/2.png", "a.png", "b/1.png"]
        source = open_source(str(folder_of(tmp_path / "x", x, names)), "train")
        assert (source.kind, source.count) == ("image", 3)
        assert whole(source).equal(torch.from_numpy(x[[1, 2, 0]]).permute(0, 3, 1, 2))

    def test_grey_where_all_are(self, tmp_path: Path):
        grey = folder_of(tmp_path / "x", pixels(2, channels=1))
        assert whole(open_source(str(grey), "train")).shape == (2, 1, 8, 8)
        folder_of(tmp_path / "x" / "more", pixels(1))
        assert whole(open_source(str(grey), "train")).shape == (3, 3, 8, 8)

    def test_the_identity_is_of_the_content(self, tmp_path: Path):
        x = pixels(2)
        a, b = (open_source(str(folder_of(tmp_path / n, x)), "train") for n in "ab")
        assert a.identity == b.identity
        folder_of(tmp_path / "a", x[::-1])
        assert open_source(str(tmp_path / "a"), "train").identity != b.identity

    def test_what_is_no_picture(self, tmp_path: Path):
        with pytest.raises(DataError, match=r"nowhere does not exist"):
            open_source(str(tmp_path / "nowhere"), "train")
        (tmp_path / "clip.mp4").write_bytes(b"x")
        with pytest.raises(DataError, match=r"no pictures .* 1 videos: .*agehpc data pack"):
            open_source(str(tmp_path), "train")
        (tmp_path / "a.png").write_bytes(b"x")
        source = open_source(str(tmp_path), "train")
        with pytest.raises(DataError, match=r"a\.png cannot be used"):
            whole(source)


class TestArray:
    """.npy and .npz files."""

    @pytest.mark.parametrize("axes", [(0, 1, 2, 3), (0, 3, 1, 2)])
    def test_layouts_of_pictures(self, tmp_path: Path, axes: tuple[int, ...]):
        x = pixels()
        np.save(tmp_path / "x.npy", x.transpose(axes))
        source = open_source(str(tmp_path / "x.npy"), "train")
        assert source.kind == "image"
        assert whole(source).equal(torch.from_numpy(x).permute(0, 3, 1, 2))
        assert source.read(range(3, 4))[0].equal(whole(source)[3])

    @pytest.mark.parametrize("axes", [(0, 1, 2, 3, 4), (0, 4, 1, 2, 3)])
    def test_layouts_of_clips(self, tmp_path: Path, axes: tuple[int, ...]):
        x = pixels(8).reshape(2, 4, 8, 8, 3)
        np.savez(tmp_path / "x.npz", labels=np.zeros(2), arr_0=x.transpose(axes))
        source = open_source(str(tmp_path / "x.npz"), "train")
        assert source.kind == "video"
        assert whole(source).equal(torch.from_numpy(x).permute(0, 4, 1, 2, 3))

    @pytest.mark.parametrize(
        ("x", "message"),
        [
            (
                pixels() / 127.5 - 1,
                r"float64 from -1 to 1; samples are uint8 .* \(x \* 127.5 \+",
            ),
            (pixels() / 255, r"holds float64 from 0 to 1; samples are uint8 .* \(x \* 255\)"),
            (pixels() / 1.0, r"holds float64 from 0 to 255; samples are uint8 .* x\.round"),
            (pixels() // 128, r"holds uint8 from 0 to 1; .* these are of another range"),
            (pixels()[..., :2], r"holds \[5, 8, 8, 2\], not samples"),
            (pixels(size=3), r"holds \[5, 3, 3, 3\], not samples"),
            (pixels(0), r"holds \[0, 8, 8, 3\], not samples"),
            (np.array([{}]), r"cannot be read as an array"),
        ],
    )
    def test_what_holds_no_samples(self, tmp_path: Path, x: np.ndarray, message: str):
        np.save(tmp_path / "x.npy", x)
        with pytest.raises(DataError, match=message):
            open_source(str(tmp_path / "x.npy"), "train")

    def test_a_damaged_file(self, tmp_path: Path):
        np.savez(tmp_path / "x.npz", pixels())
        content = (tmp_path / "x.npz").read_bytes()
        (tmp_path / "x.npz").write_bytes(content[: len(content) // 2])
        with pytest.raises(DataError, match=r"x\.npz cannot be read as an array"):
            open_source(str(tmp_path / "x.npz"), "train")

    def test_several_arrays(self, tmp_path: Path):
        np.savez(tmp_path / "x.npz", a=pixels(), b=pixels())
        with pytest.raises(DataError, match=r"holds 2 arrays \(a, b\)"):
            open_source(str(tmp_path / "x.npz"), "train")


def test_shards_hold_the_pictures_they_were_packed_from(tmp_path: Path):
    x = pixels(20, size=16)
    folder_of(tmp_path / "x", x)
    packed = ["data", "pack", str(tmp_path / "x"), str(tmp_path / "shards"), "--size", "16"]
    assert cli.main([*packed, "--image-format", "png", "--workers", "0"]) == 0
    both = [open_source(str(tmp_path / "shards"), split) for split in ("train", "validation")]
    assert sum(source.count for source in both) == 20
    assert both[0].identity != both[1].identity
    found = torch.cat([whole(source) for source in both])
    wanted = torch.from_numpy(x).permute(0, 3, 1, 2)
    assert sorted(map(bytes, found.numpy())) == sorted(map(bytes, wanted.numpy().copy()))


def test_a_part_is_evenly_spaced(tmp_path: Path):
    source = open_source(str(folder_of(tmp_path, pixels(7))), "train")
    part = source.part(3)
    assert part.count == 3
    assert whole(part).equal(whole(source)[[0, 2, 4]])
    assert part.identity != source.identity
    assert source.part(7) is source.part(None) is source
    with pytest.raises(UsageError, match=r"has 7 samples, fewer than the 8 wanted"):
        source.part(8)


@pytest.mark.parametrize("pairing", ["paired", "unpaired"])
def test_of_two_sides_the_one_that_a_translation_makes(tmp_path: Path, pairing: str):
    sides = {"dark": pixels(12, size=16) // 2, "light": 128 + pixels(9, size=16) // 2}
    for name, x in sides.items():
        folder_of(tmp_path / name, x if pairing == "unpaired" else x[:9])
    words = ["data", "pack", str(tmp_path / "dark"), str(tmp_path / "light"), str(tmp_path / "s")]
    words += ["--size", "16", "--image-format", "png", "--workers", "0"]
    assert cli.main(words + (["--pairs", "folders"] if pairing == "paired" else [])) == 0
    given = {"kind": "image", "shards": str(tmp_path / "s"), "size": 16, "frames": 1}
    source = of_data(DataConfig.model_validate(given | {"pairing": pairing}), "train")
    found = whole(source)
    assert found.min() >= 128
    assert len(found) == source.count == len({bytes(x) for x in found.numpy()})
