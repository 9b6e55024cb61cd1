"""Grids against pixels placed by hand; files read back by their own libraries."""

import av
import numpy as np
import pytest
import torch
from PIL import Image

from agehpc.observe.grids import film_strip, image_grid, save_mp4, save_png, to_uint8, video_grid


def flat(values, channels=3, size=(4, 6)) -> np.ndarray:
    """Return pictures NCHW of one value each."""
    values = np.array(values, dtype=np.uint8)[:, None, None, None]
    return np.broadcast_to(values, (len(values), channels, *size)).copy()


@pytest.mark.parametrize("channels", [1, 3])
def test_image_grid_places_every_picture(channels):
    top = flat([10, 20, 30], channels)
    top[1, :, 3, 5] = 99  # last row and column: nothing is transposed or flipped
    grid = image_grid([top, flat([40], channels)])
    assert grid.shape == (4 + 2 + 4, 3 * 6 + 2 * 2, channels)
    assert grid.dtype == np.uint8
    for column, value in enumerate([10, 20, 30]):
        picture = grid[:4, column * 8 : column * 8 + 6]
        np.testing.assert_array_equal(picture, top[column].transpose(1, 2, 0))
        assert picture[0, 0, 0] == value
    assert (grid[6:, :6] == 40).all()
    assert (grid[4:6] == 255).all()
    assert (grid[6:, 6:] == 255).all()
    assert (grid[:, 6:8] == 255).all()


def test_zoom_repeats_pixels():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 6), dtype=np.uint8)
    grid = image_grid([pictures], zoom=3)
    expected = np.kron(pictures[1].transpose(1, 2, 0), np.ones((3, 3, 1), dtype=np.uint8))
    np.testing.assert_array_equal(grid[:, 20:], expected)


def test_video_grid_is_a_grid_a_frame():
    clips = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 4, 6), dtype=np.uint8)
    frames = video_grid([clips, clips[:1]])
    assert frames.shape == (5, 10, 14, 3)
    for t in range(5):
        expected = image_grid([clips[:, :, t], clips[:1, :, t]])
        np.testing.assert_array_equal(frames[t], expected)


def test_film_strip_shows_first_to_last_frame_of_every_clip():
    frame_values = np.arange(16, dtype=np.uint8)[None, None, :, None, None]
    real = (
        np.broadcast_to(frame_values, (2, 1, 16, 4, 6))
        + np.array([0, 100], np.uint8)[:, None, None, None, None]
    )
    made = real + 50
    strip = film_strip([real, made], frames=4)
    assert strip.shape == (4 * 4 + 3 * 2, 4 * 6 + 3 * 2, 1)
    seen = [[int(strip[line * 6, column * 8, 0]) for column in range(4)] for line in range(4)]
    assert film_strip([real[:1]], frames=3)[0, ::8, 0].tolist() == [0, 8, 15]
    assert seen == [[0, 5, 10, 15], [50, 55, 60, 65], [100, 105, 110, 115], [150, 155, 160, 165]]


def test_a_clip_shorter_than_the_strip_shows_each_frame_once():
    clips = np.arange(3, dtype=np.uint8).reshape(1, 1, 3, 1, 1)
    assert film_strip([clips], frames=8)[0, ::3, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("channels", [1, 3])
def test_png_holds_the_pixels(tmp_path, channels):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    save_png(tmp_path / "a.png", picture)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == ("L" if channels == 1 else "RGB")
        np.testing.assert_array_equal(np.asarray(image).reshape(picture.shape), picture)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("channels", [1, 3])
def test_mp4_plays_the_clip_over_in_a_form_browsers_know(tmp_path, channels):
    values = np.array([0, 60, 120, 180, 240], dtype=np.uint8)
    frames = np.broadcast_to(values[:, None, None, None], (5, 17, 33, channels))
    path = tmp_path / "a.mp4"
    save_mp4(path, frames, fps=10, seconds=1.2)
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.width, context.height) == (34, 18)
        assert stream.average_rate == 10
        decoded = [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]
    assert len(decoded) == 15  # three whole rounds are the first to last 1.2 s
    for frame, value in zip(decoded, np.tile(values, 3), strict=True):
        assert np.abs(frame[:17, :33].astype(int) - int(value)).mean() < 6
    # The index comes before the pictures: players start before they have the whole file.
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="array"):
        save_mp4(path, np.zeros((2, 4, 4, 2), dtype=np.uint8), fps=10)
    assert path.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_floats_become_the_nearest_level():
    x = torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0, float("nan"), -1 + 1.4 / 127.5, -1 + 1.6 / 127.5])
    assert to_uint8(x).tolist() == [0, 0, 128, 255, 255, 0, 1, 2]
    assert to_uint8(x.to(torch.bfloat16)).dtype == np.uint8
    levels = torch.arange(256)
    assert to_uint8(levels / 127.5 - 1).tolist() == levels.tolist()
    assert to_uint8(torch.zeros(2, 3, 4, requires_grad=True)).shape == (2, 3, 4)
