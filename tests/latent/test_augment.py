"""`agehpc sample --shards`: generated samples as shards that training reads back."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

import agehpc
from agehpc.data.loader import validation_batches
from agehpc.data.shards import read_manifest
from agehpc.errors import UsageError
from agehpc.latent.augment import lossless
from agehpc.observe.grids import to_uint8
from agehpc.trained import Model
from tests.data.samples import decode_pyav
from tests.latent.runs import figures, make_run, refusal


def read_all(model: Model, shards: Path) -> tuple[np.ndarray, list[int]]:
    """Samples of both splits, sorted, and their labels."""
    data = model.config.data.model_copy(update={"shards": str(shards)})
    found = [
        next(validation_batches(data, split=split, batch=99, limit=None))
        for split in ("train", "validation")
    ]
    pixels = np.concatenate([batch.pixels.numpy() for batch in found])
    return pixels, torch.cat([batch.labels for batch in found]).tolist()


def test_images_are_those_of_sample_and_train_accepts_them(
    image_run: Path, model: Model, tmp_path, capsys
):
    shards = tmp_path / "made"
    told = figures(
        capsys, "sample", image_run, "--shards", shards, "--n", 23, "--batch", 5, "--seed", 7,
        "--truncation", 0.5, "--validation-fraction", 0.2, "--columns", 3, "--out", tmp_path,
        "--array",
    )  # fmt: skip
    assert (told["train"], told["validation"]) == (18, 5)
    wanted = to_uint8(model.decode(0.5 * model.noise(23, 7), from_prior=True))
    pixels, labels = read_all(model, shards)
    order = {x.tobytes(): n for n, x in enumerate(wanted)}
    assert sorted(order[x.tobytes()] for x in pixels) == list(range(23))
    assert set(labels) == {-1}
    assert np.array_equal(np.load(tmp_path / "samples.npy"), wanted[:9])
    assert figures(capsys, "data", "verify", shards)["problems"] == []
    words = ("--data.shards", shards, "--data.size", 16, "--out", tmp_path / "run", "--dry-run")
    figures(capsys, "train", "image_age_demo", *words)


def test_clips_are_packed_at_their_speed(clip_run: Path, tmp_path, capsys):
    shards = tmp_path / "made"
    figures(capsys, "sample", clip_run, "--shards", shards, "--n", 3, "--out", tmp_path)
    manifest = read_manifest(shards)
    assert (manifest.kind, manifest.fps, manifest.channels) == ("video", 25, 3)
    assert figures(capsys, "data", "verify", shards)["problems"] == []
    model = agehpc.load(clip_run)
    pixels, _ = read_all(model, shards)
    assert pixels.shape == (3, 3, 8, 16, 16)


def test_the_lossless_clip_keeps_every_pixel():
    x_CTHW = np.random.default_rng(0).integers(0, 256, (3, 5, 16, 18), dtype=np.uint8)
    seen_THWC = decode_pyav(lossless(x_CTHW, Fraction(30000, 1001)))
    assert np.array_equal(seen_THWC, x_CTHW.transpose(1, 2, 3, 0))


@pytest.fixture
def conditional(monkeypatch: pytest.MonkeyPatch) -> None:
    """A.G.E. runs that claim classes: G adds a brightness for each."""
    generate = Model.generate

    def by_class(self, z_BZ, labels_B=None, *, from_prior=False):
        shift = labels_B.float()[:, None, None, None]
        return generate(self, z_BZ, from_prior=from_prior) * 0.1 + shift * 0.8 - 0.4

    monkeypatch.setattr(Model, "conditional", True)
    monkeypatch.setattr(Model, "generate", by_class)


def test_classes_of_a_conditional_run_are_kept(
    image_run: Path, model: Model, conditional, tmp_path, capsys
):
    shards = tmp_path / "made"
    words = ("sample", image_run, "--shards", shards, "--n", 10, "--out", tmp_path)
    assert figures(capsys, *words)["classes"] == "dark, light"
    pixels, labels = read_all(model, shards)
    assert sorted(labels) == [0] * 5 + [1] * 5
    assert [int(x.mean() > 127) for x in pixels] == labels
    assert "already holds shards: add --overwrite" in refusal(capsys, *words)
    told = figures(capsys, *words, "--overwrite", "--label", "light")
    assert told["classes"] == "light"
    pixels, _ = read_all(model, shards)
    assert all(x.mean() > 127 for x in pixels)
    message = refusal(capsys, *words, "--overwrite", "--label", "grey")
    assert "--label grey: no such class; there are dark, light" in message


@pytest.mark.parametrize("prior", ["sphere", "mixture"])
def test_a_prior_without_a_middle_is_not_truncated(
    prior: str, image_shards: Path, tmp_path, capsys
):
    run = make_run(tmp_path / "run", image_shards, prior=prior)
    words = ("sample", run, "--n", 2, "--out", tmp_path)
    for more in ((), ("--dry-run",)):
        told = refusal(capsys, *words, "--truncation", 0.7, *more)
        assert f"prior {prior} never draws" in told
    with pytest.raises(UsageError, match="--truncation"):
        agehpc.load(run).sample(2, truncation=1.1)
    assert figures(capsys, *words, "--truncation", 1)["n"] == 2


def test_what_is_refused(image_run: Path, tmp_path, capsys):
    words = ("sample", image_run, "--out", tmp_path / "o")
    assert "does not generate by class" in refusal(capsys, *words, "--label", "dark")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("")
    assert "holds no shards" in refusal(capsys, *words, "--shards", tmp_path / "full")
    told = figures(capsys, *words, "--shards", tmp_path / "new", "--dry-run")
    assert told["shards"] == str(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "o").exists()
