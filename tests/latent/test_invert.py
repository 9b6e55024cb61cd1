"""Inversion against least squares, and through the commands."""

from pathlib import Path

import numpy as np
import pytest
import torch

import agehpc
from agehpc.latent.codes import read_npz
from agehpc.latent.invert import departure, distance, invert, nearest_draws, start
from tests.latent.linear import Linear
from tests.latent.runs import figures, make_run, refusal


@pytest.fixture
def linear() -> Linear:
    return Linear()


def samples(count: int) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_a_linear_generator_is_inverted_to_the_least_squares_solution(linear: Linear):
    x_BCS = samples(3)
    a, x = linear.a_ZP.double().numpy(), x_BCS.flatten(1).double().numpy()
    wanted = np.linalg.lstsq(a.T, x.T)[0].T
    z_BZ = invert(linear.as_model(), x_BCS, torch.zeros(3, 5), steps=400, lr=0.1)
    # The best latent is told by a float32 loss, which is flat around its minimum.
    np.testing.assert_allclose(z_BZ.numpy(), wanted, atol=1e-3)


def test_the_prior_weight_gives_the_ridge_solution(linear: Linear):
    x_BCS, weight = samples(3), 0.5
    a, x = linear.a_ZP.double().numpy(), x_BCS.flatten(1).double().numpy()
    # mean over 64 pixels of (z A - x)^2 + weight * mean over 5 dimensions of z^2
    normal = a @ a.T / 64 + weight / 5 * np.eye(5)
    wanted = np.linalg.solve(normal, a @ x.T / 64).T
    z_BZ = invert(
        linear.as_model(), x_BCS, torch.zeros(3, 5), steps=400, lr=0.1, prior_weight=weight
    )
    # The best latent is told by a float32 loss, which is flat around its minimum.
    np.testing.assert_allclose(z_BZ.numpy(), wanted, atol=1e-3)


@pytest.mark.parametrize("loss", ["mse", "l1"])
def test_no_sample_gets_worse_or_sees_the_others(linear: Linear, loss):
    x_BCS, model = samples(4), linear.as_model()
    start_BZ = torch.randn(4, 5, generator=torch.Generator().manual_seed(2))
    settings = {"steps": 20, "lr": 3.0, "loss": loss}  # far too fast on purpose
    z_BZ = invert(model, x_BCS, start_BZ, **settings)
    before = distance(loss, model.decode(start_BZ), x_BCS)
    after = distance(loss, model.decode(z_BZ), x_BCS)
    assert (after <= before).all()
    alone = torch.cat([invert(model, x_BCS[n : n + 1], start_BZ[n : n + 1], **settings)
                       for n in range(4)])  # fmt: skip
    torch.testing.assert_close(z_BZ, alone)
    assert torch.equal(invert(model, x_BCS, start_BZ, steps=0, lr=0.1), start_BZ)
    # The best latent is the start, and the steps end far from it.
    assert torch.equal(invert(model, model.decode(start_BZ), start_BZ + 1e-6, steps=2, lr=3.0),
                       start_BZ + 1e-6)  # fmt: skip


def test_distances_and_departure():
    x, y = samples(2), samples(4)[2:]
    gap = (x - y).double().numpy().reshape(2, -1)
    np.testing.assert_allclose(distance("mse", y, x).numpy(), (gap**2).mean(1), rtol=1e-5)
    np.testing.assert_allclose(distance("l1", y, x).numpy(), np.abs(gap).mean(1), rtol=1e-5)
    draws = torch.Generator().manual_seed(0)
    for prior, z in (
        ("gaussian", torch.randn(50, 400, generator=draws)),
        ("uniform", torch.rand(50, 400, generator=draws) * 2 - 1),
    ):
        assert departure(z, prior).mean().item() == pytest.approx(1, abs=0.02)


def test_without_an_encoder_it_starts_from_the_nearest_draw(linear: Linear):
    linear.encodes = False
    model, x_BCS = linear.as_model(), samples(6)
    z_NZ = model.noise(20, 3)
    gaps = model.decode(z_NZ)[None] - x_BCS[:, None]
    wanted = z_NZ[gaps.square().flatten(2).mean(2).argmin(1)]
    assert torch.equal(start(model, x_BCS, starts=20, seed=3), wanted)
    assert len({int(i) for i in gaps.square().flatten(2).mean(2).argmin(1)}) > 1


def test_nearest_draws_of_a_conditional_generator_keep_their_labels(linear: Linear):
    generate = linear.generate

    def shifted(z, labels=None, *, from_prior=False):
        return generate(z) + labels[:, None, None, None]

    linear.decode = shifted  # pyright: ignore[reportAttributeAccessIssue]
    labels = torch.tensor([0, 5])
    z_NZ = linear.noise(20, 3)
    found = nearest_draws(
        linear.as_model(),
        lambda y: distance("mse", y, samples(2)),
        2,
        starts=20,
        seed=3,
        labels_B=labels,
    )
    for n in range(2):
        gaps = shifted(z_NZ, labels[n : n + 1]) - samples(2)[n]
        assert torch.equal(found[n], z_NZ[gaps.square().flatten(1).mean(1).argmin()])


def test_the_commands_improve_on_the_encoder_and_read_back(image_run: Path, tmp_path, capsys):
    told = figures(
        capsys, "invert", image_run, "--n", 5, "--batch", 2, "--steps", 30, "--out", tmp_path
    )
    assert told["n"] == 5
    assert told["psnr_db_after"] > told["psnr_db_before"]
    before = figures(capsys, "reconstruct", image_run, "--n", 5, "--out", tmp_path)
    after = figures(
        capsys, "reconstruct", image_run, "--latents", tmp_path / "latents.npz", "--out", tmp_path
    )
    assert before["psnr_db"] == pytest.approx(told["psnr_db_before"])
    assert after["psnr_db"] == pytest.approx(told["psnr_db_after"])
    assert after["n"] == 5
    codes = read_npz(tmp_path / "latents.npz")
    assert codes.positions_N.tolist() == [0, 1, 2, 3, 4]
    assert codes.origin.dataset_id == agehpc.load(image_run).config.data.dataset_id
    assert (tmp_path / "validation-inversion.png").stat().st_size


def test_clips_are_inverted(clip_run: Path, tmp_path, capsys):
    told = figures(
        capsys, "invert", clip_run, "--n", 2, "--steps", 5, "--loss", "l1", "--out", tmp_path
    )
    assert {Path(p).suffix for p in told["paths"]} == {".npz", ".png", ".mp4"}
    assert -1 <= told["ssim_before"] <= 1


def test_dry_run_writes_nothing(image_run: Path, tmp_path, capsys):
    told = figures(capsys, "invert", image_run, "--dry-run", "--out", tmp_path / "no")
    assert told["would_write_to"] == str(tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_latents_that_do_not_fit_are_refused(
    image_run: Path, clip_shards: Path, image_shards: Path, tmp_path, capsys
):
    figures(capsys, "invert", image_run, "--n", 2, "--steps", 0, "--out", tmp_path)
    file = tmp_path / "latents.npz"
    other = make_run(tmp_path / "other", image_shards, latent=9)
    words = ("reconstruct", other, "--latents", file)
    assert "holds latents of size 6, the run's have 9" in refusal(capsys, *words)
    words = ("reconstruct", image_run, "--latents", file, "--split", "train")
    assert "of the validation split; add --split validation" in refusal(capsys, *words)
    words = ("reconstruct", image_run, "--latents", tmp_path / "none.npz")
    assert "none.npz: no such file" in refusal(capsys, *words)
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 nonsense")
    words = ("reconstruct", image_run, "--latents", tmp_path / "bad.npz")
    assert "is no readable .npz file" in refusal(capsys, *words)
    np.savez(tmp_path / "else.npz", x=np.zeros(3))
    words = ("reconstruct", image_run, "--latents", tmp_path / "else.npz")
    assert "holds no latents: latents" in refusal(capsys, *words)
