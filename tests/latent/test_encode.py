"""`agehpc encode`: a split's latents in files."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import agehpc
from agehpc.cli import main
from agehpc.data.loader import validation_batches
from agehpc.data.pixels import to_float
from agehpc.errors import DataError
from agehpc.latent.codes import Codes, Origin, save_npz
from agehpc.latent.command import SplitFlags, split_data
from agehpc.latent.encode import moments_match
from agehpc.trained import Model
from tests.latent.runs import CLASSES, LATENT, SIZE, figures, refusal


def test_npz_holds_every_latent_with_its_label(image_run: Path, tmp_path, capsys):
    told = figures(
        capsys, "encode", image_run, "--out", tmp_path / "a.npz", "--split", "train", "--batch", 5
    )
    model = agehpc.load(image_run)
    batch = next(validation_batches(model.config.data, split="train", batch=100, limit=None))
    with np.load(tmp_path / "a.npz") as file:
        latents = file["latents"]
        assert latents.dtype == np.float32
        assert latents.shape == (told["n"], LATENT)
        assert file["labels"].tolist() == batch.labels.tolist()
        assert set(file["labels"]) == {0, 1}
        assert file["positions"].tolist() == list(range(told["n"]))
        assert tuple(file["classes"]) == CLASSES
        assert str(file["split"]) == "train"
    wanted = model.encode(to_float(batch.pixels))
    torch.testing.assert_close(torch.from_numpy(latents), wanted)
    assert told["latent"] == LATENT
    assert told["mean"] == pytest.approx(float(latents.mean()), abs=1e-6)


def test_distance_of_the_moments():
    z_NZ = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32) * 2 + 1
    z = z_NZ.astype(np.float64)
    wanted = (z.mean(0) ** 2 + (z.var(0) - 1) ** 2).mean()
    assert moments_match(z_NZ, "gaussian")["moment_distance"] == pytest.approx(wanted)
    wanted = (z.mean(0) ** 2 + (z.var(0) - 1 / 3) ** 2).mean()
    assert moments_match(z_NZ, "uniform")["moment_distance"] == pytest.approx(wanted)


def test_parquet_holds_the_same(image_run: Path, tmp_path, capsys):
    parquet = pytest.importorskip("pyarrow.parquet")
    figures(capsys, "encode", image_run, "--out", tmp_path / "a.npz")
    figures(capsys, "encode", image_run, "--out", tmp_path / "a.parquet")
    table = parquet.read_table(tmp_path / "a.parquet")
    with np.load(tmp_path / "a.npz") as file:
        assert np.array_equal(np.array(table["latent"].to_pylist(), np.float32), file["latents"])
        assert table["label"].to_pylist() == file["labels"].tolist()
        names = [CLASSES[label] for label in file["labels"]]
    assert table["class"].to_pylist() == names
    assert table.schema.metadata[b"split"] == b"validation"


def test_parquet_without_its_library_is_refused(image_run: Path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    message = refusal(capsys, "encode", image_run, "--format", "parquet")
    assert "pip install 'agehpc[parquet]'" in message


def test_clips_default_path_and_limits(clip_run: Path, tmp_path, capsys):
    told = figures(capsys, "encode", clip_run, "--n", 2)
    assert told["paths"] == [str(clip_run / "latents-validation.npz")]
    assert told["n"] == 2
    told = figures(capsys, "encode", clip_run, "--dry-run", "--out", tmp_path / "no.npz")
    assert told["would_write_to"] == str(tmp_path / "no.npz")
    assert not (tmp_path / "no.npz").exists()


def test_what_cannot_be_encoded(image_run: Path, tmp_path, monkeypatch, capsys):
    assert "does not say the format" in refusal(capsys, "encode", image_run, "--out", "a.csv")
    assert "no folder of shards" in refusal(capsys, "encode", image_run, "--shards", tmp_path / "x")
    assert "is no run directory" in refusal(capsys, "encode", tmp_path)
    assert "name a run directory first" in refusal(capsys, "encode", "--n", 3)
    monkeypatch.setattr("agehpc.trained.Model.can", lambda self, use: use != "encode")
    assert "has no encoder: it cannot encode; use a run of age" in refusal(
        capsys, "encode", image_run
    )


def test_an_empty_split_is_refused(image_run: Path, image_shards: Path, tmp_path, capsys):
    source = image_shards.parent / "source"
    words = ["--size", "16", "--validation-fraction", "0"]
    figures(capsys, "data", "pack", source, tmp_path / "all", *words)
    message = refusal(capsys, "encode", image_run, "--shards", tmp_path / "all")
    assert "the validation split of" in message
    assert "is empty; use --split train" in message


def test_a_conditional_run_meets_no_other_classes(
    image_run: Path, image_shards: Path, model: Model, monkeypatch, tmp_path, capsys
):
    """Numbers of classes mean what the shards that they come from say."""
    by_class = model.config.model.model_copy(update={"conditional": True})
    config = model.config.model_copy(update={"model": by_class})
    own, other = (SplitFlags(shards=str(s)) for s in (image_shards, swapped(tmp_path)))
    assert split_data(config, own).classes == ("dark", "light")
    with pytest.raises(DataError, match=r"knows the classes dark, light, and .* has dim, shining"):
        split_data(config, other)
    assert split_data(model.config, other).classes == ("dim", "shining")
    origin = Origin(("light", "dark"), "validation", "d")
    codes = Codes(np.zeros((2, LATENT), np.float32), np.zeros(2, int), np.arange(2), origin)
    save_npz(tmp_path / "z.npz", codes)
    words = ("interpolate", image_run, "--latents", tmp_path / "z.npz", "--out", tmp_path)
    monkeypatch.setattr(Model, "conditional", True)
    assert "z.npz has light, dark" in refusal(capsys, *words)


def swapped(folder: Path) -> Path:
    """Shards of other classes."""
    for name in ("dim", "shining"):
        for n in range(4):
            path = folder / "source" / name / f"{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((SIZE, SIZE), n, np.uint8)).save(path)
    words = ["--size", str(SIZE), "--validation-fraction", "0.5"]
    assert main(["data", "pack", str(folder / "source"), str(folder / "shards"), *words]) == 0
    return folder / "shards"
