"""Directions against other libraries, and editing through the command."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

import agehpc
from agehpc.data.loader import samples_at
from agehpc.data.pixels import to_float
from agehpc.errors import UsageError
from agehpc.latent.directions import (
    class_direction,
    principal_components,
    read_directions,
    separation,
)
from agehpc.observe.grids import to_uint8
from tests.latent.runs import LATENT, figures, make_run, refusal


def cloud(count: int = 400, latent: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Latents of two classes that differ along one dimension and lie slanted."""
    draws = np.random.default_rng(0)
    is_class_N = draws.random(count) < 0.3
    z_NZ = draws.normal(size=(count, latent)) @ draws.normal(size=(latent, latent))
    z_NZ[:, 2] += 1.5 * is_class_N
    return z_NZ.astype(np.float32), is_class_N


def test_principal_components_are_those_of_the_svd():
    z_NZ, _ = cloud()
    found = principal_components(z_NZ)
    centred = z_NZ.astype(np.float64) - z_NZ.astype(np.float64).mean(0)
    _, s_Z, axes_ZZ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(found.deviations_Z, s_Z / np.sqrt(len(z_NZ)), rtol=1e-8)
    np.testing.assert_allclose(np.abs((found.axes_ZZ * axes_ZZ).sum(1)), 1, rtol=1e-8)
    np.testing.assert_allclose(found.shares_Z, s_Z**2 / (s_Z**2).sum(), rtol=1e-8)
    steps_KZ = found.directions(2).steps_KZ
    np.testing.assert_allclose(np.linalg.norm(steps_KZ, axis=1), found.deviations_Z[:2], rtol=1e-6)
    assert (found.axes_ZZ[np.arange(5), np.abs(found.axes_ZZ).argmax(1)] > 0).all()
    with pytest.raises(UsageError, match="--pca 6: latents of size 5 have no more"):
        found.directions(6)


def test_the_class_direction_is_that_of_another_library():
    z_NZ, is_class_N = cloud()
    step_Z = class_direction(z_NZ, is_class_N, "smile").steps_KZ[0].astype(np.float64)
    lda = LinearDiscriminantAnalysis(solver="lsqr").fit(z_NZ.astype(np.float64), is_class_N)
    normal_Z = lda.coef_[0] / np.linalg.norm(lda.coef_[0])
    unit_Z = step_Z / np.linalg.norm(step_Z)
    assert unit_Z @ normal_Z == pytest.approx(1, abs=1e-3)  # ours is shrunk a little
    gap_Z = z_NZ[is_class_N].mean(0) - z_NZ[~is_class_N].mean(0)
    assert np.linalg.norm(step_Z) == pytest.approx(gap_Z @ unit_Z, rel=1e-4)
    mean_Z = class_direction(z_NZ, is_class_N, "smile", "mean").steps_KZ[0]
    np.testing.assert_allclose(mean_Z, gap_Z, rtol=1e-4, atol=1e-5)
    assert separation(z_NZ, is_class_N, step_Z) > separation(z_NZ, is_class_N, mean_Z)


def test_latents_that_do_not_vary_have_no_directions():
    same_NZ, is_class_N = np.ones((3, 4), np.float32), np.array([True, False, False])
    with pytest.raises(UsageError, match="3 latents are all the same"):
        principal_components(same_NZ)
    apart_NZ = same_NZ * np.array([[1], [2], [2]], np.float32)
    with pytest.raises(UsageError, match="do not vary within the classes"):
        class_direction(apart_NZ, is_class_N, "smile")
    step_Z = class_direction(apart_NZ, is_class_N, "smile", "mean").steps_KZ[0]
    np.testing.assert_array_equal(step_Z, [-1, -1, -1, -1])


def test_separation_counts_both_classes_alike():
    z_NZ = np.array([[-1.0], [-1.0], [-1.0], [3.0], [1.0]], np.float32)
    is_class_N = np.array([False, False, False, False, True])  # means 0 and 1, middle 0.5
    assert separation(z_NZ, is_class_N, np.array([1.0])) == (3 / 4 + 1) / 2


def test_directions_need_both_classes():
    z_NZ, _ = cloud(4)
    for is_class_N, what in ((np.zeros(4, bool), "no"), (np.ones(4, bool), "only")):
        with pytest.raises(UsageError, match=f"{what} samples of class a among the 4"):
            class_direction(z_NZ, is_class_N, "a")


def test_columns_are_the_sample_moved_along_the_saved_direction(image_run: Path, tmp_path, capsys):
    saved = tmp_path / "deep" / "light.npz"
    told = figures(
        capsys, "edit", image_run, "--label", "light", "--only", "dark", "--n", 2,
        "--strengths", -1.5, 0, 2, "--save-direction", saved, "--out", tmp_path,
    )  # fmt: skip
    assert told["n"] == 2
    assert told["fitted_on"] == 12
    model = agehpc.load(image_run)
    step_Z = read_directions(saved, LATENT).steps_KZ[0]
    assert told["step_length"] == pytest.approx(np.linalg.norm(step_Z))
    data = model.config.data
    batch = samples_at(data, split="validation", positions=range(12))
    dark = [n for n in range(12) if batch.labels[n] == 0][:2]
    picture = np.asarray(Image.open(tmp_path / "edit-light.png"))
    assert picture.shape == (2 * 18 - 2, 4 * 18 - 2)
    for row, n in enumerate(dark):
        z_BZ = model.encode(to_float(batch.pixels[n : n + 1]))
        moved = [z_BZ + s * torch.from_numpy(step_Z) for s in (-1.5, 0.0, 2.0)]
        wanted = [batch.pixels[n, 0].numpy(), *(to_uint8(model.decode(z))[0, 0] for z in moved)]
        for column, x_HW in enumerate(wanted):
            shown = picture[row * 18 : row * 18 + 16, column * 18 : column * 18 + 16]
            assert np.abs(shown.astype(int) - x_HW).max() <= 1
    again = figures(
        capsys, "edit", image_run, "--direction", saved, "--index", dark[0], "--out", tmp_path
    )
    assert again["direction"] == "light"


def test_components_of_clips_draws_and_files(clip_run: Path, image_run: Path, tmp_path, capsys):
    words = ("edit", clip_run, "--n", 1, "--strengths", 1, "--out", tmp_path)
    told = figures(capsys, *words, "--pca", 2, "--source", "noise", "--split", "train")
    assert {Path(p).name for p in told["paths"]} == {
        f"edit-component-{k}{suffix}" for k in (0, 1) for suffix in (".png", ".mp4")
    }
    figures(capsys, "encode", image_run, "--out", tmp_path / "a.npz")
    words = ("edit", image_run, "--pca", 1, "--fit-latents", tmp_path / "a.npz", "--out", tmp_path)
    assert figures(capsys, *words, "--latents", tmp_path / "a.npz", "--n", 2)["n"] == 2


def test_what_cannot_be_edited(image_run: Path, image_shards: Path, tmp_path, capsys):
    words = ("edit", image_run, "--out", tmp_path)
    assert "name one direction" in refusal(capsys, *words)
    assert "name one direction" in refusal(capsys, *words, "--pca", 1, "--label", "light")
    message = refusal(capsys, *words, "--label", "smile")
    assert "--label smile: no such class; there are dark, light" in message
    assert "--only smile: no such class" in refusal(capsys, *words, "--pca", 1, "--only", "smile")
    for more in (("--index", 1), ("--source", "noise"), ("--latents", tmp_path / "z.npz")):
        message = refusal(capsys, *words, "--pca", 1, "--only", "light", *more)
        assert "--only light chooses among encoded samples" in message
    message = refusal(capsys, *words, "--pca", 1, "--source", "noise", "--latents", "z.npz")
    assert "both say where to start" in message
    saved = tmp_path / "a.npz"
    figures(capsys, *words, "--pca", 1, "--save-direction", saved)
    other = make_run(tmp_path / "other", image_shards, latent=9)
    message = refusal(capsys, "edit", other, "--direction", saved)
    assert "is for latents of size 6, the run's have 9" in message
    figures(capsys, "encode", image_run, "--out", tmp_path / "latents.npz")
    message = refusal(capsys, *words, "--direction", tmp_path / "latents.npz")
    assert "holds no directions" in message
