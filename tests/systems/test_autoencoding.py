"""The systems autoencoder, denoising and vae: loss and gradients against their formulas."""

from typing import Any

import pytest
import torch
from torch import Tensor

from agehpc.config.networks import DenseConfig, NetworkConfig, UnetConfig
from agehpc.config.systems import AutoencoderSystem, DenoisingSystem, VaeSystem
from agehpc.models.blocks import DATA
from tests.systems import formulas
from tests.systems.scenes import LATENT, SIZE, Scene, check, config

PLAIN: dict[str, dict[str, Any]] = {
    f"{kind} {pixels}": {"reconstruction": kind, "pixels": pixels}
    for kind in ("l1", "mse", "bce")
    for pixels in ("signed", "unit")
    if (kind, pixels) != ("bce", "signed")  # probabilities are of pixels in [0, 1]
}
CORRUPTIONS: dict[str, dict[str, Any]] = {
    "gaussian": {},
    "gaussian strong": {"level": 0.6},
    "salt": {"corruption": "salt_and_pepper", "level": 0.3},
    "masking": {"corruption": "masking", "level": 0.5},
    "lowres 2": {"corruption": "lowres", "level": 2.0},
    "lowres 4": {"corruption": "lowres", "level": 4.0},
}
TRANSLATOR = {"translator": UnetConfig(width=2, max_width=4, dropout=0.0)}
DENSE = {name: DenseConfig(hidden=(5,)) for name in ("encoder", "generator")}


def unit(x: Tensor) -> Tensor:
    return (x + 1) / 2


def activated(logits: Tensor, output: str) -> Tensor:
    """Output in [-1, 1]."""
    return torch.tanh(logits) if output == "tanh" else 2 / (1 + torch.exp(-logits)) - 1


def scored(scene: Scene, y: Tensor) -> Tensor:
    """Distance of outputs in [-1, 1] to the clean samples."""
    s, x = scene.settings, scene.micro.x
    if s.reconstruction == "bce":
        return formulas.cross_entropy(unit(y), unit(x)).mean()
    if s.pixels == "unit":
        x, y = unit(x), unit(y)
    return formulas.distance(s.reconstruction, y, x)


def plain(scene: Scene, players: dict[str, Any]) -> Tensor:
    player = players["autoencoder"]
    z = player.encoder(scene.micro.x, DATA)
    return scored(scene, player.generator(z, DATA, scene.labels))


def corrupted(scene: Scene) -> Tensor:
    """The formulas of SYSTEMS, pixel by pixel; lowres by torch's interpolation itself."""
    s, x, n = scene.settings, scene.micro.x, scene.micro.draws.get("corruption")
    if s.corruption == "gaussian":
        assert n is not None
        return 2 * torch.clamp(unit(x) + s.level * n, 0, 1) - 1
    if s.corruption == "lowres":
        flat = x.reshape(-1, 1, SIZE, SIZE)
        for size in (SIZE // int(s.level), SIZE):
            flat = torch.nn.functional.interpolate(
                flat, (size, size), mode="bicubic", antialias=True
            )
        return flat.view(x.shape).clamp(-1, 1)
    assert n is not None
    y = x.clone()
    for b in range(len(x)):
        if s.corruption == "salt_and_pepper":
            n_b = n[b].expand_as(y[b])
            y[b][n_b < s.level] = 1.0
            y[b][n_b < s.level / 2] = -1.0
        else:
            side = round(s.level * SIZE)
            top, left = (int(u * (SIZE - side + 1)) for u in n[b].tolist())
            y[b][..., top : top + side, left : left + side] = 0.0
    return y


def denoised(scene: Scene, players: dict[str, Any]) -> Tensor:
    player, s, given = players["autoencoder"], scene.settings, corrupted(scene)
    if scene.config.model.translator is not None:
        logits = player.translator.logits(given, DATA)
    else:
        logits = player.generator.logits(player.encoder(given, DATA), DATA)
    y = given + logits if s.residual else activated(logits, scene.config.model.output)
    return scored(scene, y)


def bound(scene: Scene, players: dict[str, Any]) -> Tensor:
    """Nats a pixel: reconstruction and beta times the KL, both of them a sample's sums."""
    s, micro, player = scene.settings, scene.micro, players["autoencoder"]
    out = player.encoder(micro.x, DATA)
    mean, logvar = out[:, :LATENT], out[:, LATENT:]
    z = mean + torch.sqrt(torch.exp(logvar)) * micro.draws["eps"]
    y = unit(player.generator(z, DATA, scene.labels))
    if s.likelihood == "bernoulli":
        nats = formulas.bernoulli_nats(y, unit(micro.x))
    else:
        nats = formulas.gaussian_nats(y, s.sigma, unit(micro.x))
    share = min(1.0, micro.samples_seen / (1000 * s.kl_warmup_kimg)) if s.kl_warmup_kimg else 1.0
    return (nats + share * s.beta * formulas.posterior_kl(mean, logvar)) / micro.x[0].numel()


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("video", [False, True], ids=["image", "video"])
@pytest.mark.parametrize("options", PLAIN.values(), ids=PLAIN)
def test_autoencoder_equals_its_formulas(options: dict[str, Any], video: bool):
    output = "sigmoid" if options["reconstruction"] == "bce" else "tanh"
    for conditional in (False, True):
        system = AutoencoderSystem(**options)
        scene = Scene(config(system, video=video, output=output, conditional=conditional))
        check(scene, {"autoencoder": plain})


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("options", PLAIN.values(), ids=PLAIN)
def test_dense_autoencoder_equals_its_formulas(options: dict[str, Any]):
    scene = Scene(config(AutoencoderSystem(**options), parts=DENSE, output="sigmoid"))
    check(scene, {"autoencoder": plain})


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("residual", [False, True], ids=["whole", "residual"])
@pytest.mark.parametrize("translates", [False, True], ids=["latent", "translator"])
@pytest.mark.parametrize("video", [False, True], ids=["image", "video"])
@pytest.mark.parametrize("options", CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_denoising_equals_its_formulas(
    options: dict[str, Any], video: bool, translates: bool, residual: bool
):
    system = DenoisingSystem(**options, residual=residual)
    scene = Scene(config(system, video=video, parts=TRANSLATOR if translates else None))
    assert ("corruption" in scene.micro.draws) == (system.corruption != "lowres")
    given = corrupted(scene)
    torch.testing.assert_close(scene.system.corrupted(scene.micro), given, rtol=0, atol=1e-12)
    assert not torch.equal(given, scene.micro.x)
    check(scene, {"autoencoder": denoised})


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("translates", [False, True], ids=["latent", "translator"])
@pytest.mark.parametrize("options", PLAIN.values(), ids=PLAIN)
def test_denoising_has_every_distance(options: dict[str, Any], translates: bool):
    parts = TRANSLATOR if translates else None
    scene = Scene(config(DenoisingSystem(**options), parts=parts, output="sigmoid"))
    check(scene, {"autoencoder": denoised})


VAE: dict[str, dict[str, Any]] = {
    "bernoulli": {},
    "gaussian": {"likelihood": "gaussian"},
    "sigma": {"likelihood": "gaussian", "sigma": 0.5},
    "beta": {"beta": 4.0},
    "no KL": {"beta": 0.0},
    "warm-up": {"kl_warmup_kimg": 0.4, "beta": 2.0},
    "gaussian warm-up": {"likelihood": "gaussian", "kl_warmup_kimg": 0.4},
}


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("video", [False, True], ids=["image", "video"])
@pytest.mark.parametrize("options", VAE.values(), ids=VAE)
def test_vae_equals_its_formulas(options: dict[str, Any], video: bool):
    for seen, conditional in ((0, False), (100, True), (400, False), (5000, False)):
        model = {"output": "sigmoid", "conditional": conditional}
        scene = Scene(config(VaeSystem(**options), video=video, **model), samples_seen=seen)
        check(scene, {"autoencoder": bound})


@pytest.mark.usefixtures("exact")
def test_dense_vae_equals_its_formulas():
    scene = Scene(config(VaeSystem(), parts=DENSE, output="sigmoid"))
    check(scene, {"autoencoder": bound})


@pytest.mark.usefixtures("exact")
def test_the_vae_reports_its_bound():
    """In nats a sample, with beta 1 whatever the loss has, for each sample on its own."""
    scene = Scene(config(VaeSystem(beta=3.0), output="sigmoid"))
    wanted = bound(Scene(config(VaeSystem(), output="sigmoid")), scene.copies())
    pixels = scene.micro.x[0].numel()
    loss, told = scene.system.loss(
        scene.players, scene.micro, scene.system.make("autoencoder", scene.players, scene.micro)
    )
    assert told["bound_nats"].item() == pytest.approx(wanted.item() * pixels, rel=1e-6)
    assert loss.item() > wanted.item()
    score = scene.system.score(scene.players, scene.micro)["bound_nats"]
    assert score.shape == (len(scene.micro.x),)
    assert score.mean().item() == pytest.approx(wanted.item() * pixels, rel=1e-9)


def test_an_encoder_of_another_width_is_no_obstacle():
    """The networks of one player need not be of one kind."""
    parts = {"encoder": DenseConfig(hidden=()), "generator": NetworkConfig(width=4, max_width=8)}
    scene = Scene(config(AutoencoderSystem(), parts=parts))
    assert scene.run()[0].loss.isfinite()
