"""The systems pix2pix and cyclegan: losses and gradients of both turns against their formulas."""

from typing import Any

import pytest
import torch
from torch import Tensor

from agehpc.config.systems import CycleganSystem, Pix2pixSystem
from agehpc.models.blocks import DATA, PRIOR
from tests.systems import formulas
from tests.systems.scenes import Scene, check, config

GAME: dict[str, dict[str, Any]] = {
    "as published": {},
    "hinge": {"adversarial": "hinge"},
    "lsgan": {"adversarial": "lsgan"},
    "non_saturating": {"adversarial": "non_saturating", "label_smoothing": 0.1},
    "wasserstein": {"adversarial": "wasserstein", "gradient_penalty": 10.0},
    "augmented": {"augment": ("translation", "colour", "cutout"), "r1_gamma": 1.0},
    "finite": {"r1_gamma": 1.0, "r1_form": "finite_difference", "r1_sigma": 0.05},
}


def judging(scene: Scene, net: Any, sources: Any) -> Any:
    """A discriminator on augmented samples of a side."""
    s = scene.settings

    def judge(x: Tensor, bank: int = DATA) -> Tensor:
        if s.augment:
            side = "real" if bank == DATA else "generated"
            x = formulas.augmented(x, s.augment, sources[f"augment_{side}"])
        return net(x, bank)[0]

    return judge


def against(scene: Scene, judge: Any, real: Tensor, fake: Tensor, scale: float) -> Tensor:
    """A discriminator's loss, `scale` of the game and all of the penalties."""
    s, draws = scene.settings, scene.micro.draws
    x = real.clone().requires_grad_(True)
    logits = judge(x)
    loss = scale * formulas.critic(s.adversarial, logits, judge(fake, PRIOR), s.label_smoothing)
    if s.r1_gamma and scene.micro.step % s.r1_every == 0:
        if s.r1_form == "exact":
            penalty = formulas.r1(logits, x)
        else:
            penalty = formulas.finite_difference(judge, real, draws["r1"], s.r1_sigma)
        loss = loss + s.r1_gamma / 2 * s.r1_every * penalty
    if s.gradient_penalty:
        penalty = formulas.gradient_penalty(judge, real, fake, draws["mix"])
        loss = loss + s.gradient_penalty * penalty
    return loss


def pairs_told_apart(scene: Scene, players: dict[str, Any]) -> Tensor:
    micro = scene.micro
    with torch.no_grad():
        output = players["generator"].translator(micro.second, DATA)
    judge = judging(scene, players["discriminator"].discriminator, micro.draws)
    real, fake = (torch.cat((micro.second, y), 1) for y in (micro.x, output))
    return against(scene, judge, real, fake, 0.5)


def translated(scene: Scene, players: dict[str, Any]) -> Tensor:
    s, micro = scene.settings, scene.micro
    output = players["generator"].translator(micro.second, DATA)
    judge = judging(scene, players["discriminator"].discriminator, micro.draws)
    verdict = judge(torch.cat((micro.second, output), 1), PRIOR)
    loss = s.adversarial_weight * formulas.generator(s.adversarial, verdict)
    return loss + s.reconstruction_weight * formulas.distance("l1", output, micro.x)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(
    "options",
    [*GAME.values(), {"reconstruction_weight": 3.0, "adversarial_weight": 0.25}],
    ids=[*GAME, "weights"],
)
def test_pix2pix_equals_its_formulas(options: dict[str, Any]):
    scene = Scene(config(Pix2pixSystem(**options)))
    check(scene, {"discriminator": pairs_told_apart, "generator": translated})


def whole(scene: Scene) -> float:
    """Zhu et al. 2017 do not halve the squares of their least squares, as Mao et al. do."""
    return 2.0 if scene.settings.adversarial == "lsgan" else 1.0


def both_told_apart(scene: Scene, players: dict[str, Any]) -> Tensor:
    """A's discriminator tells a from F(b), B's tells b from G(a): the pool is still filling."""
    micro, there = scene.micro, players["generators"]
    with torch.no_grad():
        fake = {"a": there.to_a(micro.second, DATA), "b": there.to_b(micro.x, DATA)}
    loss = torch.zeros((), dtype=torch.float64)
    for side, real in (("a", micro.x), ("b", micro.second)):
        net = getattr(players["discriminators"], f"of_{side}")
        loss = loss + against(
            scene, judging(scene, net, micro.draws), real, fake[side], whole(scene) / 2
        )
    return loss


def both_translated(scene: Scene, players: dict[str, Any]) -> Tensor:
    s, micro = scene.settings, scene.micro
    g, f = players["generators"].to_b, players["generators"].to_a
    nets = players["discriminators"]
    a, b = micro.x, micro.second
    loss = torch.zeros((), dtype=torch.float64)
    for source, to, back, net in ((a, g, f, nets.of_b), (b, f, g, nets.of_a)):
        fake = to(source, DATA)
        verdict = judging(scene, net, micro.draws)(fake, PRIOR)
        loss = loss + whole(scene) * formulas.generator(s.adversarial, verdict)
        cycle = formulas.distance("l1", back(fake, PRIOR), source)
        own = b if source is a else a
        identity = formulas.distance("l1", to(own, DATA), own)
        loss = loss + s.cycle_weight * cycle + s.identity_weight * s.cycle_weight * identity
    return loss


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(
    "options",
    [
        *GAME.values(),
        {"identity_weight": 0.0},
        {"identity_weight": 2.0, "cycle_weight": 3.0},
        {"pool": 0},
    ],
    ids=[*GAME, "no identity", "weights", "no pool"],
)
def test_cyclegan_equals_its_formulas(options: dict[str, Any]):
    # A fresh pool shows new images while it is being filled, also a second time.
    system = CycleganSystem(**options)
    scene = Scene(config(system, norm="instance"))
    check(scene, {"discriminators": both_told_apart, "generators": both_translated})


@pytest.mark.usefixtures("exact")
def test_a_full_pool_shows_the_past():
    """With room for one image each, every later one is met with the one before or itself."""
    scene = Scene(config(CycleganSystem(pool=1), norm="instance"))
    draws = scene.micro.draws
    for side in "ab":
        assert draws[f"pool_{side}"].shape == (len(scene.micro.x), 2)
    assert not torch.equal(draws["pool_a"], draws["pool_b"])

    def of_the_past(scene: Scene, players: dict[str, Any]) -> Tensor:
        micro, there = scene.micro, players["generators"]
        loss = torch.zeros((), dtype=torch.float64)
        for side, real in (("a", micro.x), ("b", micro.second)):
            with torch.no_grad():
                to, source = (there.to_a, micro.second) if side == "a" else (there.to_b, micro.x)
                fake = to(source, DATA)
            shown, kept = [fake[0]], fake[0]
            for image, (_, u) in zip(fake[1:], draws[f"pool_{side}"][1:].tolist(), strict=True):
                shown.append(kept if u < 0.5 else image)
                kept = image if u < 0.5 else kept
            net = getattr(players["discriminators"], f"of_{side}")
            judge = judging(scene, net, draws)
            loss = loss + against(scene, judge, real, torch.stack(shown), whole(scene) / 2)
        return loss

    wanted = of_the_past(scene, scene.copies()).item()
    taken = {one.player: one.loss.item() for one in scene.run()}
    assert taken["discriminators"] == pytest.approx(wanted, rel=1e-9)
    fresh = both_told_apart(scene, scene.copies()).item()
    assert wanted != pytest.approx(fresh, rel=1e-6)
