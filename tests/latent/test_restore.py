"""Degradations against Pillow and NumPy, restoration against linear algebra."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from agehpc.data.keyed import philox
from agehpc.latent.degrade import degrade
from agehpc.latent.restore import restore_by_inversion, restore_by_network
from agehpc.models.corrupt import corrupt
from tests.latent.linear import Linear
from tests.latent.runs import figures, refusal


def samples(count: int = 3, *space: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 1, *(space or (8, 8)), generator=generator) * 1.8 - 0.9


def test_noise_is_keyed_by_seed_and_position_and_clipped():
    x = samples()
    seen = degrade("denoise", x, [4, 0, 9], noise=0.2, seed=3).seen_BCS
    for n, position in enumerate((4, 0, 9)):
        draw = philox(3, "restore", position).standard_normal((1, 8, 8))
        wanted = ((x[n].double().numpy() + 1) / 2 + 0.2 * draw).clip(0, 1) * 2 - 1
        np.testing.assert_allclose(seen[n].numpy(), wanted, atol=1e-6)
    assert seen.max() == 1
    assert not torch.equal(degrade("denoise", x, [4, 0, 9], seed=4).seen_BCS, seen)


def test_the_hole_is_a_box_in_the_middle_and_known_pixels_come_back():
    x = samples()
    hole = degrade("inpaint", x, [0, 1, 2], box=0.5)
    inside = np.zeros((8, 8), bool)
    inside[2:6, 2:6] = True
    assert (hole.seen_BCS.numpy()[..., inside] == 0).all()
    assert torch.equal(
        hole.seen_BCS[..., ~torch.from_numpy(inside)], x[..., ~torch.from_numpy(inside)]
    )
    assert hole.known == 0.75
    y = samples(3) * 0.5
    corrected = hole.correct(y).numpy()
    np.testing.assert_array_equal(corrected, np.where(inside, y.numpy(), x.numpy()))


@pytest.mark.parametrize("factor", [2, 4])
def test_lower_resolutions_are_those_of_pillow(factor):
    x = samples(2, 16, 16)
    degraded = degrade(f"superres{factor}", x, [0, 1])
    low = degraded.measured
    assert torch.equal(degraded.seen_BCS, corrupt("lowres", x, factor, None))  # as in training
    for n in range(2):
        picture = Image.fromarray(x[n, 0].numpy())  # mode F
        wanted = picture.resize((16 // factor,) * 2, Image.Resampling.BICUBIC)
        np.testing.assert_allclose(low[n, 0].numpy(), np.asarray(wanted), atol=1e-5)
        enlarged = np.asarray(wanted.resize((16, 16), Image.Resampling.BICUBIC)).clip(-1, 1)
        np.testing.assert_allclose(degraded.seen_BCS[n, 0].numpy(), enlarged, atol=1e-5)


def test_clips_are_resized_frame_by_frame():
    x_BCTHW = samples(2, 3, 8, 8)
    low = degrade("superres2", x_BCTHW, [0, 1]).measured
    for t in range(3):
        of_frame = degrade("superres2", x_BCTHW[:, :, t], [0, 1]).measured
        torch.testing.assert_close(low[:, :, t], of_frame)


def test_back_projection_comes_closer_to_the_measured_resolution():
    x, y = samples(2, 16, 16) * 0.5, samples(4, 16, 16)[2:] * 0.5
    low = degrade("superres2", x, [0, 1])
    before = (low.measure(y) - low.measured).square().mean()
    after = (low.measure(low.correct(y)) - low.measured).square().mean()
    assert after < 0.25 * before
    torch.testing.assert_close(low.correct(x), x, atol=1e-5, rtol=0)


@pytest.mark.parametrize("task", ["denoise", "inpaint", "superres2"])
def test_inversion_finds_the_least_squares_solution_of_what_was_measured(task):
    linear = Linear()
    x = samples()
    degraded = degrade(task, x, [0, 1, 2])
    # The measured outputs as a matrix of the latent, from one latent a row.
    a = degraded.measure(linear.decode(torch.eye(5)).expand(5, 1, 8, 8)).flatten(1).double().numpy()
    b = degraded.measured.flatten(1).double().numpy()
    wanted = np.linalg.lstsq(a.T, b.T)[0].T
    y_BCS = restore_by_inversion(linear.as_model(), degraded, steps=500, lr=0.1, prior_weight=0.0)
    made = degraded.correct(linear.decode(torch.from_numpy(wanted).float()))
    np.testing.assert_allclose(y_BCS.numpy(), made.numpy(), atol=5e-3)


def test_without_an_encoder_it_starts_from_the_nearest_draw():
    linear = Linear(encodes=False)
    x = samples()
    degraded = degrade("inpaint", x, [0, 1, 2])
    y_BCS = restore_by_inversion(
        linear.as_model(), degraded, steps=0, lr=0.1, prior_weight=0.0, starts=9, seed=2
    )
    made = linear.decode(linear.noise(9, 2))
    gaps = (degraded.measure(made)[None] - degraded.measured[:, None]).square().flatten(2).mean(2)
    torch.testing.assert_close(y_BCS, degraded.correct(made[gaps.argmin(1)]))


def test_a_network_that_restores_gets_the_degraded_sample():
    linear = Linear()
    linear.restore = lambda x_BCS: x_BCS * 0.5  # pyright: ignore[reportAttributeAccessIssue]
    hole = degrade("inpaint", samples(), [0, 1, 2])
    wanted = hole.correct(hole.seen_BCS * 0.5)
    assert torch.equal(restore_by_network(linear.as_model(), hole), wanted)


@pytest.mark.parametrize("task", ["denoise", "inpaint", "superres2", "superres4"])
def test_the_command_restores_pictures_and_clips(
    task, image_run: Path, clip_run: Path, tmp_path, capsys
):
    for run in (image_run, clip_run):
        told = figures(
            capsys, "restore", run, "--task", task, "--n", 2, "--steps", 2, "--out", tmp_path
        )
        assert told["by"] == "inversion"
        assert told["gain_db"] == told["psnr_db_restored"] - told["psnr_db_degraded"]
        assert all(Path(path).stat().st_size for path in told["paths"])


def test_bad_tasks_are_refused(image_run: Path, tmp_path, monkeypatch, capsys):
    words = ("restore", image_run, "--out", tmp_path)
    assert "expected 'denoise', 'inpaint'" in refusal(capsys, *words, "--task", "unblur")
    assert "--box" in refusal(capsys, *words, "--box", "1.5")
    for box, hole in (("0.01", "0 x 0"), ("0.99", "16 x 16")):
        told = refusal(capsys, *words, "--task", "inpaint", "--box", box)
        assert f"--box {box} of 16 x 16 pixels is a hole of {hole}" in told
    monkeypatch.setattr("agehpc.trained.Model.can", lambda self, use: False)
    assert "has no generator of latents" in refusal(capsys, *words)
