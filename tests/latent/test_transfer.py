"""Mixing latents against plain arithmetic; translation through a stand-in."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import agehpc
from agehpc.data.loader import Batch, samples_at
from agehpc.data.pixels import to_float
from agehpc.evaluate.reconstruction import psnr
from agehpc.latent.directions import principal_components
from agehpc.latent.transfer import choose, mix
from agehpc.observe.grids import to_uint8
from agehpc.trained import Model
from tests.latent.runs import figures, refusal


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_dimensions_are_taken_from_the_style():
    content, style = normal(0, 2, 5), normal(1, 3, 5)
    z_ABZ = mix(content, style, choose(5, 0.4, "last"))
    for a in range(2):
        for b in range(3):
            assert z_ABZ[a, b].tolist() == [*content[a, :3].tolist(), *style[b, 3:].tolist()]
    assert choose(5, 0.01, "first").tolist() == [True, False, False, False, False]


def test_components_are_taken_from_the_style():
    components = principal_components(normal(2, 50, 5).numpy() * np.arange(1, 6, dtype=np.float32))
    content, style = normal(0, 2, 5), normal(1, 3, 5)
    chosen_Z = choose(5, 0.4, "first")
    z_ABZ = mix(content, style, chosen_Z, components).double().numpy()

    def coordinates(z):
        return (np.asarray(z, np.float64) - components.mean_Z) @ components.axes_ZZ.T

    for a in range(2):
        for b in range(3):
            wanted = np.where(chosen_Z, coordinates(style[b]), coordinates(content[a]))
            np.testing.assert_allclose(coordinates(z_ABZ[a, b]), wanted, atol=1e-5)
    everything = mix(content, style, np.ones(5, bool), components)
    torch.testing.assert_close(everything, style.expand(2, 3, 5))


def test_the_grid_has_contents_in_rows_and_styles_in_columns(image_run: Path, tmp_path, capsys):
    told = figures(
        capsys, "transfer", image_run, "--content", 3, 0, "--style", 1, 2, 4, "--share", 0.5,
        "--basis", "dimensions", "--out", tmp_path,
    )  # fmt: skip
    assert told["coordinates"] == 3
    model = agehpc.load(image_run)
    x = samples_at(model.config.data, split="validation", positions=[3, 0, 1, 2, 4]).pixels
    z = model.encode(to_float(x))
    picture = np.asarray(Image.open(tmp_path / "transfer.png")).astype(int)
    assert picture.shape == (3 * 18 - 2, 4 * 18 - 2)
    assert (picture[:16, :16] == 255).all()

    def cell(row, column):
        return picture[row * 18 : row * 18 + 16, column * 18 : column * 18 + 16]

    for a in range(2):
        assert (cell(a + 1, 0) == x[a, 0].numpy()).all()
        for b in range(3):
            assert (cell(0, b + 1) == x[2 + b, 0].numpy()).all()
            mixed = torch.cat([z[2 + b, :3], z[a, 3:]])[None]
            y = to_uint8(model.decode(mixed))[0, 0]
            assert np.abs(cell(a + 1, b + 1) - y).max() <= 1


def test_clips_are_mixed(clip_run: Path, tmp_path, capsys):
    told = figures(
        capsys, "transfer", clip_run, "--content", 0, "--style", 1, "--share", 1, "--out", tmp_path
    )
    assert told["variance_share"] == pytest.approx(1)
    assert {Path(p).suffix for p in told["paths"]} == {".mp4", ".png"}


@pytest.fixture
def translating(monkeypatch: pytest.MonkeyPatch, model: Model) -> None:
    """A.G.E. runs that claim to translate: output is the negative of the input."""
    monkeypatch.setattr(Model, "can", lambda self, use: use == "translate")

    def translate(self, x_BCS, *, to=None):  # there and back is not quite x
        return -x_BCS if to is None else x_BCS * (0.5 if to == "dark" else 1.5)

    monkeypatch.setattr(Model, "translate", translate)


def with_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches whose second image is their first, darker."""
    from agehpc.latent import command

    plain = command.split_batches

    def batches(data, flags):
        for b in plain(data, flags):
            yield Batch(b.pixels, b.labels, b.positions, b.pixels // 2)

    monkeypatch.setattr(command, "split_batches", batches)


def test_pairs_are_translated_and_compared(
    image_run: Path, model: Model, translating, monkeypatch, tmp_path, capsys
):
    with_second(monkeypatch)
    told = figures(
        capsys, "transfer", image_run, "--n", 5, "--batch", 2, "--columns", 3, "--out", tmp_path
    )
    batch = samples_at(model.config.data, split="validation", positions=range(5))
    made = 255 - batch.pixels.numpy() // 2
    assert told["psnr_db"] == pytest.approx(psnr(made, batch.pixels.numpy()).mean())
    assert told["n"] == 5
    picture = np.asarray(Image.open(tmp_path / "validation-translation.png"))
    assert picture.shape == (3 * 18 - 2, 3 * 18 - 2)
    assert (picture[:16, :16] == batch.pixels[0, 0].numpy() // 2).all()
    assert (picture[18:34, :16] == made[0, 0]).all()
    assert (picture[36:, :16] == batch.pixels[0, 0].numpy()).all()
    assert "run translates pairs" in refusal(capsys, "transfer", image_run, "--to", "light")


def test_domains_are_chosen_by_name(
    image_run: Path, model: Model, translating, monkeypatch, tmp_path, capsys
):
    from agehpc.latent import command

    with_second(monkeypatch)
    plain = command.split_data

    unpaired = {"pairing": "unpaired", "domains": ("dark", "light")}

    def with_domains(config, flags):
        return plain(config, flags).model_copy(update=unpaired)

    monkeypatch.setattr(command, "split_data", with_domains)
    data = model.config.data.model_copy(update=unpaired)
    x = samples_at(data, split="validation", positions=[0]).pixels[0, 0].numpy()
    for to, source in (("light", x), ("dark", x // 2)):
        words = ("transfer", image_run, "--n", 1, "--to", to, "--out", tmp_path)
        told = figures(capsys, *words)
        assert "psnr_db" not in told
        back = to_uint8(0.75 * to_float(torch.from_numpy(source)))
        assert told["cycle_psnr_db"] == pytest.approx(psnr(back[None], source[None])[0])
        picture = np.asarray(Image.open(tmp_path / f"validation-translation-{to}.png"))
        assert (picture[:16] == source).all()
        assert (picture[36:] == back).all()
    for words, what in (((), "which"), (("--to", "grey"), "grey is none of the run's")):
        message = refusal(capsys, "transfer", image_run, *words)
        assert f"--to: {what}; choose from the domains dark and light" in message
    monkeypatch.setattr(command, "split_batches", lambda data, flags: iter(()))
    message = refusal(capsys, "transfer", image_run, "--to", "light")
    assert "samples of one of the domains dark and light alone" in message


def test_what_cannot_be_transferred(image_run: Path, translating, capsys):
    assert "holds no pairs and no second domain" in refusal(capsys, "transfer", image_run)


def test_a_run_with_latents_has_no_domains(image_run: Path, capsys):
    assert "has no translator" in refusal(capsys, "transfer", image_run, "--to", "light")
    assert "each name at least one" in refusal(capsys, "transfer", image_run, "--content")
    assert "no sample 12 in" in refusal(capsys, "transfer", image_run, "--style", 12)
