import json

import numpy as np
import pytest
import quality
import torch
from demo_shards import pack_demo

from agehpc import checkpoints
from agehpc.config.run_files import write_run_config
from agehpc.data.loader import validation_batches
from agehpc.data.shards import read_manifest
from agehpc.evaluate.features.base import build
from agehpc.observe.grids import to_uint8
from agehpc.recipes import RECIPES
from agehpc.systems.age import Critics
from agehpc.trained import Model, load


def gaussian(seed, count, mean, factor):
    x_NF = np.random.default_rng(seed).standard_normal((count, len(mean)))
    return mean + x_NF @ factor.T


def exactly(x_NF, mean, covariance):
    """Shift and mix samples so that their statistics are exactly these."""
    centred = x_NF - x_NF.mean(0)
    whiten = np.linalg.inv(np.linalg.cholesky(np.cov(centred, rowvar=False)))
    return mean + centred @ whiten.T @ np.linalg.cholesky(covariance).T


@pytest.mark.parametrize("count", [200, 12], ids=["full rank", "fewer samples than features"])
def test_distance_equals_scipys_matrix_square_root(count):
    from scipy.linalg import sqrtm

    features = 24
    rng = np.random.default_rng(0)
    x = gaussian(1, count, rng.standard_normal(features), rng.standard_normal((features, features)))
    y = gaussian(2, 300, rng.standard_normal(features), rng.standard_normal((features, features)))
    c_x, c_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    # sqrtm of a singular product is inexact: the symmetric form has the same trace.
    root = np.real(sqrtm(c_y))
    cross = np.real(sqrtm(root @ c_x @ root + 1e-14 * np.eye(features)))
    difference = x.mean(0) - y.mean(0)
    expected = difference @ difference + np.trace(c_x + c_y - 2 * cross)
    assert quality.distance(x, y) == pytest.approx(expected, rel=1e-6)
    assert quality.distance(y, x) == pytest.approx(expected, rel=1e-6)


def test_distance_of_gaussians_that_commute_has_a_closed_form():
    # Diagonal covariances: |m1 - m2|^2 + sum (s1 - s2)^2, by hand 9 + 16 + (1-2)^2 + (3-5)^2.
    x = exactly(gaussian(3, 50, np.zeros(2), np.eye(2)), [3.0, 0.0], np.diag([1.0, 9.0]))
    y = exactly(gaussian(4, 70, np.zeros(2), np.eye(2)), [0.0, 4.0], np.diag([4.0, 25.0]))
    assert quality.distance(x, y) == pytest.approx(9 + 16 + 1 + 4, abs=1e-9)
    assert quality.distance(x, x) == pytest.approx(0, abs=1e-9)


def test_a_clip_gives_every_fourth_frame_and_an_image_itself():
    clips_BCTHW = np.arange(2 * 3 * 10 * 2 * 2).reshape(2, 3, 10, 2, 2)
    pictures = quality.frames(clips_BCTHW)
    assert pictures.shape == (6, 3, 2, 2)
    np.testing.assert_array_equal(pictures[1], clips_BCTHW[0, :, 4])
    np.testing.assert_array_equal(pictures[5], clips_BCTHW[1, :, 8])
    images = clips_BCTHW[:, :, 0]
    assert quality.frames(images) is images


@pytest.fixture(scope="module")
def lite0():
    """Features NF of uint8 pictures NCHW, taken all at once."""
    extractor = build("lite0", "cpu")
    return lambda x_NCHW: extractor(torch.from_numpy(x_NCHW))["features"].double().numpy()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory of an untrained model, made without the trainer."""
    folder = tmp_path_factory.mktemp("quality")
    shards = pack_demo("image", 32, folder)
    config = RECIPES["image_age_demo"]()
    manifest = read_manifest(shards)
    filled = {"shards": str(shards), "dataset_id": manifest.dataset_id, "channels": 3}
    config = config.model_copy(update={"data": config.data.model_copy(update=filled)})
    (folder / "run").mkdir()
    write_run_config(folder / "run", config)
    torch.manual_seed(0)
    tensors = {"ema": Model(config).state(), "critics": Critics(config).state_dict()}
    checkpoints.write(folder / "run", 1, tensors, {})
    return folder / "run"


def test_the_script_reports_what_a_direct_computation_gives(run, lite0, capsys):
    assert quality.main([str(run), "--n", "100000", "--batch", "16", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)

    model = load(run)
    batches = list(validation_batches(model.config.data, batch=64, limit=None))
    x_BCHW = torch.cat([b.pixels for b in batches]).numpy()
    assert told["n"] == told["psnr_samples"] == len(x_BCHW)
    assert told["n_asked"] == 100000
    y_BCHW = to_uint8(model.sample(len(x_BCHW), 0))
    expected = quality.distance(lite0(y_BCHW), lite0(x_BCHW))
    assert told["frechet_lite0"] == pytest.approx(expected, rel=1e-3)
    # Frames of the same films are close to each other, noise is far from them.
    assert told["frechet_lite0_of_training"] < 0.5 * told["frechet_lite0"]
    z = to_uint8(model.reconstruct(torch.from_numpy(x_BCHW) / 127.5 - 1)).astype(float)
    error = ((z - x_BCHW) ** 2).mean((1, 2, 3))
    assert told["psnr_db"] == pytest.approx(np.mean(10 * np.log10(255**2 / error)), abs=1e-3)
    assert "fid" not in {name.lower() for name in told}
    assert told["protocol"]["extractor"] == "lite0"


def test_what_cannot_be_measured_is_an_error(tmp_path, run, capsys):
    assert quality.main([str(tmp_path / "none")]) != 0
    assert capsys.readouterr().err.startswith("error: ")
    with pytest.raises(SystemExit):
        quality.main([str(run), "--n", "1"])
    assert "--n is 2 or more" in capsys.readouterr().err


def test_validation_samples_are_evenly_spaced_and_training_samples_are_not_augmented(run):
    data = load(run).config.data.model_copy(update={"flip": True, "shift": 4})
    total = read_manifest(data.shards).samples("validation")
    everything = np.concatenate(list(quality.validation_samples(data, total, total, 16)))
    some = np.concatenate(list(quality.validation_samples(data, 5, total, 16)))
    np.testing.assert_array_equal(some, everything[[n * total // 5 for n in range(5)]])

    known = {
        b.tobytes()
        for batch in validation_batches(data, split="train", batch=64, limit=None)
        for b in batch.pixels.numpy()
    }
    drawn = next(quality.training_samples(data, 0, 32))
    assert all(x.tobytes() in known for x in drawn)
    assert len({x.tobytes() for x in drawn}) > 16
