"""The systems gan and wgan: losses and gradients of both turns against their formulas."""

from typing import Any

import pytest
import torch
from torch import Tensor

from agehpc.config.networks import DenseConfig, PatchConfig
from agehpc.config.systems import GanSystem, WganSystem
from agehpc.models.blocks import DATA, PRIOR
from tests.systems import formulas
from tests.systems.scenes import Scene, check, config

EVERY = {"r1_gamma": 2.0, "r1_every": 3}
COLOUR = ("colour", "translation", "cutout")
GAN: dict[str, dict[str, Any]] = {
    "non_saturating": {},
    "hinge": {"adversarial": "hinge"},
    "lsgan": {"adversarial": "lsgan"},
    "wasserstein": {"adversarial": "wasserstein", "r1_gamma": 2.0, "r1_every": 3},
    "smooth": {"label_smoothing": 0.1},
    "smooth lsgan": {"adversarial": "lsgan", "label_smoothing": 0.3},
    "colour": {"augment": ("colour",)},
    "translation": {"augment": ("translation",)},
    "cutout": {"augment": ("cutout",)},
    "r1": EVERY,
    "r1 finite": EVERY | {"r1_form": "finite_difference", "r1_sigma": 0.05},
    "penalty": {"gradient_penalty": 3.0},
    "everything": EVERY | {"gradient_penalty": 3.0, "augment": COLOUR, "label_smoothing": 0.2},
    "everything finite": EVERY | {"r1_form": "finite_difference", "augment": COLOUR},
}


def discriminator(scene: Scene, players: dict[str, Any]) -> Tensor:
    """Real against G(z), and the penalties, on augmented samples."""
    s, micro, labels = scene.settings, scene.micro, scene.labels
    net = players[scene.system.judge].discriminator
    side = {bank: micro.draws.get(f"augment_{name}") for bank, name in enumerate(SIDES)}

    def judge(x: Tensor, bank: int = DATA) -> Tensor:
        seen = formulas.augmented(x, s.augment, side[bank]) if s.augment else x
        return net(seen, bank, labels)[0]

    with torch.no_grad():
        fake = players["generator"].generator(micro.z, PRIOR, labels)
    x = micro.x.clone().requires_grad_(True)
    real = judge(x)
    loss = formulas.critic(s.adversarial, real, judge(fake, PRIOR), s.label_smoothing)
    if s.r1_gamma and micro.step % s.r1_every == 0:
        weight = s.r1_gamma / 2 * s.r1_every
        if s.r1_form == "exact":
            loss = loss + weight * formulas.r1(real, x)
        else:
            noise = micro.draws["r1"]
            loss = loss + weight * formulas.finite_difference(judge, micro.x, noise, s.r1_sigma)
    if s.gradient_penalty:
        penalty = formulas.gradient_penalty(judge, micro.x, fake, micro.draws["mix"])
        loss = loss + s.gradient_penalty * penalty
    return loss


SIDES = ("real", "generated")  # in the order of the banks


def generator(scene: Scene, players: dict[str, Any]) -> Tensor:
    """D's verdict on G(z)."""
    s, micro, labels = scene.settings, scene.micro, scene.labels
    fake = players["generator"].generator(micro.z, PRIOR, labels)
    if s.augment:
        fake = formulas.augmented(fake, s.augment, micro.draws["augment_generated"])
    judged = players[scene.system.judge].discriminator(fake, PRIOR, labels)[0]
    return formulas.generator(s.adversarial, judged)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("conditional", [False, True], ids=["plain", "conditional"])
@pytest.mark.parametrize("video", [False, True], ids=["image", "video"])
@pytest.mark.parametrize("options", GAN.values(), ids=GAN)
def test_gan_equals_its_formulas(options: dict[str, Any], video: bool, conditional: bool):
    scene = Scene(config(GanSystem(**options), video=video, conditional=conditional), step=6)
    check(scene, {"discriminator": discriminator, "generator": generator})


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("video", [False, True], ids=["image", "video"])
@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_penalty": 0.0, "weight_clip": 0.01}, {"n_critic": 2, "augment": COLOUR}],
    ids=["penalty", "clipping", "augmented"],
)
def test_wgan_equals_its_formulas(options: dict[str, Any], video: bool):
    scene = Scene(config(WganSystem(**options), video=video), step=1)
    check(scene, {"critic": discriminator, "generator": generator})
    turns = [one.player for one in scene.run()]
    assert turns == ["critic"] * scene.settings.n_critic + ["generator"]


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("kind", ["dense", "patch"])
def test_other_networks_play_the_same_game(kind: str):
    """Maps of logits: penalties take a sample's sum (R1) or mean (the gradient penalty)."""
    dense = DenseConfig(hidden=(6,))
    parts: dict[str, Any] = {
        "generator": DenseConfig(hidden=(6,), norm="batch", normed=(0, 1)),
        "discriminator": dense if kind == "dense" else PatchConfig(width=4, layers=1, norm="none"),
    }
    for options in ({}, {"r1_form": "finite_difference"}):
        system = GanSystem(**EVERY, gradient_penalty=3.0, **options)  # type: ignore[arg-type]
        scene = Scene(config(system, parts=parts), step=3)
        check(scene, {"discriminator": discriminator, "generator": generator})


@pytest.mark.usefixtures("exact")
def test_r1_is_lazy():
    """Between its steps there is no penalty, and no draws for one."""
    system = GanSystem(**EVERY, r1_form="finite_difference")  # type: ignore[arg-type]
    for step in range(4):
        scene = Scene(config(system), step=step)
        assert ("r1" in scene.micro.draws) == (step in (0, 3))
        check(scene, {"discriminator": discriminator, "generator": generator})
