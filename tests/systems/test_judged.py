"""What every judge receives in every turn: these tensors, attached only where they are judged.

Shapes: B batch, C channels, S (H, W), Z latent size.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from agehpc.config.systems import (
    AgeMomentsSystem,
    AgeSystem,
    CycleganSystem,
    GanSystem,
    Pix2pixSystem,
    WganSystem,
)
from agehpc.models.blocks import DATA, PRIOR
from tests.systems import formulas
from tests.systems.scenes import Scene, config


@dataclass
class Seen:
    """One call of a judge: its input, and whether a gradient can flow back through it."""

    net: str
    x: Tensor
    bank: int | None = None
    attached: bool = False
    labels: Tensor | None = None
    latent: Tensor | None = None
    latent_attached: bool = False

    def equals(self, other: "Seen") -> bool:
        def same(a: Tensor | None, b: Tensor | None) -> bool:
            if a is None or b is None:
                return a is b
            return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=1e-12)

        mine = (self.net, self.bank, self.attached, self.latent_attached)
        return (
            mine == (other.net, other.bank, other.attached, other.latent_attached)
            and same(self.x, other.x)
            and same(self.labels, other.labels)
            and same(self.latent, other.latent)
        )


def spied(scene: Scene, judges: dict[str, Any], number: int, *, shared: bool) -> list[Seen]:
    """What the judges see in the turn of that number."""
    turns = list(scene.system.turns)
    calls: list[Seen] = []

    def note(name: str) -> Callable[..., None]:
        def hook(_: Any, args: tuple[Any, ...]) -> None:
            x, bank, labels, latent = (*args, None, None, None)[:4]
            calls.append(
                Seen(
                    name,
                    x.detach().clone(),
                    bank,
                    x.grad_fn is not None,
                    labels,
                    latent,
                    latent is not None and latent.grad_fn is not None,
                )
            )

        return hook

    handles = [net.register_forward_pre_hook(note(name)) for name, net in judges.items()]
    counts: list[int] = []
    losses = [turn.loss for turn in turns]

    def counted(loss: Any) -> Any:
        def wrapped(*arguments: Any) -> Any:
            start = len(calls)
            result = loss(*arguments)
            counts.append(len(calls) - start)
            return result

        return wrapped

    wrapped = [replace(t, loss=counted(loss)) for t, loss in zip(turns, losses, strict=True)]
    chosen = wrapped if shared else [replace(wrapped[number], repeats=1)]
    scene.run(shared_forward=shared, turns=tuple(chosen))
    for handle in handles:
        handle.remove()
    assert sum(counts) == len(calls)  # judges are asked by the losses alone
    assert len(counts) == len(chosen)
    first = sum(counts[:number]) if shared else 0
    return calls[first : first + counts[number if shared else 0]]


def hold(scene: Scene, judges: dict[str, Any], number: int, wanted: list[Seen]) -> None:
    """Compare calls with what is wanted, in any order."""
    shares = scene.settings.shares_forward and scene.settings.batches == 1
    for shared in (False, True) if shares else (False,):
        found = spied(scene, judges, number, shared=shared)
        assert len(found) == len(wanted)
        for one in wanted:
            (match,) = [call for call in found if call.equals(one)] or [None]
            assert match is not None, (one.net, one.bank, one.attached, shared)


@torch.no_grad()
def drawn(scene: Scene) -> Tensor:
    """G(z) of copies."""
    return scene.copies()["generator"].generator(scene.micro.z, PRIOR, scene.labels)


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("system", [GanSystem(), WganSystem(n_critic=1)], ids=["gan", "wgan"])
def test_gan(system: Any, conditional: bool):
    scene = Scene(config(system, conditional=conditional))
    name = scene.system.judge
    judges = {"D": scene.players[name].discriminator}
    x, fake, labels = scene.micro.x, drawn(scene), scene.labels
    wanted = [Seen("D", x, DATA, labels=labels), Seen("D", fake, PRIOR, labels=labels)]
    if system.gradient_penalty:
        mix = scene.micro.draws["mix"].view(-1, 1, 1, 1)
        wanted.append(Seen("D", mix * x + (1 - mix) * fake, DATA, labels=labels))
    hold(scene, judges, 0, wanted)
    hold(scene, judges, 1, [Seen("D", fake, PRIOR, attached=True, labels=labels)])


def test_each_side_is_augmented_by_its_own_draws():
    policies = ("translation", "colour")
    scene = Scene(config(GanSystem(augment=policies)))
    judges = {"D": scene.players["discriminator"].discriminator}
    draws = scene.micro.draws
    assert not torch.equal(draws["augment_real"], draws["augment_generated"])
    real = formulas.augmented(scene.micro.x, policies, draws["augment_real"])
    fake = formulas.augmented(drawn(scene), policies, draws["augment_generated"])
    hold(scene, judges, 0, [Seen("D", real, DATA), Seen("D", fake, PRIOR)])
    hold(scene, judges, 1, [Seen("D", fake, PRIOR, attached=True)])


def test_finite_difference_looks_twice():
    settings = GanSystem(r1_gamma=1.0, r1_form="finite_difference", r1_sigma=0.5)
    scene = Scene(config(settings))
    judges = {"D": scene.players["discriminator"].discriminator}
    x = scene.micro.x
    near = Seen("D", x + 0.5 * scene.micro.draws["r1"], DATA)
    hold(scene, judges, 0, [Seen("D", x, DATA), Seen("D", drawn(scene), PRIOR), near])


def test_pix2pix():
    scene = Scene(config(Pix2pixSystem()))
    judges = {"D": scene.players["discriminator"].discriminator}
    micro = scene.micro
    with torch.no_grad():
        output = scene.copies()["generator"].translator(micro.second, DATA)
    real, fake = (torch.cat([micro.second, y], 1) for y in (micro.x, output))  # type: ignore[list-item]
    hold(scene, judges, 0, [Seen("D", real, DATA), Seen("D", fake, PRIOR)])
    hold(scene, judges, 1, [Seen("D", fake, PRIOR, attached=True)])


def test_cyclegan():
    scene = Scene(config(CycleganSystem(), norm="instance"))
    nets, micro = scene.players["discriminators"], scene.micro
    judges = {"a": nets.of_a, "b": nets.of_b}
    players = scene.copies()["generators"]
    with torch.no_grad():
        fake_a, fake_b = players.to_a(micro.second, DATA), players.to_b(micro.x, DATA)
    wanted = [
        Seen("a", micro.x, DATA),
        Seen("b", micro.second, DATA),  # type: ignore[arg-type]
        Seen("a", fake_a, PRIOR),
        Seen("b", fake_b, PRIOR),
    ]
    hold(scene, judges, 0, wanted)
    wanted = [Seen(n, x, PRIOR, attached=True) for n, x in (("a", fake_a), ("b", fake_b))]
    hold(scene, judges, 1, wanted)


@pytest.mark.parametrize("rich", [False, True], ids=["plain", "rich"])
@pytest.mark.parametrize("encoder", ["deterministic", "vae"])
def test_age(encoder: Any, rich: bool):
    more: Any = {"reconstruction_fake_weight": 1.0, "feature_weight": 1.0} if rich else {}
    scene = Scene(config(AgeSystem(encoder=encoder, **more)))
    critics, micro = scene.players["critics"], scene.micro
    judges = {"D": critics.discriminator, "C": critics.latent_discriminator}
    latent, rebuilt, fake = autoencoded(scene)
    rebuilts = [Seen("D", rebuilt, PRIOR)] if rich else []
    wanted = [Seen("D", micro.x, DATA), Seen("D", fake, PRIOR), *rebuilts]
    hold(scene, judges, 0, [*wanted, Seen("C", micro.z), Seen("C", latent)])
    rebuilts = [Seen("D", rebuilt, PRIOR, attached=True), Seen("D", micro.x, DATA)] if rich else []
    wanted = [Seen("D", fake, PRIOR, attached=True), Seen("C", latent, attached=True), *rebuilts]
    hold(scene, judges, 1, wanted)


@torch.no_grad()
def autoencoded(scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
    """E(x), G(E(x)), G(z) of copies."""
    player, micro = scene.copies()["autoencoder"], scene.micro
    latent = player.encoder(micro.x, DATA)
    if "eps" in micro.draws:
        mean, logvar = latent.chunk(2, 1)
        latent = mean + (logvar / 2).exp() * micro.draws["eps"]
    return latent, player.generator(latent, DATA), player.generator(micro.z, PRIOR)


def test_a_joint_discriminator_gets_each_sample_with_its_latent():
    scene = Scene(config(AgeSystem(joint=True, reconstruction_fake_weight=1.0)))
    judges, micro = {"D": scene.players["critics"].discriminator}, scene.micro
    latent, rebuilt, fake = autoencoded(scene)
    wanted = [
        Seen("D", micro.x, DATA, latent=latent),
        Seen("D", fake, PRIOR, latent=micro.z),
        Seen("D", rebuilt, PRIOR, latent=latent),
    ]
    hold(scene, judges, 0, wanted)
    wanted = [
        Seen("D", micro.x, DATA, latent=latent, latent_attached=True),
        Seen("D", fake, PRIOR, attached=True, latent=micro.z),
        Seen("D", rebuilt, PRIOR, attached=True, latent=latent, latent_attached=True),
    ]
    hold(scene, judges, 1, wanted)


def test_in_a_warm_up_only_latents_are_judged():
    scene = Scene(config(AgeSystem(warmup_kimg=1.0)))
    critics = scene.players["critics"]
    judges = {"D": critics.discriminator, "C": critics.latent_discriminator}
    latent, *_ = autoencoded(scene)
    hold(scene, judges, 0, [Seen("C", scene.micro.z), Seen("C", latent)])
    hold(scene, judges, 1, [Seen("C", latent, attached=True)])


def test_the_encoder_is_the_judge_of_the_game_of_moments():
    scene = Scene(config(AgeMomentsSystem(generator_reconstruction_weight=1.0)))
    judges = {"E": scene.players["encoder"].encoder}
    with torch.no_grad():
        fake = scene.copies()["generator"].generator(scene.micro.z, PRIOR)
    real = Seen("E", scene.micro.x, DATA)
    calls: list[Seen] = []
    judges["E"].register_forward_pre_hook(
        lambda _, args: calls.append(Seen("E", args[0], args[1], args[0].grad_fn is not None))
    )
    for turn, attached in zip(scene.system.turns, (False, True), strict=True):
        calls.clear()
        scene.run(turns=(turn,))
        for _ in range(turn.repeats):
            both = sorted([calls.pop(0), calls.pop(0)], key=lambda call: call.bank or 0)
            assert both[0].equals(real)
            assert both[1].equals(Seen("E", fake, PRIOR, attached=attached))
        assert not calls
