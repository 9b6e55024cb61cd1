"""The system age in all its variants: losses and gradients of both turns against their formulas."""

from typing import Any

import pytest
from torch import Tensor

from agehpc.config.networks import DenseConfig, LatentNetworkConfig
from agehpc.config.systems import AgeSystem
from tests.systems.reference import autoencoder_objective, critics_objective
from tests.systems.scenes import Scene, check, config

MOMENTS = {
    "gaussian": (0.0, 1.0),
    "uniform": (0.0, 1 / 3),
    "sphere": (0.0, 1.0),
    "mixture": (0.0, 1.0),
}
R1 = {"r1_gamma": 2.0, "r1_every": 3}
FINITE = {"r1_form": "finite_difference", "r1_sigma": 0.05}
AUGMENT = {"augment": ("translation", "cutout", "colour")}
RICH = {"reconstruction_fake_weight": 0.3, "feature_weight": 2.0, "squared_weight": 1.5}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "wasserstein": {"adversarial": "wasserstein", "gradient_penalty": 10.0},
    "hinge penalties": {"adversarial": "hinge", "gradient_penalty": 3.0} | R1,
    "smooth": {"label_smoothing": 0.1} | RICH,
    "finite": R1 | FINITE | {"adversarial": "lsgan"},
    "augmented": AUGMENT | RICH | R1,
    "augmented penalties": AUGMENT | R1 | FINITE | {"gradient_penalty": 2.0},
    "vae": {"encoder": "vae", "kl_weight": 0.7},
    "vae rich": {"encoder": "vae", "kl_weight": 0.7, "latent_noise": 0.3} | RICH,
    "vae without KL": {"encoder": "vae"},
    "joint": {"joint": True},
    "joint rich": {"joint": True} | RICH | R1 | AUGMENT,
    "joint hinge": {"joint": True, "adversarial": "hinge"},
    "joint lsgan": {"joint": True, "adversarial": "lsgan"},
    "joint wasserstein": {"joint": True, "adversarial": "wasserstein", "gradient_penalty": 10.0},
    "joint vae": {"joint": True, "encoder": "vae", "kl_weight": 0.1},
    "joint finite": {"joint": True} | R1 | FINITE,
    "joint ramp": {"joint": True, "warmup_kimg": 0.05, "adversarial_ramp_kimg": 0.1},
    "ramp": {"warmup_kimg": 0.05, "adversarial_ramp_kimg": 0.1} | RICH,
    "no cycle": {"latent_cycle_weight": 0.0, "moment_weight": 0.0},
}


def hold(scene: Scene) -> None:
    prior = scene.config.model.prior
    sphere = prior == "sphere"

    def critics(scene: Scene, players: dict[str, Any]) -> Tensor:
        s, both = scene.settings, players.values()
        assert isinstance(s, AgeSystem)
        return critics_objective(s, *both, scene.micro, labels=scene.labels, sphere=sphere)

    def autoencoder(scene: Scene, players: dict[str, Any]) -> Tensor:
        s, both, moments = scene.settings, players.values(), MOMENTS[prior]
        assert isinstance(s, AgeSystem)
        return autoencoder_objective(
            s, moments, *both, scene.micro, labels=scene.labels, sphere=sphere
        )

    check(scene, {"critics": critics, "autoencoder": autoencoder})


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("conditional", [False, True], ids=["plain", "conditional"])
@pytest.mark.parametrize("video", [False, True], ids=["image", "video"])
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_age_equals_its_formulas(options: dict[str, Any], video: bool, conditional: bool):
    hold(Scene(config(AgeSystem(**options), video=video, conditional=conditional), step=3))


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(
    ("prior", "encoder"),
    # Draws around means leave the sphere: the rules refuse it.
    [(p, e) for p in MOMENTS for e in ("deterministic", "vae") if (p, e) != ("sphere", "vae")],
)
def test_every_prior(prior: str, encoder: Any):
    kl_weight = 0.2 if (prior, encoder) == ("gaussian", "vae") else 0.0
    system = AgeSystem(encoder=encoder, kl_weight=kl_weight, latent_noise=0.1)
    hold(Scene(config(system, prior=prior)))


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("joint", [False, True], ids=["two", "joint"])
def test_the_warm_up_leaves_d_out(joint: bool):
    """Its gradient is zero, not missing, and G(z) is not made."""
    system = AgeSystem(warmup_kimg=1.0, joint=joint, gradient_penalty=5.0, **R1)  # type: ignore[arg-type]
    scene = Scene(config(system))
    if not joint:
        hold(scene)
    critics, autoencoder = scene.run()
    for name, slope in critics.gradients.items():
        assert slope is not None
        assert slope.any().item() == name.startswith("latent_discriminator"), name
    assert all(slope is not None for slope in autoencoder.gradients.values())


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("joint", [False, True], ids=["two", "joint"])
def test_dense_networks_play_the_same_game(joint: bool):
    dense = DenseConfig(hidden=(6,))
    parts: dict[str, Any] = dict.fromkeys(("encoder", "generator", "discriminator"), dense)
    if not joint:
        parts["latent_discriminator"] = LatentNetworkConfig(width=8)
    hold(Scene(config(AgeSystem(joint=joint, **RICH, **R1), parts=parts), step=3))  # type: ignore[arg-type]
