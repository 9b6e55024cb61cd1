"""Every setting that belongs to a loss moves a gradient, and only where it should."""

from typing import Any

import pytest
import torch

from agehpc.config import systems
from agehpc.config.systems import (
    AgeMomentsSystem,
    AgeSystem,
    AutoencoderSystem,
    CycleganSystem,
    DenoisingSystem,
    GanSystem,
    Pix2pixSystem,
    SystemConfig,
    VaeSystem,
    WganSystem,
)
from tests.systems.scenes import Scene, config

Values = dict[str, Any]
# Of each system: settings to start from, what is changed, and the players who notice.
GAME: list[tuple[Values, Values, str]] = [
    ({}, {"adversarial": "hinge"}, "judge judged"),
    ({}, {"adversarial": "lsgan"}, "judge judged"),
    ({"r1_gamma": 1.0}, {"adversarial": "wasserstein"}, "judge judged"),
    ({"adversarial": "non_saturating"}, {"label_smoothing": 0.1}, "judge"),
    ({"adversarial": "lsgan"}, {"label_smoothing": 0.1}, "judge"),
    ({}, {"r1_gamma": 1.0}, "judge"),
    ({"r1_gamma": 1.0}, {"r1_every": 8}, "judge"),
    ({"r1_gamma": 1.0}, {"r1_form": "finite_difference"}, "judge"),
    ({"r1_gamma": 1.0, "r1_form": "finite_difference"}, {"r1_sigma": 0.5}, "judge"),
    ({}, {"gradient_penalty": 1.0}, "judge"),
    ({}, {"augment": ("colour",)}, "judge judged"),
    ({}, {"augment": ("translation",)}, "judge judged"),
    ({}, {"augment": ("cutout",)}, "judge judged"),
]
WGAN = [row for row in GAME if not ({"adversarial", "label_smoothing"} & {*row[0], *row[1]})]
ROWS: dict[type[SystemConfig], list[tuple[Values, Values, str]]] = {
    AutoencoderSystem: [
        ({}, {"reconstruction": "l1"}, "autoencoder"),
        ({}, {"reconstruction": "bce"}, "autoencoder"),
        ({}, {"pixels": "signed"}, "autoencoder"),
    ],
    DenoisingSystem: [
        ({}, {"reconstruction": "l1"}, "autoencoder"),
        ({}, {"pixels": "signed"}, "autoencoder"),
        ({}, {"corruption": "salt_and_pepper"}, "autoencoder"),
        ({}, {"corruption": "masking"}, "autoencoder"),
        ({"level": 2.0}, {"corruption": "lowres"}, "autoencoder"),
        ({}, {"level": 0.5}, "autoencoder"),
        ({}, {"residual": True}, "autoencoder"),
    ],
    VaeSystem: [
        ({}, {"likelihood": "gaussian"}, "autoencoder"),
        ({"likelihood": "gaussian"}, {"sigma": 0.3}, "autoencoder"),
        ({}, {"beta": 2.0}, "autoencoder"),
        ({}, {"beta": 0.0}, "autoencoder"),
        ({}, {"kl_warmup_kimg": 1.0}, "autoencoder"),
    ],
    GanSystem: GAME,
    WganSystem: [({"r1_gamma": 1.0}, {"gradient_penalty": 0.0}, "judge"), *WGAN],
    Pix2pixSystem: [
        *GAME,
        ({}, {"reconstruction_weight": 0.0}, "judged"),
        ({}, {"adversarial_weight": 0.0}, "judged"),
    ],
    CycleganSystem: [
        *(row for row in GAME if row[1] != {"adversarial": "lsgan"}),
        ({}, {"adversarial": "non_saturating"}, "judge judged"),
        ({}, {"cycle_weight": 0.0}, "judged"),
        ({}, {"identity_weight": 0.0}, "judged"),
        ({}, {"pool": 1}, "judge"),
    ],
    AgeSystem: [
        *GAME,
        ({}, {"reconstruction": "mse"}, "judged"),
        ({}, {"reconstruction_weight": 0.0}, "judged"),
        ({}, {"squared_weight": 1.0}, "judged"),
        ({"encoder": "vae"}, {"kl_weight": 1.0}, "judged"),
        ({"reconstruction_fake_weight": 1.0}, {"latent_noise": 0.5}, "judge judged"),
        ({}, {"latent_noise": 0.5}, "judged"),
        ({}, {"warmup_kimg": 1.0}, "judge judged"),
        ({}, {"adversarial_ramp_kimg": 1.0}, "judged"),
        ({}, {"adversarial_weight": 0.0}, "judged"),
        ({}, {"reconstruction_fake_weight": 1.0}, "judge judged"),
        ({}, {"feature_weight": 1.0}, "judged"),
        ({}, {"latent_adversarial_weight": 0.0}, "judged"),
        ({}, {"moment_weight": 0.0}, "judged"),
        ({}, {"latent_cycle_weight": 0.0}, "judged"),
        ({"joint": True}, {"adversarial_weight": 0.0}, "judged"),
        ({"joint": True}, {"feature_weight": 1.0}, "judged"),
        ({"joint": True}, {"reconstruction_fake_weight": 1.0}, "judge judged"),
    ],
    AgeMomentsSystem: [
        ({}, {"kl_form": "legacy_age"}, "encoder generator"),
        ({}, {"kl_reduction": "sum"}, "encoder generator"),
        ({}, {"kl_real_weight": 0.0}, "encoder"),
        ({}, {"kl_fake_weight": 0.0}, "encoder"),
        ({}, {"generator_kl_weight": 0.0}, "generator"),
        ({}, {"reconstruction": "mse"}, "encoder"),
        (
            {"generator_reconstruction_weight": 1.0},
            {"reconstruction": "mse"},
            "encoder generator",
        ),
        ({}, {"encoder_reconstruction_weight": 0.0}, "encoder"),
        ({}, {"generator_reconstruction_weight": 1.0}, "generator"),
        ({"encoder_cycle_weight": 1.0}, {"latent_distance": "cosine"}, "encoder generator"),
        ({}, {"encoder_cycle_weight": 1.0}, "encoder"),
        ({}, {"generator_cycle_weight": 0.0}, "generator"),
    ],
}
# Held elsewhere: who takes part, in which order, and bounds that no gradient knows of.
ELSEWHERE = {
    "name",
    "game",
    "encoder",  # tests/systems/test_age_variants.py
    "joint",
    "weight_clip",  # tests/systems/test_clipping.py
    "n_critic",  # tests/systems/test_turns.py
    "encoder_turns",
    "generator_turns",
}
CASES = [(kind, *row) for kind, rows in ROWS.items() for row in rows]


def name(case: Any) -> str:
    kind, start, change, _ = case
    told = " ".join(f"{key}={value}" for key, value in (start | change).items())
    return f"{kind.__name__.removesuffix('System')} {told}"


def gradients(kind: type[SystemConfig], values: Values) -> dict[str, torch.Tensor]:
    """All of a player's slopes in its first turn, as one vector."""
    system = kind(**values)
    output = "sigmoid" if kind in (AutoencoderSystem, VaeSystem) else "tanh"
    # No batch statistics in judges: a gradient penalty may come or go.
    scene = Scene(config(system, norm="instance", output=output))
    found: dict[str, torch.Tensor] = {}
    for taken in scene.run():
        slopes = [slope.flatten() for slope in taken.gradients.values() if slope is not None]
        found.setdefault(taken.player, torch.cat(slopes))
    return found


@pytest.mark.parametrize(("kind", "start", "change", "who"), CASES, ids=map(name, CASES))
def test_a_setting_moves_the_right_gradients(
    kind: type[SystemConfig], start: Values, change: Values, who: str
):
    before, after = gradients(kind, start), gradients(kind, start | change)
    least = kind().least_stages
    roles = {player: "judge" if player in least else "judged" for player in kind.players}
    noticed = {p for p, role in roles.items() if {p, role} & set(who.split())}
    for player, slope in before.items():
        size = slope.norm()
        assert size > 0
        moved = (after[player] - slope).norm() / size
        if player in noticed:
            assert moved > 1e-5, (player, moved)
        else:
            assert moved == 0, (player, moved)


@pytest.mark.parametrize("kind", ROWS, ids=lambda kind: kind.__name__)
def test_no_setting_is_left_out(kind: type[SystemConfig]):
    changed = {key for _, change, _ in ROWS[kind] for key in change}
    wanted = set(kind.model_fields) - ELSEWHERE
    if kind is WganSystem:  # it has one loss, without a target
        wanted -= {"adversarial", "label_smoothing"}
    assert changed == wanted


def test_no_system_is_left_out():
    ours = {
        kind
        for kind in vars(systems).values()
        if isinstance(kind, type) and issubclass(kind, SystemConfig) and kind.code
    }
    assert ours == set(ROWS)
