"""The system age: its objectives, who is trained in a turn and who is not."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from agehpc.config.schema import (
    AgeSystem,
    Config,
    DataConfig,
    LatentNetworkConfig,
    ModelConfig,
    NetworkConfig,
    PlayerConfig,
    RunConfig,
)
from agehpc.data.keyed import philox
from agehpc.systems import build_system
from agehpc.systems.base import Collectives, Micro, detached
from tests.systems.reference import autoencoder_objective, critics_objective

BATCH = 4
SETTINGS = [
    AgeSystem(),
    AgeSystem(reconstruction="mse", adversarial="hinge", r1_gamma=3.0, r1_every=1),
    AgeSystem(adversarial="lsgan", reconstruction_fake_weight=0.3, feature_weight=2.0),
    AgeSystem(latent_cycle_weight=0.0, latent_adversarial_weight=0.7, moment_weight=0.3),
    AgeSystem(squared_weight=5.0, latent_noise=0.4, adversarial_ramp_kimg=0.2),
    AgeSystem(warmup_kimg=0.05, adversarial_ramp_kimg=0.1, feature_weight=1.0),
    AgeSystem(warmup_kimg=0.2, r1_gamma=1.0, reconstruction_fake_weight=1.0),
]


def config(
    system: AgeSystem | None = None, *, video: bool = False, prior: Any = "gaussian"
) -> Config:
    net = NetworkConfig(width=4, max_width=16)
    return Config(
        run=RunConfig(recipe="test"),
        data=DataConfig(
            kind="video" if video else "image", size=16, frames=4 if video else 1, channels=3
        ),
        system=system or AgeSystem(),
        model=ModelConfig(
            latent=6,
            prior=prior,
            encoder=net,
            generator=net,
            discriminator=net,
            latent_discriminator=LatentNetworkConfig(width=8),
        ),
        players={"autoencoder": PlayerConfig(), "critics": PlayerConfig()},
    )


class Scene:
    """A system, its players in float64 and a batch."""

    def __init__(self, config: Config, *, step: int = 0, samples_seen: int = 100) -> None:
        torch.manual_seed(0)
        self.system: Any = build_system(config, Collectives.alone())
        self.players: dict[str, Any] = {
            name: player.double() for name, player in self.system.build().items()
        }
        shape = (BATCH, 3, 4, 16, 16) if config.data.kind == "video" else (BATCH, 3, 16, 16)
        x_BCS = torch.rand(shape, dtype=torch.float64) * 2 - 1
        z_BZ, noise_BZ = torch.randn(2, BATCH, 6, dtype=torch.float64)
        labels_B = torch.full((BATCH,), -1)
        draws = {"z": z_BZ, "noise": noise_BZ}
        self.micro = Micro(x_BCS, labels_B, samples_seen, step, draws)

    def made(self) -> dict[str, Tensor]:
        return self.system.make("autoencoder", self.players, self.micro)

    def critics(self, made: dict[str, Tensor] | None = None) -> Any:
        return self.system.critics_loss(self.players, self.micro, detached(made or self.made()))

    def autoencoder(self) -> Any:
        return self.system.autoencoder_loss(self.players, self.micro, self.made())


# Logits and latents are brought to float32 before the losses, also in a float64 network.
def close(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got.double(), wanted.double(), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("video", [False, True], ids=["image", "video"])
@pytest.mark.parametrize("settings", SETTINGS, ids=range(len(SETTINGS)))
def test_objectives_equal_their_formulas(settings: AgeSystem, video: bool):
    scene = Scene(config(settings, video=video))
    players = list(scene.players.values())
    close(scene.critics()[0], critics_objective(settings, *players, scene.micro))
    wanted = autoencoder_objective(settings, (0.0, 1.0), *players, scene.micro)
    close(scene.autoencoder()[0], wanted)


@pytest.mark.parametrize("settings", SETTINGS, ids=range(len(SETTINGS)))
def test_gradients_equal_their_formulas(settings: AgeSystem):
    scene = Scene(config(settings))
    players = list(scene.players.values())
    for name, got, wanted in (
        ("critics", scene.critics()[0], critics_objective(settings, *players, scene.micro)),
        (
            "autoencoder",
            scene.autoencoder()[0],
            autoencoder_objective(settings, (0.0, 1.0), *players, scene.micro),
        ),
    ):
        parameters = list(scene.players[name].parameters())
        ours = torch.autograd.grad(got, parameters)  # every parameter is used, also in a warm-up
        theirs = torch.autograd.grad(wanted, parameters, materialize_grads=True)
        for a, b in zip(ours, theirs, strict=True):
            scale = max(1e-3, b.abs().max().item())
            assert (a - b).abs().max().item() < 1e-5 * scale


def test_the_uniform_prior_has_its_own_moments():
    scene = Scene(config(prior="uniform"))
    wanted = autoencoder_objective(
        scene.system.settings, (0.0, 1 / 3), *scene.players.values(), scene.micro
    )
    close(scene.autoencoder()[0], wanted)


def test_a_turn_trains_its_player_alone():
    scene = Scene(config(AgeSystem(r1_gamma=1.0, feature_weight=1.0)))
    autoencoder, critics = scene.players["autoencoder"], scene.players["critics"]
    scene.critics()[0].backward()
    assert all(p.grad is None for p in autoencoder.parameters())
    assert all(p.grad is not None and p.grad.any() for p in critics.parameters() if p.dim() > 1)
    critics.zero_grad()
    critics.requires_grad_(False)
    scene.autoencoder()[0].backward()
    assert all(p.grad is None for p in critics.parameters())
    assert all(p.grad is not None for p in autoencoder.parameters())


def test_turns_are_the_critics_then_the_autoencoder():
    turns = Scene(config()).system.turns
    assert [(t.player, t.maker) for t in turns] == [
        ("critics", "autoencoder"),
        ("autoencoder", "autoencoder"),
    ]


@pytest.mark.parametrize(
    ("weight", "names"),
    [(0.0, {"generated", "latent"}), (0.5, {"generated", "latent", "reconstruction"})],
)
def test_critics_judge_what_was_made(weight: float, names: set[str]):
    scene = Scene(config(AgeSystem(reconstruction_fake_weight=weight)))
    made = scene.made()
    loss = scene.critics(made)[0]
    for name in made:
        changed = scene.critics(made | {name: made[name] * 0.5})[0]
        assert (changed != loss).item() == (name in names), name
    assert scene.players["critics"].discriminator is not None
    scene.micro = replace(scene.micro, x=-scene.micro.x)
    assert scene.critics(made)[0] != loss
    draws = scene.micro.draws | {"z": scene.micro.z + 1}  # type: ignore[operator]
    scene.micro = replace(scene.micro, x=-scene.micro.x, draws=draws)
    assert scene.critics(made)[0] != loss


def test_critics_learn_to_tell_real_from_generated():
    scene = Scene(config())
    made = detached(scene.made())
    optimizer = torch.optim.Adam(scene.players["critics"].parameters(), lr=1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        loss, told = scene.critics(made)
        loss.backward()
        optimizer.step()
    assert told["logit_real"] > 1 > -1 > told["logit_generated"]


@pytest.mark.parametrize(
    ("warmup", "ramp", "samples_seen", "wanted"),
    [
        (0.0, 0.0, 0, 1.0),
        (0.0, 2.0, 0, 0.0),
        (0.0, 2.0, 500, 0.25),
        (0.0, 2.0, 4000, 1.0),
        (1.0, 2.0, 999, None),
        (1.0, 2.0, 1000, 0.0),
        (1.0, 2.0, 2500, 0.75),
        (1.0, 0.0, 1000, 1.0),
    ],
)
def test_ramp(warmup: float, ramp: float, samples_seen: int, wanted: float | None):
    """The autoencoder's loss is linear in the share that the game on the data has."""

    def loss(seen: int, settings: AgeSystem) -> float:
        return Scene(config(settings), samples_seen=seen).autoencoder()[0].item()

    without = AgeSystem(adversarial_weight=0.0, latent_cycle_weight=0.0)
    nothing, everything = loss(0, without), loss(0, AgeSystem())
    got = loss(samples_seen, AgeSystem(warmup_kimg=warmup, adversarial_ramp_kimg=ramp))
    share = 0.0 if wanted is None else wanted
    assert got == pytest.approx(nothing + share * (everything - nothing), rel=1e-6)
    told = Scene(
        config(AgeSystem(warmup_kimg=warmup, adversarial_ramp_kimg=ramp)), samples_seen=samples_seen
    ).autoencoder()[1]
    assert ("adversarial" in told) == (wanted is not None)


def test_r1_comes_every_so_many_steps_and_weighs_that_much_more():
    plain = Scene(config(AgeSystem())).critics()[0].item()
    every = Scene(config(AgeSystem(r1_gamma=2.0, r1_every=1))).critics()[0].item()
    assert every > plain
    for step in range(7):
        lazy = Scene(config(AgeSystem(r1_gamma=2.0, r1_every=3)), step=step).critics()[0].item()
        extra = 3 * (every - plain) if step % 3 == 0 else 0.0
        assert lazy == pytest.approx(plain + extra, rel=1e-6)


def test_statistics_are_detached_float32_scalars():
    scene = Scene(config(AgeSystem(feature_weight=1.0, reconstruction_fake_weight=1.0)))
    for _, told in (scene.critics(), scene.autoencoder()):
        for value in told.values():
            assert (value.shape, value.dtype, value.requires_grad) == ((), torch.float32, False)


def test_draws():
    def keys(purpose: str) -> Any:
        return [philox(0, purpose, n) for n in range(3)]

    drawn = build_system(config(), Collectives.alone()).draw(keys, (3, 16, 16), 0)
    assert drawn.keys() == {"z"}
    assert (drawn["z"].shape, drawn["z"].dtype) == ((3, 6), torch.float32)
    system = build_system(config(AgeSystem(latent_noise=0.1)), Collectives.alone())
    again = system.draw(keys, (3, 16, 16), 0)
    assert torch.equal(again["z"], drawn["z"])  # noise leaves the prior's draws alone
    assert again["noise"].shape == (3, 6)
    assert not torch.equal(again["noise"], again["z"])
