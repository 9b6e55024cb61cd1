"""Settings of systems: told apart by name and game, and what follows from them."""

import importlib

import pytest
from pydantic import BaseModel, ValidationError

from agehpc.config import systems
from agehpc.config.schema import Config
from agehpc.config.systems import (
    AgeMomentsSystem,
    AgeSystem,
    AnySystem,
    AutoencoderSystem,
    CycleganSystem,
    DenoisingSystem,
    GanSystem,
    Pix2pixSystem,
    SystemConfig,
    VaeSystem,
    WganSystem,
)
from agehpc.recipes import RECIPES

KINDS = [
    kind
    for kind in vars(systems).values()
    if isinstance(kind, type) and issubclass(kind, SystemConfig) and kind.code
]
CHANGED = [
    AutoencoderSystem(reconstruction="l1", pixels="signed"),
    DenoisingSystem(corruption="masking", level=0.5, residual=True),
    VaeSystem(likelihood="gaussian", sigma=0.3, beta=2.0, kl_warmup_kimg=4.0),
    GanSystem(adversarial="hinge", augment=("cutout", "colour"), r1_gamma=1.0),
    WganSystem(n_critic=3, weight_clip=0.02),
    Pix2pixSystem(reconstruction_weight=1.0),
    CycleganSystem(pool=0, adversarial="hinge"),
    AgeSystem(encoder="vae", kl_weight=2.0, joint=True),
    AgeMomentsSystem(kl_form="legacy_age", encoder_turns=3),
]


class Holder(BaseModel):
    """Something that holds the settings of any system."""

    system: AnySystem


@pytest.mark.parametrize("settings", CHANGED, ids=lambda s: type(s).__name__)
def test_settings_survive_plain_values(settings: SystemConfig):
    held = Holder(system=settings)
    assert held.system is settings
    for again in (
        Holder.model_validate(held.model_dump()),
        Holder.model_validate_json(held.model_dump_json()),
    ):
        assert type(again.system) is type(settings)
        assert again.system == settings


def test_every_system_is_among_them():
    assert {type(settings) for settings in CHANGED} == set(KINDS)


def test_systems_of_one_name_are_told_apart_by_their_game():
    def kind(**values: str) -> type:
        return type(Holder.model_validate({"system": values}).system)

    assert kind(name="age", game="moments") is AgeMomentsSystem
    assert kind(name="age", game="discriminators") is AgeSystem
    assert kind(name="denoising") is DenoisingSystem
    assert kind(name="autoencoder") is AutoencoderSystem


def test_an_unknown_system_names_the_known_ones():
    with pytest.raises(ValidationError, match=r"unknown system 'gann'; there are age, autoencoder"):
        Holder.model_validate({"system": {"name": "gann"}})
    with pytest.raises(ValidationError, match="unknown system 'age'"):
        Holder.model_validate({"system": {"name": "age", "game": "chess"}})
    with pytest.raises(ValidationError, match="Extra inputs"):
        Holder.model_validate({"system": {"name": "gan", "pool": 5}})
    with pytest.raises(ValidationError):
        Holder.model_validate({"system": "gan"})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_code_is_where_it_is_said_to_be(kind: type[SystemConfig]):
    from agehpc.systems.base import System

    module, _, name = kind.code.partition(":")
    assert issubclass(getattr(importlib.import_module(module), name), System)
    assert kind.players
    assert set(kind.least_stages) <= set(kind.players)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_setting_is_explained(kind: type[SystemConfig]):
    for name, field in kind.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_batches_of_a_step():
    assert (GanSystem().batches, GanSystem().generator_batches) == (1, 1)
    wgan = WganSystem(n_critic=4)
    assert (wgan.batches, wgan.generator_batches) == (4, 1)
    for encoder, generator in ((1, 2), (3, 2), (1, 1)):
        moments = AgeMomentsSystem(encoder_turns=encoder, generator_turns=generator)
        assert moments.batches == max(encoder, generator)
        assert moments.generator_batches == generator


def test_a_joint_discriminator_takes_the_latent_ones_place():
    whole = ("encoder", "generator", "discriminator", "latent_discriminator")
    assert AgeSystem().wanted == (whole,)
    assert AgeSystem(joint=True).wanted == (whole[:3],)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_recipes_players_are_the_systems(recipe: str):
    config = RECIPES[recipe]()
    assert isinstance(config, Config)
    assert list(config.players) == list(config.system.players)
