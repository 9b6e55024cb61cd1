import numpy as np
import pytest

from agehpc.config.schema import DataConfig
from agehpc.data.augment import augment

NOTHING = {"flip": False, "shift": 0, "colour": 0.0}


def config(**values: object) -> DataConfig:
    return DataConfig.model_validate({"kind": "video"} | NOTHING | values)


@pytest.fixture
def x_THWC() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 16, 12, 3), dtype=np.uint8)


def test_nothing_asked_changes_nothing(x_THWC: np.ndarray):
    for position in range(20):
        np.testing.assert_array_equal(augment(x_THWC, config(), 0, position), x_THWC)


def test_flip_mirrors_about_half_of_the_samples(x_THWC: np.ndarray):
    flipped = 0
    for position in range(400):
        out = augment(x_THWC, config(flip=True), 0, position)
        if np.array_equal(out, np.flip(x_THWC, axis=2)):
            flipped += 1
        else:
            np.testing.assert_array_equal(out, x_THWC)
    assert 160 < flipped < 240


def test_shift_moves_all_frames_by_one_vector(x_THWC: np.ndarray):
    padded = np.pad(x_THWC, ((0, 0), (3, 3), (3, 3), (0, 0)), mode="edge")
    seen = set()
    for position in range(300):
        out = augment(x_THWC, config(shift=3), 0, position)
        matches = [
            (down, right)
            for down in range(-3, 4)
            for right in range(-3, 4)
            if np.array_equal(out, padded[:, 3 - down : 19 - down, 3 - right : 15 - right])
        ]
        assert len(matches) == 1
        seen.update(matches)
    assert len(seen) == 49  # of 7 x 7


def test_colour_follows_the_float_formula(x_THWC: np.ndarray):
    """The gain between values is brightness x contrast: linear up to rounding, within bounds."""
    x_THWC = x_THWC // 4 + 96  # nothing clips
    for position in range(50):
        out = augment(x_THWC, config(colour=0.2), 0, position).astype(float)
        gain, offset = np.polyfit(x_THWC.ravel(), out.ravel(), 1)
        assert 0.8**2 - 0.01 <= gain <= 1.2**2 + 0.01
        assert np.abs(out - (gain * x_THWC + offset)).max() < 0.6
        assert 0.79 < out.mean() / x_THWC.mean() < 1.21


def test_draws_are_keyed_by_seed_and_position(x_THWC: np.ndarray):
    every = config(flip=True, shift=3, colour=0.3)
    one = augment(x_THWC, every, 5, 9)
    np.testing.assert_array_equal(one, augment(x_THWC, every, 5, 9))
    assert not np.array_equal(one, augment(x_THWC, every, 5, 10))
    assert not np.array_equal(one, augment(x_THWC, every, 6, 9))
