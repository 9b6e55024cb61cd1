"""What the uses reach on faces they never saw, with a run of image_age_64 trained for ten minutes.

Set AGEHPC_FACES_RUN to a finished run to leave the training out.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import agehpc
from agehpc.cli import main
from agehpc.data.loader import Batch, validation_batches
from agehpc.data.pixels import to_float
from agehpc.latent.directions import read_directions
from benchmarks.translation import fit
from tests.latent.runs import figures
from tests.train.runs import train_in_fork

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run on the faces, classes neutral and smile."""
    if "AGEHPC_FACES_RUN" in os.environ:
        return Path(os.environ["AGEHPC_FACES_RUN"])
    default = Path(__file__).parents[2] / "../shared/data"
    source = Path(os.environ.get("AGEHPC_SHARED_DATA", default)).resolve() / "faces64.tar"
    if not source.is_file():
        pytest.skip(f"{source} does not exist; set AGEHPC_SHARED_DATA")
    folder = tmp_path_factory.mktemp("faces")
    words = ["data", "pack", str(source), str(folder / "shards"), "--validation-fraction", "0.25"]
    assert main(words) == 0
    words = [
        *("image_age_64", "--data.shards", str(folder / "shards"), "--out", str(folder / "run")),
        *("--train.max-minutes", "10"),
    ]
    code, _, errors = train_in_fork(words, folder / "log", timeout=1500)
    assert code == 0, errors
    return folder / "run"


def test_inversion_gains_a_decibel(faces: Path, tmp_path, capsys):
    figures(capsys, "invert", faces, "--n", 64, "--out", tmp_path)
    words = ("reconstruct", faces, "--out", tmp_path)
    before = figures(capsys, *words, "--n", 64)["psnr_db"]
    after = figures(capsys, *words, "--latents", tmp_path / "latents.npz")["psnr_db"]
    print(f"PSNR by the encoder {before:.2f} dB, after inversion {after:.2f} dB")
    assert after > before + 1


@pytest.mark.parametrize("task", ["denoise", "inpaint"])
def test_restoration_beats_the_degraded_input(task, faces: Path, tmp_path, capsys):
    told = figures(capsys, "restore", faces, "--task", task, "--n", 64, "--out", tmp_path)
    print(f"{task}: {told['psnr_db_degraded']:.2f} -> {told['psnr_db_restored']:.2f} dB")
    assert told["gain_db"] > 1


def everything(run: Path, split) -> Batch:
    data = agehpc.load(run).config.data
    return next(validation_batches(data, split=split, batch=100_000, limit=None))


def test_editing_towards_a_smile_raises_a_smile_classifiers_score(faces: Path, tmp_path, capsys):
    train, held_out = everything(faces, "train"), everything(faces, "validation")
    net = fit(train.pixels, train.labels)
    saved = tmp_path / "smile.npz"
    told = figures(
        capsys, "edit", faces, "--label", "smile", "--only", "neutral", "--save-direction", saved,
        "--out", tmp_path,
    )  # fmt: skip
    model = agehpc.load(faces)
    step_Z = torch.from_numpy(read_directions(saved, model.config.model.latent).steps_KZ[0])
    neutral = held_out.pixels[held_out.labels == 0][:512]
    with torch.no_grad():
        parts = zip(held_out.pixels.split(256), held_out.labels.split(256), strict=True)
        right = np.mean(torch.cat([(net(to_float(x)) > 0) == (y == 1) for x, y in parts]).numpy())
        z_NZ = torch.cat([model.encode(to_float(x)) for x in neutral.split(64)])
        before, after = (
            torch.cat([net(model.decode(z)) for z in (z_NZ + s * step_Z).split(64)])
            for s in (0.0, 2.0)
        )
    raised, fooled = ((after > before).float().mean(), (after > 0).float().mean())
    print(
        f"classifier right on {right:.1%}; latents' separation {told['separation']:.1%}; score "
        f"raised on {raised:.1%}; called a smile {(before > 0).float().mean():.1%} -> {fooled:.1%}"
    )
    assert right > 0.85
    assert raised > 0.9
