"""Settings of networks: kinds, sections left out, and what files and flags make of them."""

import pytest
from pydantic import ValidationError

from agehpc.config import load as loading
from agehpc.config.load import load, resolve
from agehpc.config.run_files import read_run_config, write_run_config
from agehpc.config.schema import (
    Config,
    DataConfig,
    DenseConfig,
    LatentNetworkConfig,
    ModelConfig,
    NetworkConfig,
    PatchConfig,
    PlayerConfig,
    ResnetConfig,
    RunConfig,
    Section,
    UnetConfig,
)
from agehpc.config.tree import is_fixed, leaves, optional_sections
from agehpc.errors import ConfigError, UsageError
from tests.free import FreeSystem

MODELS = [
    ModelConfig(),
    ModelConfig(encoder=DenseConfig(), generator=NetworkConfig(base_width=8, kernel=5)),
    ModelConfig(encoder=DenseConfig(hidden=(), normed=(0,)), discriminator=PatchConfig()),
    ModelConfig(translator=UnetConfig(), latent_discriminator=LatentNetworkConfig()),
    ModelConfig(translator=ResnetConfig(blocks=9), discriminator=DenseConfig(hidden=(3,))),
]


class NoFlags(Section):
    """No flags."""


def config(model: ModelConfig) -> Config:
    return Config(
        run=RunConfig(recipe="dense"),
        data=DataConfig(kind="image", size=28, frames=1),
        system=FreeSystem(),
        model=model,
        players={"autoencoder": PlayerConfig(), "critics": PlayerConfig()},
    )


@pytest.fixture
def dense(monkeypatch: pytest.MonkeyPatch) -> Config:
    """A recipe with two dense networks and no others."""

    def recipe() -> Config:
        """Dense networks."""
        return config(MODELS[1].model_copy(update={"generator": DenseConfig(norm="batch")}))

    monkeypatch.setattr(loading, "RECIPES", {"dense": recipe})
    monkeypatch.setattr(loading, "summary", lambda name: "Dense networks.")
    return recipe()


@pytest.mark.parametrize("model", MODELS)
def test_a_run_keeps_its_networks_and_their_absence(tmp_path, model: ModelConfig):
    write_run_config(tmp_path, config(model))
    text = (tmp_path / "config.yaml").read_text()
    assert "  translator: null\n" in text or model.translator is not None
    assert read_run_config(tmp_path) == config(model)


@pytest.mark.parametrize("model", MODELS)
def test_a_section_left_out_has_no_leaves(model: ModelConfig):
    keys = leaves(config(model))
    for name, there in optional_sections(config(model)).items():
        assert name not in keys
        assert any(key.startswith(f"{name}.") for key in keys) == there
        assert is_fixed(f"{name}.kind")
    assert "model.base_frames" in keys
    assert not is_fixed("data.kind")


def test_a_runs_file_serves_as_the_file_of_its_recipe(tmp_path, dense: Config):
    write_run_config(tmp_path, dense)
    again, sources = resolve("dense", str(tmp_path / "config.yaml"))
    assert again == dense
    assert sources["model.translator"] == "recipe dense"
    assert sources["model.encoder.hidden"].startswith("file ")


def test_flags_of_networks(dense: Config):
    flags = ["--model.encoder.hidden", "30", "20", "--model.generator.hidden"]
    flags += ["--model.generator.normed", "0", "--model.encoder.normed", "0", "2"]
    model = load(["dense", *flags], prog="agehpc x", extra=NoFlags).config.model
    assert isinstance(model.encoder, DenseConfig)
    assert isinstance(model.generator, DenseConfig)
    assert (model.encoder.hidden, model.generator.hidden) == ((30, 20), ())
    assert (model.encoder.normed, model.generator.normed) == ((0, 2), (0,))
    flags = ["--model.encoder.normed", "none"]
    model = load(["dense", *flags], prog="agehpc x", extra=NoFlags).config.model
    assert isinstance(model.encoder, DenseConfig)
    assert model.encoder.normed is None


@pytest.mark.parametrize("flag", ["--model.encoder.kind", "--model.translator", "--model.encoder"])
def test_no_flag_makes_or_changes_a_network(dense: Config, flag: str):
    with pytest.raises(UsageError, match=f"unknown flag {flag}"):
        load(["dense", flag, "conv"], prog="agehpc x", extra=NoFlags)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("encoder: {kind: conv}", "model.encoder.kind is 'conv', but the recipe's is 'dense'"),
        ("encoder: null", "model.encoder is null, but the recipe has one; drop the line"),
        ("translator: {kind: unet}", "translator.kind is set, but the recipe has no model.transl"),
        ("translator: 3", "model.translator is set, but the recipe has no model.translator"),
        ("encoder: 3", "model.encoder holds settings, got 3"),
        ("encoder: {hiden: [3]}", "unknown key model.encoder.hiden; did you mean model.encoder.h"),
        ("encoder: {hidden: [0]}", "model.encoder.hidden: got [0]; expected a value greater than"),
    ],
)
def test_no_file_makes_or_changes_a_network(tmp_path, dense: Config, text: str, message: str):
    file = tmp_path / "f.yaml"
    file.write_text(f"model: {{{text}}}\n")
    with pytest.raises(ConfigError) as error:
        resolve("dense", str(file))
    assert str(error.value).startswith(f"{file}: ")
    assert message in str(error.value)


def test_a_file_may_say_that_a_network_is_not_there(tmp_path, dense: Config):
    file = tmp_path / "f.yaml"
    file.write_text("model: {translator: null}\n")
    assert resolve("dense", str(file))[0] == dense


def test_kernels_are_whole_numbers_from_a_flag_too():
    config, _ = resolve("video_age_64", None, {"model.encoder.kernel": ("5",)})
    assert isinstance(config.model.encoder, NetworkConfig)
    assert config.model.encoder.kernel == 5
    with pytest.raises(ConfigError, match=r"--model.encoder.kernel: got '6'"):
        resolve("video_age_64", None, {"model.encoder.kernel": ("6",)})


def test_layers_that_are_not_there_have_no_norm():
    with pytest.raises(ValidationError, match="normed names layer 3, but with 2 hidden layers"):
        DenseConfig(hidden=(4, 4), norm="batch", normed=(0, 3))
    net = DenseConfig(hidden=(4, 4), norm="batch", normed=(0, 2))
    assert net.normed_layers == {0, 2}
    assert DenseConfig(hidden=(4, 4), norm="batch").normed_layers == {0, 1}
    assert not DenseConfig(hidden=(4, 4), normed=(0,)).normed_layers
    ModelConfig(generator=net)
    with pytest.raises(ValidationError, match=r"discriminator.normed 2 is the layer of the logit"):
        ModelConfig(discriminator=net)
