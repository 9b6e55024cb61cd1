"""The game of moments: losses and gradients of both turns against the formulas of 2017."""

from typing import Any

import pytest
import torch
from torch import Tensor

from agehpc.config.systems import AgeMomentsSystem
from agehpc.models.blocks import DATA, PRIOR
from tests.systems import formulas
from tests.systems.scenes import Scene, check, config

ALL_WEIGHTS: dict[str, Any] = {
    "kl_real_weight": 1.5,
    "kl_fake_weight": 0.5,
    "generator_kl_weight": 2.0,
    "encoder_reconstruction_weight": 3.0,
    "generator_reconstruction_weight": 4.0,
    "encoder_cycle_weight": 0.7,
    "generator_cycle_weight": 1.3,
}
NO_WEIGHTS = dict.fromkeys(
    (
        "encoder_reconstruction_weight",
        "generator_reconstruction_weight",
        "encoder_cycle_weight",
        "generator_cycle_weight",
    ),
    0.0,
)
FORMS = [
    {"kl_form": form, "kl_reduction": reduction}
    for form in ("exact", "legacy_age")
    for reduction in ("sum", "mean")
]
DISTANCES = [
    {"latent_distance": latent, "reconstruction": samples}
    for latent in ("cosine", "mse")
    for samples in ("l1", "mse")
]


def encoded(scene: Scene, players: dict[str, Any], x: Tensor, bank: int) -> Tensor:
    z = players["encoder"].encoder(x, bank)
    return formulas.on_sphere(z) if scene.config.model.prior == "sphere" else z


def cycle(scene: Scene, found: Tensor, z: Tensor) -> Tensor:
    if scene.settings.latent_distance == "mse":
        return formulas.distance("mse", found, z)
    each = [1 - f @ w / (f.norm() * w.norm()) for f, w in zip(found, z, strict=True)]
    return torch.stack(each).mean()


def encoder(scene: Scene, players: dict[str, Any]) -> Tensor:
    """KL(E(x)) - KL(E(G(z))) + |G(E(x)) - x| + d(E(G(z)), z); G stands still."""
    s, micro, g = scene.settings, scene.micro, players["generator"].generator
    with torch.no_grad():
        fake = g(micro.z, PRIOR)
    real, found = (encoded(scene, players, *given) for given in ((micro.x, DATA), (fake, PRIOR)))
    loss = s.kl_real_weight * formulas.divergence(real, s.kl_form, s.kl_reduction)
    loss = loss - s.kl_fake_weight * formulas.divergence(found, s.kl_form, s.kl_reduction)
    rebuilt = formulas.distance(s.reconstruction, g(real, DATA), micro.x)
    loss = loss + s.encoder_reconstruction_weight * rebuilt
    return loss + s.encoder_cycle_weight * cycle(scene, found, micro.z)


def generator(scene: Scene, players: dict[str, Any]) -> Tensor:
    """KL(E(G(z))) + d(E(G(z)), z) + |G(E(x)) - x|; E stands still."""
    s, micro, g = scene.settings, scene.micro, players["generator"].generator
    found = encoded(scene, players, g(micro.z, PRIOR), PRIOR)
    loss = s.generator_kl_weight * formulas.divergence(found, s.kl_form, s.kl_reduction)
    loss = loss + s.generator_cycle_weight * cycle(scene, found, micro.z)
    with torch.no_grad():
        latent = encoded(scene, players, micro.x, DATA)
    rebuilt = formulas.distance(s.reconstruction, g(latent, DATA), micro.x)
    return loss + s.generator_reconstruction_weight * rebuilt


def hold(scene: Scene) -> None:
    check(scene, {"encoder": encoder, "generator": generator})


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("video", [False, True], ids=["image", "video"])
@pytest.mark.parametrize("weights", [{}, ALL_WEIGHTS, NO_WEIGHTS], ids=["default", "all", "none"])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: " ".join(form.values()))
def test_moments_equal_their_formulas(form: Any, weights: dict[str, Any], video: bool):
    hold(Scene(config(AgeMomentsSystem(**form, **weights), video=video)))


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("prior", ["gaussian", "sphere"])
@pytest.mark.parametrize("distances", DISTANCES, ids=lambda d: " ".join(d.values()))
def test_every_distance(distances: Any, prior: str):
    hold(Scene(config(AgeMomentsSystem(**distances, **ALL_WEIGHTS), prior=prior)))


def test_the_two_players_pull_at_one_divergence():
    """The generator minimises exactly what the encoder maximises."""
    settings = NO_WEIGHTS | {"kl_real_weight": 0.0, "encoder_turns": 1, "generator_turns": 1}
    encoder, generator = Scene(config(AgeMomentsSystem(**settings))).run()
    assert encoder.loss == pytest.approx(-generator.loss)
