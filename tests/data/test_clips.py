import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agehpc.config.schema import DataConfig
from agehpc.data.clips import clip_indices, span


def config(frames: int, strides: tuple[int, ...]) -> DataConfig:
    return DataConfig(kind="video", frames=frames, strides=strides, short_clips="loop")


@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 200), st.integers(0, 99))
def test_indices_are_a_strided_run_inside_the_source(
    frames: int, stride: int, length: int, position: int
):
    indices = clip_indices(config(frames, (stride,)), length, 0, position)
    assert len(indices) == frames
    assert indices.min() >= 0
    assert indices.max() < length
    assert set(np.diff(indices) % length) <= {stride % length}
    if length >= span(frames, stride):
        assert set(np.diff(indices)) <= {stride}


def test_every_start_and_stride_is_drawn_equally():
    """16 frames of 20 at stride 1 have 5 starts; chi-squared against equal shares."""
    starts = [int(clip_indices(config(16, (1,)), 20, 3, p)[0]) for p in range(2000)]
    counts = np.bincount(starts, minlength=5)
    assert len(counts) == 5
    assert ((counts - 400) ** 2 / 400).sum() < 18.5  # 99.9 %, 4 degrees of freedom
    strides = [int(np.diff(clip_indices(config(2, (1, 3)), 50, 3, p))[0]) for p in range(1000)]
    assert set(strides) == {1, 3}
    assert 420 < strides.count(3) < 580


def test_without_a_seed_the_clip_is_centred_at_the_first_stride():
    np.testing.assert_array_equal(clip_indices(config(4, (2, 5)), 11), [2, 4, 6, 8])
    np.testing.assert_array_equal(clip_indices(config(4, (1,)), 3), [0, 1, 2, 0])
