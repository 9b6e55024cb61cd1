"""TensorBoard's own reader sees what was written."""

import io
import logging

import numpy as np
import pytest
from PIL import Image

from agehpc.observe.tensorboard import TensorBoard


def reload(directory):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it reports purging as a warning
    return accumulator.EventAccumulator(str(directory)).Reload()


def test_scalars_and_pictures_are_read_back(tmp_path):
    colour = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    with TensorBoard(tmp_path) as board:
        board.scalars(3, {"loss/rec": 0.5, "loss/adv": 0.25})
        board.scalars(4, {"loss/rec": 0.375})
        board.picture(4, "samples/fake", colour)
        board.picture(4, "samples/grey", colour[:, :, :1])
    events = reload(tmp_path)
    assert [(e.step, e.value) for e in events.Scalars("loss/rec")] == [(3, 0.5), (4, 0.375)]
    assert [(e.step, e.value) for e in events.Scalars("loss/adv")] == [(3, 0.25)]
    (shown,) = events.Images("samples/fake")
    image = Image.open(io.BytesIO(shown.encoded_image_string))
    np.testing.assert_array_equal(np.asarray(image), colour)
    assert events.Images("samples/grey")[0].step == 4


def test_resuming_hides_what_came_after_the_checkpoint(tmp_path):
    with TensorBoard(tmp_path) as board:
        for step in range(1, 6):
            board.scalars(step, {"loss": step / 8})
    with TensorBoard(tmp_path, resumed_step=3) as board:
        board.scalars(4, {"loss": 100.0})
    seen = [(event.step, event.value) for event in reload(tmp_path).Scalars("loss")]
    assert seen == [(1, 0.125), (2, 0.25), (3, 0.375), (4, 100.0)]
