import json

import numpy as np
import pytest
import quality
import torch
from demo_shards import pack_demo
from torchmetrics.image.fid import _compute_fid

from agehpc import checkpoints
from agehpc.config.run_files import write_run_config
from agehpc.data.loader import validation_batches
from agehpc.data.shards import read_manifest
from agehpc.evaluate.features.base import build
from agehpc.observe.grids import to_uint8
from agehpc.recipes import RECIPES
from agehpc.systems.age import Critics
from agehpc.trained import Model, load


@pytest.fixture(scope="module")
def lite0():
    """Mean and covariance of the features of uint8 pictures NCHW, taken all at once."""
    extractor = build("lite0", "cpu")

    def statistics(x_NCHW):
        features_NF = extractor(torch.from_numpy(x_NCHW))["features"].double()
        return features_NF.mean(0), features_NF.T.cov()

    return statistics


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
    expected = float(_compute_fid(*lite0(y_BCHW), *lite0(x_BCHW)))
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
