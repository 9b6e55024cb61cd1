"""Spaces: what a file says, what is drawn from it, and every mistake in one."""

import random
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agehpc.config.load import load, resolve
from agehpc.config.schema import Config, Section
from agehpc.errors import ConfigError
from agehpc_tune.parameters import Parameter
from agehpc_tune.spaces import Space, configured
from tests.test_imports import ROOT

optuna = pytest.importorskip("optuna")

BASE = resolve("image_age_demo")[0]
LR = "players.autoencoder.optim.lr"
GAME, SMOOTHING = "system.adversarial", "system.label_smoothing"


def space(entries: object, tmp_path: Path, base: Config = BASE) -> Space:
    path = tmp_path / "space.yaml"
    path.write_text(
        entries if isinstance(entries, str) else yaml.safe_dump(entries, sort_keys=False)
    )
    return Space.load(path, base)


MIXED = f"""
{SMOOTHING}: {{uniform: [0, 0.2], when: {{{GAME}: [non_saturating, lsgan]}}}}
{LR}: {{log_uniform: [1e-4, 3e-3]}}
{GAME}: {{choice: [non_saturating, hinge, lsgan]}}
model.latent: {{log_integer: [8, 64]}}
players.critics.optim.betas: {{choice: [[0, 0.99], [0.5, 0.999]]}}
train.micro_batch: {{choice: [null, 32]}}
data.flip: {{choice: [true, false]}}
players.critics.clip: {{uniform: [0, 5], points: 2}}
"""


def drawn(space: Space, count: int = 200) -> list[dict]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(3))
    return [space.suggest(study.ask()) for _ in range(count)]


@pytest.fixture(autouse=True, scope="module")
def quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_draws_are_of_the_ranges_and_conditions(tmp_path: Path):
    mixed = space(MIXED, tmp_path)
    points = drawn(mixed)
    for values in points:
        assert (SMOOTHING in values) == (values[GAME] != "hinge")
        assert 1e-4 <= values[LR] <= 3e-3
        assert 0 <= values.get(SMOOTHING, 0) <= 0.2
        assert type(values["model.latent"]) is int
        assert 8 <= values["model.latent"] <= 64
    # Half of a logarithmic range lies below its geometric mean.
    low = sum(values[LR] < (1e-4 * 3e-3) ** 0.5 for values in points)
    assert 70 < low < 130
    small = sum(values["model.latent"] < 23 for values in points)
    assert 70 < small < 130
    for key, options in {
        GAME: {"non_saturating", "hinge", "lsgan"},
        "players.critics.optim.betas": {(0.0, 0.99), (0.5, 0.999)},
        "train.micro_batch": {None, 32},
        "data.flip": {True, False},
    }.items():
        assert {values[key] for values in points} == options


def test_values_reach_the_configuration_alike_by_tree_and_by_flags(tmp_path: Path):
    mixed = space(MIXED, tmp_path)
    for values in drawn(mixed, 12):
        flags = mixed.flags(values)
        loaded = load(["image_age_demo", *flags], prog="agehpc train", extra=Section)
        assert loaded.config == configured(BASE, values)
        assert loaded.config.players["autoencoder"].optim.lr == values[LR]


def test_description_makes_the_same_space(tmp_path: Path):
    mixed = space(MIXED, tmp_path)
    again = space(mixed.describe(), tmp_path)
    assert again == mixed
    assert drawn(again, 20) == drawn(mixed, 20)


def test_grid(tmp_path: Path):
    entries = f"""
{LR}: {{log_uniform: [1e-4, 1e-2]}}
{GAME}: {{choice: [hinge, lsgan]}}
{SMOOTHING}: {{uniform: [0.0, 0.2], points: 2, when: {{{GAME}: lsgan}}}}
"""
    points = space(entries, tmp_path).grid()
    assert [point[LR] for point in points] == pytest.approx([1e-4] * 3 + [1e-3] * 3 + [1e-2] * 3)
    rest = [(point[GAME], point.get(SMOOTHING)) for point in points]
    assert rest == [("hinge", None), ("lsgan", 0.0), ("lsgan", 0.2)] * 3
    few = space("model.latent: {integer: [8, 9], points: 5}", tmp_path)
    assert few.grid() == [{"model.latent": 8}, {"model.latent": 9}]


def test_parameters_stand_behind_their_conditions(tmp_path: Path):
    entries = """
system.r1_sigma: {log_uniform: [0.001, 0.1], when: {system.r1_form: finite_difference}}
system.r1_form: {choice: [exact, finite_difference], when: {system.r1_every: [8, 16]}}
system.r1_every: {integer: [7, 16]}
"""
    keys = space(entries, tmp_path).keys
    assert keys == ("system.r1_every", "system.r1_form", "system.r1_sigma")


@given(
    low=st.floats(1e-6, 1e3),
    ratio=st.floats(1.001, 1e6),
    kind=st.sampled_from(["uniform", "log_uniform"]),
    place=st.floats(0, 1),
)
def test_places_of_a_range(low: float, ratio: float, kind, place: float):
    one = Parameter("x", kind, (low, low * ratio))
    assert one.from_unit(0.0) == pytest.approx(low)
    assert one.from_unit(1.0) == pytest.approx(low * ratio)
    value = one.from_unit(place)
    assert one.holds(value)
    assert one.to_unit(value) == pytest.approx(place, abs=1e-6)


WRONG = {
    "players.autoencoder.optim.lrr: {uniform: [0, 1]}": (
        "unknown key players.autoencoder.optim.lrr; did you mean players.autoencoder.optim.lr?"
    ),
    "players.autoencoder.optim: {uniform: [0, 1]}": "holds settings; name one",
    "system.name: {choice: [age, gan]}": "decided by the recipe",
    "model.encoder.kind: {choice: [conv, dense]}": "decided by the recipe",
    f"{LR}: {{uniform: [0.1, 0.1]}}": "uniform [0.1, 0.1] is empty",
    f"{LR}: {{uniform: [0.2, 0.1]}}": "uniform [0.2, 0.1] is empty",
    f"{LR}: {{uniform: [0, 0.1]}}": f"{LR}: got 0; expected a value greater than 0",
    f"{LR}: {{log_uniform: [0, 0.1]}}": "starts at 0, which has no logarithm",
    f"{LR}: {{uniform: [0.1]}}": "takes [low, high], got 1 values",
    f"{LR}: {{uniform: [a, b]}}": "takes numbers, got 'a'",
    f"{LR}: {{uniform: [0.1, .inf]}}": "takes numbers, got inf",
    f"{LR}: {{choice: []}}": "choice takes a list, got []",
    f"{LR}: {{choice: [0.1, 0.1]}}": "choice holds 0.1 twice",
    f"{LR}: {{choice: [0.1, fast]}}": f"{LR}: got 'fast'; expected a number",
    f"{LR}: {{log: [0.1, 0.2]}}": "unknown word log",
    f"{LR}: {{uniform: [0.1, 0.2], choice: [0.1]}}": "got uniform and choice",
    f"{LR}: {{points: 2}}": "takes one of uniform,",
    f"{LR}: {{uniform: [0.1, 0.2], points: 0}}": "points is a whole number",
    f"{LR}: 0.1": "say how it is searched",
    "model.latent: {uniform: [8, 64]}": "holds whole numbers: use integer",
    "model.latent: {log_uniform: [8, 64]}": "holds whole numbers: use log_integer",
    "model.latent: {integer: [0, 64]}": "greater than or equal to 1",
    "model.latent: {integer: [8.5, 64]}": "takes whole numbers, got 8.5",
    f"{GAME}: {{choice: [hinge, hing]}}": "expected 'non_saturating', 'hinge'",
    f"{LR}: {{uniform: [0.1, 0.2], when: {{{GAME}: hinge}}}}": f"does not search {GAME}",
    f"{LR}: {{uniform: [0.1, 0.2], when: {GAME}}}": "when takes `KEY: VALUES`",
    f"{LR}: {{uniform: [0.1, 0.2], when: {{{LR}: 0.1}}}}": "not uniform",
    f"{GAME}: {{choice: [hinge], when: {{{GAME}: hinge}}}}": f"circle: {GAME} -> {GAME}",
    f"{GAME}: {{choice: [hinge, lsgan]}}\n{LR}: {{uniform: [0.1, 0.2], when: {{{GAME}: x}}}}": (
        'x is none of its values, choice ["hinge", "lsgan"]'
    ),
    f"{GAME}: {{choice: [hinge, lsgan]}}\n{LR}: {{uniform: [0.1, 0.2], when: {{{GAME}: []}}}}": (
        "names no value"
    ),
    "data.flip: {choice: [true], when: {system.joint: true}}\n"
    "system.joint: {choice: [true, false], when: {data.flip: true}}": (
        "circle: data.flip -> system.joint -> data.flip"
    ),
    f"{GAME}: {{choice: [hinge, lsgan]}}\n"
    f"system.joint: {{choice: [false], when: {{{GAME}: hinge}}}}\n"
    f"{LR}: {{uniform: [0.1, 0.2], when: {{{GAME}: lsgan, system.joint: false}}}}": (
        f"{LR} never counts"
    ),
    "": "searches nothing",
}


@pytest.mark.parametrize(("text", "told"), WRONG.items(), ids=range(len(WRONG)))
def test_mistakes(text: str, told: str, tmp_path: Path):
    with pytest.raises(ConfigError) as error:
        space(text, tmp_path)
    assert told in str(error.value)
    assert "space.yaml" in str(error.value)


def test_values_that_no_run_can_have_together(tmp_path: Path):
    together = f"""
{GAME}: {{choice: [hinge, lsgan]}}
{SMOOTHING}: {{uniform: [0.1, 0.2]}}
"""
    with pytest.raises(ConfigError, match=r"no run can have system.adversarial hinge.*to smooth"):
        space(together, tmp_path)
    apart = together.replace("0.2]", f"0.2], when: {{{GAME}: lsgan}}")
    assert space(apart, tmp_path).keys == (GAME, SMOOTHING)


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("image_age", "image_age_demo"),
        ("image_age", "image_age_64"),
        ("image_age", "image_age_a100_4n"),
        ("video_age", "video_age_demo"),
        ("video_age", "video_age_64"),
        ("video_age", "video_age_a100_4n"),
        ("gan", "dcgan_64"),
        ("gan", "conditional_gan_64"),
        ("gan", "video_gan_64"),
    ],
)
def test_the_spaces_there_are(name: str, recipe: str):
    found = Space.load(ROOT / f"tune/spaces/{name}.yaml", resolve(recipe)[0])
    base = configured(resolve(recipe)[0], {})
    for values in random.Random(0).sample(drawn(found, 30), 10):
        assert configured(base, values) != base
