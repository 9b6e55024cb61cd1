"""Settings of the learning systems, one class each; the code is in agehpc/systems.

A class says which players and networks its system has and where its code lies, so that a new
system needs no list to be changed: defining the class is enough. Imports no torch.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, WrapValidator, model_validator

from agehpc.config.section import Count, Fraction, NonNegative, Positive, Section

_KINDS: dict[tuple[str, str], type["SystemConfig"]] = {}


class SystemConfig(Section):
    """What every learning system says of itself."""

    players: ClassVar[tuple[str, ...]] = ()
    """Its players: one module, optimizer and engine each."""
    networks: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """The parts of `model` that it builds; several choices where there are any."""
    code: ClassVar[str] = ""
    """`module:class` of the system itself."""
    least_stages: ClassVar[tuple[str, ...]] = ()
    """Players that are differentiated twice, or run in another player's turn: ZeRO 2 at most."""
    shares_forward: ClassVar[bool] = True
    """The maker's forward before the first turn serves every turn of a step."""
    pairing: ClassVar[Literal["none", "paired", "unpaired"]] = "none"
    """What a sample of its data is."""
    conditions: ClassVar[bool] = False
    """Whether it can generate by class."""
    takes_moments: ClassVar[bool] = False
    """Whether its losses take moments of latents over the batch."""
    figures: ClassVar[tuple[str, ...]] = ()
    """What evaluations measure of its models, the most telling first."""
    generates: ClassVar[bool] = True
    """Whether its models give samples from draws of the prior."""

    name: str
    """The learning system."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Make the system known by its name, and its game where systems share a name."""
        super().__pydantic_init_subclass__(**kwargs)
        if cls.code:
            _KINDS[_key({n: field.default for n, field in cls.model_fields.items()})] = cls

    @property
    def wanted(self) -> tuple[tuple[str, ...], ...]:
        """The parts of `model` that these settings need, or a choice of them."""
        return self.networks

    @property
    def batches(self) -> int:
        """Global batches that a step reads: the turns of the player who takes most."""
        return 1

    @property
    def generator_batches(self) -> int:
        """Global batches that the generator's side consumes in a step."""
        return 1


def _key(values: dict[str, Any]) -> tuple[str, str]:
    return str(values.get("name")), str(values.get("game", ""))


def _choose(value: Any, handler: Any) -> SystemConfig:
    if isinstance(value, SystemConfig):
        return value
    if not isinstance(value, dict):
        return handler(value)
    kind = _KINDS.get(_key(value))
    if kind is None:
        known = ", ".join(sorted({name for name, _ in _KINDS}))
        raise ValueError(f"unknown system {value.get('name')!r}; there are {known}")
    return kind.model_validate(value)


AnySystem = Annotated[SerializeAsAny[SystemConfig], WrapValidator(_choose)]
"""The settings of one system, told apart by name."""

Reconstruction = Literal["l1", "mse"]
AugmentPolicy = Literal["colour", "translation", "cutout"]


class Game(Section):
    """What every game against a discriminator shares."""

    adversarial: Literal["non_saturating", "hinge", "lsgan", "wasserstein"] = "non_saturating"
    """Loss of the game."""
    label_smoothing: Fraction = 0.0
    """The discriminator's target for real samples is this much below 1 (one-sided)."""
    r1_gamma: NonNegative = 0.0
    """Weight gamma / 2 of D's squared gradient on real data; 0 switches it off."""
    r1_every: Count = 16
    """R1 is computed every this many steps, and weighed that much more."""
    r1_form: Literal["exact", "finite_difference"] = "exact"
    """By double backward, or from D at a slightly disturbed x, which needs a single one."""
    r1_sigma: Positive = 0.01
    """Standard deviation of that disturbance, on pixels in [-1, 1]."""
    gradient_penalty: NonNegative = 0.0
    """Weight of (|gradient of D| - 1)^2 between real and generated samples; 0 switches it off."""
    augment: tuple[AugmentPolicy, ...] = ()
    """Differentiable augmentation of all that D sees: any of colour, translation, cutout."""

    @model_validator(mode="after")
    def _fitting_loss(self) -> "Game":
        if self.label_smoothing > 0 and self.adversarial not in ("non_saturating", "lsgan"):
            raise ValueError(
                f"--system.label-smoothing {self.label_smoothing:g} has no target to smooth in "
                f"the loss {self.adversarial}; set it to 0 (losses with a target are "
                "non_saturating and lsgan)"
            )
        return self


class AutoencoderSystem(SystemConfig):
    """Autoencoder: reconstruct the input from its latent."""

    players: ClassVar = ("autoencoder",)
    networks: ClassVar = (("encoder", "generator"),)
    code: ClassVar = "agehpc.systems.autoencoder:Plain"
    conditions: ClassVar = True
    figures: ClassVar = ("reconstruction_psnr_db", "mse")
    generates: ClassVar = False

    name: Literal["autoencoder"] = "autoencoder"
    """The learning system."""
    reconstruction: Literal["l1", "mse", "bce"] = "mse"
    """Distance to the input, averaged over elements; bce needs the output sigmoid."""
    pixels: Literal["signed", "unit"] = "unit"
    """Scale of pixels that the distance is taken on: [-1, 1] or [0, 1]."""


class DenoisingSystem(AutoencoderSystem):
    """Denoising autoencoder: find the clean sample behind a corrupted one."""

    networks: ClassVar = (("encoder", "generator"), ("translator",))
    code: ClassVar = "agehpc.systems.denoising:Denoising"
    conditions: ClassVar = False
    figures: ClassVar = ("restored_psnr_db", "corrupted_psnr_db", "mse")

    name: Literal["denoising"] = "denoising"  # type: ignore[assignment]
    """The learning system."""
    corruption: Literal["gaussian", "salt_and_pepper", "masking", "lowres"] = "gaussian"
    """Noise, pixels black or white, a square cut out, or resolution lost."""
    level: Positive = 0.2
    """Deviation of the noise on pixels in [0, 1]; share of pixels; side of the square as a share
    of the sample's; factor of the resolution, 2 or 4."""
    residual: bool = False
    """The network's output, before its activation, is added to the corrupted sample."""


class VaeSystem(SystemConfig):
    """Variational autoencoder: a bound on the likelihood of the data."""

    players: ClassVar = ("autoencoder",)
    networks: ClassVar = (("encoder", "generator"),)
    code: ClassVar = "agehpc.systems.vae:Vae"
    conditions: ClassVar = True
    figures: ClassVar = ("reconstruction_psnr_db", "mse", "bound_nats")

    name: Literal["vae"] = "vae"
    """The learning system."""
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
    """Of pixels in [0, 1] given the latent; bernoulli needs the output sigmoid."""
    sigma: Positive = 0.1
    """Standard deviation of the Gaussian likelihood, on pixels in [0, 1]."""
    beta: NonNegative = 1.0
    """Weight of KL(q(z|x) || N(0, I)); 1 is the bound itself."""
    kl_warmup_kimg: NonNegative = 0.0
    """The KL gains its weight over this many kimg."""


class GanSystem(Game, SystemConfig):
    """Generative adversarial network: a generator against a discriminator."""

    players: ClassVar = ("generator", "discriminator")
    networks: ClassVar = (("generator", "discriminator"),)
    code: ClassVar = "agehpc.systems.gan:Gan"
    conditions: ClassVar = True
    least_stages: ClassVar = ("discriminator",)

    name: Literal["gan"] = "gan"
    """The learning system."""


class WganSystem(Game, SystemConfig):
    """Wasserstein GAN: a critic that is bounded in its slope, ahead of the generator."""

    players: ClassVar = ("generator", "critic")
    networks: ClassVar = (("generator", "discriminator"),)
    code: ClassVar = "agehpc.systems.wgan:Wgan"
    conditions: ClassVar = True
    least_stages: ClassVar = ("critic",)

    name: Literal["wgan"] = "wgan"
    """The learning system."""
    adversarial: Literal["wasserstein"] = "wasserstein"
    """Loss of the game."""
    gradient_penalty: NonNegative = 10.0
    """Weight of (|gradient of D| - 1)^2 between real and generated samples; 0 switches it off."""
    weight_clip: NonNegative = 0.0
    """The critic's weights stay within this bound (the original form); 0 does not clip."""
    n_critic: Count = 5
    """Turns of the critic, each on a batch of its own, to one of the generator."""

    @property
    def batches(self) -> int:
        """A batch for each turn of the critic."""
        return self.n_critic

    @model_validator(mode="after")
    def _bounded(self) -> "WganSystem":
        if not self.gradient_penalty and not self.weight_clip and not self.r1_gamma:
            raise ValueError(
                "nothing bounds the critic's slope: set --system.gradient-penalty 10, or "
                "--system.weight-clip 0.01"
            )
        return self


class Pix2pixSystem(Game, SystemConfig):
    """Paired translation: a U-Net against a discriminator of (input, output) patches."""

    players: ClassVar = ("generator", "discriminator")
    networks: ClassVar = (("translator", "discriminator"),)
    code: ClassVar = "agehpc.systems.pix2pix:Pix2pix"
    least_stages: ClassVar = ("discriminator",)
    pairing: ClassVar = "paired"
    figures: ClassVar = ("translation_psnr_db",)
    generates: ClassVar = False

    name: Literal["pix2pix"] = "pix2pix"
    """The learning system."""
    reconstruction_weight: NonNegative = 100.0
    """Weight of the L1 distance of the output to the target, on pixels in [-1, 1]."""
    adversarial_weight: NonNegative = 1.0
    """Weight of the discriminator's verdict."""


class CycleganSystem(Game, SystemConfig):
    """Unpaired translation: two generators that undo each other, two discriminators."""

    players: ClassVar = ("generators", "discriminators")
    networks: ClassVar = (("translator", "discriminator"),)
    code: ClassVar = "agehpc.systems.cyclegan:Cyclegan"
    least_stages: ClassVar = ("discriminators",)
    pairing: ClassVar = "unpaired"
    figures: ClassVar = ("cycle_a_psnr_db", "cycle_b_psnr_db")
    generates: ClassVar = False

    name: Literal["cyclegan"] = "cyclegan"
    """The learning system."""
    adversarial: Literal["non_saturating", "hinge", "lsgan", "wasserstein"] = "lsgan"
    """Loss of both games."""
    cycle_weight: NonNegative = 10.0
    """Weight of the L1 distance of there-and-back to the sample, on pixels in [-1, 1]."""
    identity_weight: NonNegative = 0.5
    """Weight, times the cycle's, of the L1 distance of a domain's own sample to its translation."""
    pool: Annotated[int, Field(ge=0)] = 50
    """Generated images that are remembered and shown to the discriminators again; 0: none."""


class AgeSystem(Game, SystemConfig):
    """Auto GAN Encoder: reconstruction, a game on the data, a game on the latents."""

    players: ClassVar = ("autoencoder", "critics")
    networks: ClassVar = (("encoder", "generator", "discriminator", "latent_discriminator"),)
    code: ClassVar = "agehpc.systems.age:Age"
    takes_moments: ClassVar = True
    conditions: ClassVar = True
    least_stages: ClassVar = ("critics",)
    figures: ClassVar = ("reconstruction_psnr_db",)

    name: Literal["age"] = "age"
    """The learning system."""
    game: Literal["discriminators"] = "discriminators"
    """Who judges: discriminators."""
    encoder: Literal["deterministic", "vae"] = "deterministic"
    """E gives a latent, or the mean and log-variance of a Gaussian that latents are drawn from."""
    joint: bool = False
    """One discriminator of pairs, (x, E(x)) against (G(z), z), in place of two."""
    reconstruction: Reconstruction = "l1"
    """Distance of G(E(x)) to x, averaged over elements, on pixels in [-1, 1]."""
    reconstruction_weight: NonNegative = 20.0
    """Weight of the reconstruction distance."""
    squared_weight: NonNegative = 0.0
    """Weight of the mean squared distance, beside the other."""
    kl_weight: NonNegative = 0.0
    """Weight of KL(q(z|x) || N(0, I)), in nats a latent dimension, of a VAE encoder."""
    latent_noise: NonNegative = 0.0
    """Standard deviation of the noise added to E(x) before G reconstructs from it in training."""
    warmup_kimg: NonNegative = 0.0
    """The game on the data (D, G(z), the latent cycle) starts after this many kimg."""
    adversarial_weight: NonNegative = 1.0
    """Weight of D's verdict on G(z)."""
    adversarial_ramp_kimg: NonNegative = 0.0
    """D's verdict and the latent cycle gain their weights over this many kimg after that."""
    reconstruction_fake_weight: NonNegative = 0.0
    """Weight of D's verdict on G(E(x)), for both players; 0 shows D only G(z) as generated."""
    feature_weight: NonNegative = 0.0
    """Weight of the L1 distance between D's features of x and of G(E(x))."""
    latent_adversarial_weight: NonNegative = 1.0
    """Weight of C's verdict on E(x)."""
    moment_weight: NonNegative = 1.0
    """Weight of (mean - prior mean)^2 + (variance - prior variance)^2 of the latents in a batch."""
    latent_cycle_weight: NonNegative = 0.5
    """Weight of the squared distance of E(G(z)) to z."""

    @model_validator(mode="after")
    def _posterior(self) -> "AgeSystem":
        if self.kl_weight > 0 and self.encoder != "vae":
            raise ValueError(
                f"--system.kl-weight {self.kl_weight:g} weighs the KL of a VAE encoder, and the "
                f"encoder is {self.encoder}; set --system.encoder vae, or the weight to 0"
            )
        return self

    @property
    def wanted(self) -> tuple[tuple[str, ...], ...]:
        """A joint discriminator takes the latent one's place."""
        whole = self.networks[0]
        return (whole[:-1] if self.joint else whole,)


class AgeMomentsSystem(SystemConfig):
    """Adversarial Generator-Encoder: encoder and generator play on the moments of latents."""

    players: ClassVar = ("encoder", "generator")
    networks: ClassVar = (("encoder", "generator"),)
    code: ClassVar = "agehpc.systems.age_moments:AgeMoments"
    takes_moments: ClassVar = True
    least_stages: ClassVar = ("encoder", "generator")
    shares_forward: ClassVar = False
    figures: ClassVar = ("reconstruction_psnr_db",)

    name: Literal["age"] = "age"
    """The learning system."""
    game: Literal["moments"] = "moments"
    """Who judges: the encoder, by the divergence of its latents from the prior."""
    kl_form: Literal["exact", "legacy_age"] = "exact"
    """KL of Gaussians with the latents' moments, or what the paper's code computes."""
    kl_reduction: Literal["sum", "mean"] = "mean"
    """Over latent dimensions."""
    encoder_turns: Count = 1
    """Turns of the encoder in a step, each on a batch of its own."""
    generator_turns: Count = 2
    """Turns of the generator in a step, each on a batch of its own."""
    kl_real_weight: NonNegative = 1.0
    """Encoder: weight of the divergence of E(x), minimised."""
    kl_fake_weight: NonNegative = 1.0
    """Encoder: weight of the divergence of E(G(z)), maximised."""
    generator_kl_weight: NonNegative = 1.0
    """Generator: weight of the divergence of E(G(z)), minimised."""
    reconstruction: Reconstruction = "l1"
    """Distance of G(E(x)) to x, averaged over elements, on pixels in [-1, 1]."""
    encoder_reconstruction_weight: NonNegative = 10.0
    """Encoder: weight of that distance."""
    generator_reconstruction_weight: NonNegative = 0.0
    """Generator: weight of that distance."""
    latent_distance: Literal["cosine", "mse"] = "mse"
    """Distance of E(G(z)) to z: 1 - cosine, or mean squared."""
    encoder_cycle_weight: NonNegative = 0.0
    """Encoder: weight of that distance."""
    generator_cycle_weight: NonNegative = 10.0
    """Generator: weight of that distance."""

    @property
    def batches(self) -> int:
        """A batch for each turn of the player who takes most."""
        return max(self.encoder_turns, self.generator_turns)

    @property
    def generator_batches(self) -> int:
        """All that the generator's turns consume."""
        return self.generator_turns
