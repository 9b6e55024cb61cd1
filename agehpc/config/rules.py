"""Rules between a system's settings and the networks it is given; ValueError names the flag."""

from typing import Any

from agehpc.config.networks import DenseConfig, NetworkConfig, PatchConfig
from agehpc.config.systems import (
    AgeMomentsSystem,
    AgeSystem,
    AutoencoderSystem,
    DenoisingSystem,
    Game,
    SystemConfig,
    VaeSystem,
    WganSystem,
)
from agehpc.errors import ConfigError

PARTS = ("encoder", "generator", "discriminator", "latent_discriminator", "translator")


def check_networks(system: SystemConfig, model: Any) -> None:
    """Hold a system's settings against `model`, a ModelConfig."""
    if not system.wanted:  # it takes any
        return
    given = {part for part in PARTS if getattr(model, part) is not None}
    if isinstance(system, AgeSystem) and system.joint and "latent_discriminator" in given:
        raise ValueError(
            "--system.joint true puts one discriminator of pairs in place of two, and model has a "
            "latent_discriminator; use recipe image_age_joint_64, or a --config file with "
            "model.latent_discriminator null"
        )
    if not any(given == set(choice) for choice in system.wanted):
        wanted = " or ".join("+".join(choice) for choice in system.wanted)
        raise ValueError(
            f"system {system.name} is made of {wanted}; got "
            f"{', '.join(p for p in PARTS if p in given) or 'none'} under model"
        )
    if model.conditional and not system.conditions:
        game = " with the game of moments" if isinstance(system, AgeMomentsSystem) else ""
        raise ValueError(
            f"system {system.name}{game} does not generate by class; set --model.conditional false"
        )
    _check_output(system, model)
    _check_latents(system, model)
    _check_used(system, model, given)
    if isinstance(system, Game):
        _check_critic(system, model.discriminator)
    if isinstance(system, DenoisingSystem):
        _check_corruption(system)


def check_data(system: SystemConfig, data: Any) -> None:
    """Hold a system's settings against `data`, a DataConfig."""
    if data.pairing != system.pairing:
        raise ValueError(
            f"system {system.name} trains on data whose pairing is {system.pairing}: got "
            f"--data.pairing {data.pairing}; set --data.pairing {system.pairing}"
        )
    if isinstance(system, DenoisingSystem) and system.corruption == "lowres":
        factor = int(system.level)
        if data.size % factor:
            raise ValueError(
                f"--data.size {data.size} does not divide by {factor}, the --system.level of "
                f"corruption lowres; use {data.size // factor * factor} or "
                f"{-(-data.size // factor) * factor}"
            )
    if isinstance(system, DenoisingSystem) and system.corruption == "masking":
        _check_hole(system.level, data.size)


def _check_hole(share: float, size: int) -> None:
    if share * size < 0.5:  # sides are rounded to whole pixels
        raise ValueError(
            f"--system.level {share:g} of corruption masking is the side of a square as a share of "
            f"--data.size {size}: it hides no pixel; use {1 / size:.3f} or more"
        )


def check_labels(config: Any) -> None:
    """Hold a Config, with what the shards decide filled in, against their labels."""
    if config.model.conditional and len(config.data.classes or ()) < 2:
        raise ConfigError(
            f"recipe {config.run.recipe} generates by class, and {config.data.where} has "
            f"{len(config.data.classes or ())} of them; pack sources in a folder for each class, "
            "or set --model.conditional false"
        )


def _check_output(system: SystemConfig, model: Any) -> None:
    bits = (isinstance(system, AutoencoderSystem) and system.reconstruction == "bce") or (
        isinstance(system, VaeSystem) and system.likelihood == "bernoulli"
    )
    if bits and model.output != "sigmoid":
        raise ValueError(
            "the reconstruction is scored as a probability, which needs --model.output sigmoid: "
            f"got {model.output}"
        )
    generator = model.generator
    if model.encoder is not None and isinstance(generator, DenseConfig):
        last = len(generator.hidden)
        if last in generator.normed_layers:
            raise ValueError(
                f"--model.generator.normed {last} puts a norm behind the last activation, where a "
                f"reconstruction must stay in its range; use 0 to {last - 1}"
            )


def _check_latents(system: SystemConfig, model: Any) -> None:
    """A prior is of use where the latents can reach it, and the system draws from it."""
    matched = isinstance(system, VaeSystem | AgeSystem | AgeMomentsSystem)
    if matched and model.latent_activation != "linear":
        raise ValueError(
            f"the latents of system {system.name} are matched to a prior with values of both "
            f"signs: --model.latent-activation {model.latent_activation} keeps them from it; use "
            "linear"
        )
    if isinstance(system, VaeSystem) and model.prior != "gaussian":
        raise ValueError(
            f"the KL of system vae is from N(0, I), and --model.prior is {model.prior}; use "
            "gaussian"
        )
    if isinstance(system, AgeSystem) and system.kl_weight > 0 and model.prior != "gaussian":
        raise ValueError(
            f"--system.kl-weight {system.kl_weight:g} pulls the latents to N(0, I), and "
            f"--model.prior is {model.prior}; set the weight to 0, or the prior to gaussian"
        )
    if isinstance(system, AgeSystem) and system.encoder == "vae" and model.prior == "sphere":
        raise ValueError(
            "a VAE encoder draws around its means, off the sphere of --model.prior sphere; use "
            "gaussian, uniform or mixture"
        )
    if isinstance(system, AgeMomentsSystem) and model.prior == "uniform":
        raise ValueError(
            "the game of moments brings latents to mean 0 and variance 1, and --model.prior "
            "uniform has the variance 1/3; use gaussian, sphere or mixture"
        )


def _check_used(system: SystemConfig, model: Any, given: set[str]) -> None:
    """Refuse what would have no effect: it would make another run of the same thing."""
    without_latents = "its network has no latents"
    unused: list[tuple[Any, str, bool, str]] = [
        (model, "latent", not given & {"encoder", "generator"}, without_latents),
        (model, "latent_activation", "encoder" not in given, "it has no encoder"),
        (
            model,
            "prior",
            isinstance(system, AutoencoderSystem) or "translator" in given,
            "nothing matches its latents to a prior",
        ),
    ]
    if isinstance(system, AutoencoderSystem):
        bits = system.reconstruction == "bce"
        unused.append((system, "pixels", bits, "bce scores pixels in [0, 1]"))
    if isinstance(system, VaeSystem):
        bits = system.likelihood == "bernoulli"
        unused.append((system, "sigma", bits, "a Bernoulli likelihood has no deviation"))
    if isinstance(system, AgeSystem):
        why = "a joint discriminator judges latents with their samples"
        unused.append((system, "latent_adversarial_weight", system.joint, why))
    for section, name, idle, why in unused:
        value = getattr(section, name)
        if idle and value != type(section).model_fields[name].default:
            where = "model" if section is model else "system"
            raise ValueError(
                f"--{where}.{name.replace('_', '-')} {value} has no effect with system "
                f"{system.name}: {why}; leave it out"
            )


def _check_critic(system: Game, critic: Any) -> None:
    batch = isinstance(critic, NetworkConfig | DenseConfig | PatchConfig) and critic.norm in (
        "batch",
        "sync_batch",
    )
    if system.gradient_penalty > 0 and batch:
        # The penalty bounds the slope at each sample; batch statistics tie samples together.
        raise ValueError(
            "a gradient penalty needs a discriminator whose verdict on a sample does not depend "
            f"on the others, but its norm is {critic.norm}; set --model.discriminator.norm none, "
            "group or instance"
        )
    bounded = system.gradient_penalty > 0 or system.r1_gamma > 0 or critic.spectral
    if system.adversarial == "wasserstein" and not bounded and not isinstance(system, WganSystem):
        raise ValueError(
            "nothing bounds the discriminator's slope, which --system.adversarial wasserstein "
            "needs; set --system.gradient-penalty 10 or --model.discriminator.spectral true"
        )
    if isinstance(system, AgeSystem) and system.joint and isinstance(critic, PatchConfig):
        raise ValueError("a joint discriminator cannot judge patches; use a recipe with kind conv")


def _check_corruption(system: DenoisingSystem) -> None:
    if system.residual and system.reconstruction == "bce":
        raise ValueError(
            "--system.residual true adds to pixels, and --system.reconstruction bce scores "
            "probabilities; use l1 or mse, or set --system.residual false"
        )
    if system.corruption == "lowres" and system.level not in (2, 4):
        raise ValueError(
            f"--system.level {system.level:g} is the factor of the resolution for corruption "
            "lowres; use 2 or 4"
        )
    if system.corruption in ("salt_and_pepper", "masking") and system.level > 1:
        raise ValueError(
            f"--system.level {system.level:g} is a share for corruption {system.corruption}; use "
            "a value up to 1"
        )
