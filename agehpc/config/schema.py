"""The configuration tree: what a run is.

Frozen pydantic models; the flags of `agehpc train` are made from the same models, and the text
under a field is its help. Imports no torch, so that `--help` and login nodes stay fast.
A run directory is *the same run* when :func:`identity_hash` agrees.
"""

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import Field, field_serializer, field_validator, model_validator

from agehpc.config.evaluation import EvaluateConfig
from agehpc.config.networks import (
    DenseConfig,
    DiscriminatorConfig,
    EncoderConfig,
    GeneratorConfig,
    LatentNetworkConfig,
    TranslatorConfig,
)
from agehpc.config.networks import NetworkConfig as NetworkConfig
from agehpc.config.networks import PatchConfig as PatchConfig
from agehpc.config.networks import ResnetConfig as ResnetConfig
from agehpc.config.networks import UnetConfig as UnetConfig
from agehpc.config.rules import check_data, check_networks
from agehpc.config.section import Count, Fraction, NonNegative, Positive, Section
from agehpc.config.systems import AgeSystem, AnySystem
from agehpc.config.training import TrainConfig
from agehpc.errors import redact


class RunConfig(Section):
    """Which run this is."""

    recipe: str
    """Name of the recipe that the configuration started from."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the weights, the order of samples, augmentation and noise."""


class DataConfig(Section):
    """The shards and how samples are read from them."""

    kind: Literal["video", "image"]
    """What the shards hold."""
    shards: str | tuple[str, ...] = ""
    """Directory of shards made by `agehpc data pack` (it holds manifest.json), or its URL: https,
    s3, or what else fsspec opens; `pipe:COMMAND` with {} for a file's name. Or several of these."""
    weights: tuple[Annotated[int, Field(ge=1, le=10_000)], ...] | None = None
    """How often each of several directories is drawn, in whole numbers: of every sum(weights)
    samples in a row so many are its own; default every sample once an epoch."""
    balance: bool = False
    """Draw every class equally often, and its samples all once before any comes again."""
    size: Annotated[int, Field(ge=8)] = 64
    """Height and width of a sample, in pixels."""
    frames: Count = 16
    """Frames of a clip; 1 for images."""
    strides: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1,)
    """Frame strides to draw from for each clip."""
    short_clips: Literal["refuse", "loop"] = "refuse"
    """A source shorter than frames x stride: an error, or played again from its start."""
    flip: bool = True
    """Mirror half of the samples left to right."""
    shift: Annotated[int, Field(ge=0)] = 0
    """Largest random translation of a sample in pixels (edges replicated; one for a clip)."""
    colour: Fraction = 0.0
    """Largest relative change of brightness and contrast (one for a clip)."""
    pairing: Literal["none", "paired", "unpaired"] = "none"
    """A second image beside each sample: none, the input image of its pair (shards packed with
    `--pairs`), or a sample of another class of the shards (the second domain)."""
    domains: tuple[str, str] | None = None
    """Names of the two classes that are the domains, for unpaired; default the shards' two."""
    interleave: Count = 512
    """Shards read side by side, over all ranks: so many samples in a row come from as many."""
    decoder: Literal["pyav", "decord"] = "pyav"
    """Library that decodes clips; their pixels are the same. benchmarks/loader.py compares them."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Decoding processes a rank; 0 decodes in the training process."""
    prefetch: Count = 2
    """Batches each worker keeps ready."""
    buffer_mib: Count = 512
    """Memory of a rank for what workers keep ready, in MiB: full, it holds fewer batches."""
    deadline_s: Positive = 30.0
    """Seconds that workers may spend on decoding one sample, in two attempts; after that it counts
    as damaged. Without workers there is no deadline."""
    max_bad_fraction: Fraction = 0.001
    """Largest share of the samples read that may be damaged; beyond it the run stops."""
    bad_allowance: Annotated[int, Field(ge=0)] = 3
    """Damaged samples that are let pass whatever their share."""
    allow_pipe: bool = False
    """Run the command of shards given as `pipe:COMMAND`."""
    cache_dir: str | None = None
    """Folder of the node where the shards of a URL are kept; default $AGEHPC_CACHE, else
    ~/.cache/agehpc."""
    cache_gib: Positive = 50.0
    """Largest size of that folder, in GiB; what was used longest ago makes room."""
    fetch_ahead: Annotated[int, Field(ge=0)] = 4
    """Shards of a URL that are fetched before they are needed."""
    fetch_minutes: Positive = 10.0
    """A file of a URL that has not come in this time is an error."""
    dataset_id: str | None = None
    """Identity of the shards; filled in from the manifest."""
    channels: int | None = None
    """Colour channels; filled in from the manifest."""
    input_channels: int | None = None
    """Colour channels of the input images of pairs; filled in from the manifest."""
    classes: tuple[str, ...] | None = None
    """Names of the classes that labels count; filled in from the manifest."""

    @field_validator("shards")
    @classmethod
    def _one_is_no_mixture(cls, shards: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not shards and shards != "":
            raise ValueError("--data.shards names no directory")
        return shards[0] if isinstance(shards, tuple) and len(shards) == 1 else shards

    @field_serializer("shards", when_used="json")
    def _written_without_credentials(self, shards: str | tuple[str, ...]) -> str | tuple[str, ...]:
        return redact(shards) if isinstance(shards, str) else tuple(redact(one) for one in shards)

    @property
    def folders(self) -> tuple[str, ...]:
        """The directories of shards, or their URLs."""
        return (self.shards,) if isinstance(self.shards, str) else self.shards

    @property
    def where(self) -> str:
        """The directories of shards, for messages: without credentials."""
        # Each by itself: of a command all that follows is masked.
        return " ".join(redact(folder) for folder in self.folders)

    def at(self, shards: str) -> "DataConfig":
        """Return the settings for reading another directory of shards."""
        drawn = {"dataset_id": None, "weights": None, "balance": False}
        return self.model_copy(update={"shards": shards, **drawn})

    @model_validator(mode="after")
    def _one_way_to_draw(self) -> "DataConfig":
        if self.weights is not None and len(self.weights) != len(self.folders):
            raise ValueError(
                f"--data.weights are one a directory: got {len(self.weights)} weights for "
                f"{len(self.folders)} --data.shards"
            )
        ways = {
            "--data.balance true": self.balance,
            "--data.weights": self.weights is not None,
            "--data.pairing unpaired": self.pairing == "unpaired",
        }
        chosen = [way for way, given in ways.items() if given]
        if len(chosen) > 1:
            raise ValueError(
                f"{' and '.join(chosen)} each say how often samples are drawn; choose one"
            )
        return self

    @model_validator(mode="after")
    def _images_have_one_frame(self) -> "DataConfig":
        if self.kind == "image" and (self.frames != 1 or self.strides != (1,)):
            raise ValueError(
                f"an image has one frame: got frames {self.frames}, strides {self.strides}; "
                "set --data.frames 1 --data.strides 1"
            )
        return self

    @model_validator(mode="after")
    def _domains_are_two(self) -> "DataConfig":
        if self.domains and (self.pairing != "unpaired" or len(set(self.domains)) < 2):
            raise ValueError(
                f"domains are two classes for unpaired data: got {' '.join(self.domains)} with "
                f"pairing {self.pairing}; set --data.pairing unpaired and two different "
                "--data.domains"
            )
        return self


class ModelConfig(Section):
    """Shapes of the networks, in two or three dimensions by `data.kind`."""

    latent: Count = 128
    """Size Z of a latent."""
    prior: Literal["gaussian", "uniform", "sphere", "mixture"] = "gaussian"
    """What latents are matched to: N(0, I), [-1, 1]^Z, the sphere of radius sqrt(Z), 10 modes."""
    encoder: EncoderConfig | None = None
    """Encoder E: sample to latent; none where the system has none, as for the others."""
    generator: GeneratorConfig | None = None
    """Generator G: latent to sample."""
    discriminator: DiscriminatorConfig | None = None
    """Data discriminator D."""
    latent_discriminator: LatentNetworkConfig | None = None
    """Latent discriminator C."""
    translator: TranslatorConfig | None = None
    """Translator: sample to sample."""
    output: Literal["tanh", "sigmoid"] = "tanh"
    """Last activation of G, stretched to [-1, 1]; with sigmoid dense networks see [0, 1]."""
    latent_activation: Literal["linear", "relu"] = "linear"
    """Last activation of E."""
    conditional: bool = False
    """G and D see the samples' classes, which the shards must hold."""
    base_frames: Count = 2
    """Time is halved until this many frames are left."""
    upsample: Literal["transposed", "resize", "subpixel"] = "transposed"
    """Doubling of resolution in G: transposed convolution, nearest + convolution, pixel shuffle."""

    @model_validator(mode="after")
    def _rules(self) -> "ModelConfig":
        generator, critic = self.generator, self.discriminator
        if self.conditional and generator is not None:
            dense = isinstance(generator, DenseConfig)
            if not (generator.normed_layers if dense else generator.norm != "none"):
                raise ValueError(
                    "the classes of a conditional generator come in through its norms, and it has "
                    "none; set --model.generator.norm batch or --model.conditional false"
                )
        if isinstance(critic, DenseConfig) and len(critic.hidden) in critic.normed_layers:
            raise ValueError(
                f"--model.discriminator.normed {len(critic.hidden)} is the layer of the logit, "
                f"which no norm may follow; use 0 to {len(critic.hidden) - 1}"
            )
        return self


class OptimConfig(Section):
    """Adam, with decoupled weight decay where it is not 0."""

    lr: Positive = 2e-4
    """Learning rate."""
    betas: tuple[Fraction, Fraction] = (0.5, 0.999)
    """Decay of the first and second moment."""
    eps: Positive = 1e-8
    """Term added to the denominator."""
    weight_decay: NonNegative = 0.0
    """Decoupled weight decay."""


class ZeroConfig(Section):
    """DeepSpeed ZeRO."""

    stage: Annotated[int, Field(ge=0, le=3)] = 0
    """0 shards nothing, 1 the optimizer, 2 gradients too, 3 parameters too."""


class EmaConfig(Section):
    """Exponential moving average of a player's weights, in float32."""

    half_life_kimg: NonNegative = 0.0
    """Half-life in kimg; 0 keeps no average."""
    ramp_up: NonNegative = 0.05
    """The half-life is at most this share of the samples seen so far."""


class PlayerConfig(Section):
    """One module with its own DeepSpeed engine and optimizer."""

    optim: OptimConfig = OptimConfig()
    """Its optimizer."""
    zero: ZeroConfig = ZeroConfig()
    """Its sharding."""
    clip: NonNegative = 0.0
    """Largest global norm of its gradient; 0 does not clip."""
    ema: EmaConfig = EmaConfig()
    """Its averaged weights."""


class ObserveConfig(Section):
    """What a run shows while it trains."""

    tick_kimg: Positive = 4.0
    """A row of metrics and a status line every this many kimg."""
    samples_every_kimg: Positive = 50.0
    """Sample grids every this many kimg, and one at the end."""
    grid: Count = 8
    """Samples of a grid: fixed ones (half held out), their reconstructions, fixed noise."""
    tensorboard: bool = True
    """Write TensorBoard event files."""


class ClusterConfig(Section):
    """Devices, threads and process groups."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes the GPU of the local rank where there is one."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads a rank computes with; 0 shares the available cores among the node's ranks."""
    timeout_minutes: Positive = 10.0
    """A collective that waits longer than this fails the run."""
    hang_minutes: NonNegative | None = None
    """Without progress of any rank for this long, every rank writes its stacks to RUN/logs and
    ends; default 0.8 of the timeout, 0 never."""
    straggler_factor: Annotated[float, Field(gt=1.0)] = 1.5
    """A rank is told of as slow whose own work takes this many times that of the median rank..."""
    straggler_ticks: Count = 3
    """...in this many ticks in a row."""


class Config(Section):
    """A complete run."""

    run: RunConfig
    data: DataConfig
    system: AnySystem = AgeSystem()
    model: ModelConfig = ModelConfig()
    players: dict[str, PlayerConfig]
    """One entry a player of the system."""
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    observe: ObserveConfig = ObserveConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _rules(self) -> "Config":
        wanted = self.system.players
        if set(self.players) != set(wanted):
            raise ValueError(
                f"system {self.system.name} has the players {', '.join(wanted)}; "
                f"got {', '.join(sorted(self.players)) or 'none'} under players"
            )
        check_networks(self.system, self.model)
        check_data(self.system, self.data)
        for name in self.system.least_stages:
            stage = self.players[name].zero.stage
            if stage > 2:
                # Stage 3 breaks a second differentiation and forwards in other players' turns.
                raise ValueError(
                    f"{name} cannot be sharded at ZeRO stage {stage}: it is differentiated twice, "
                    f"or runs in another player's turn; set --players.{name}.zero.stage to 0, 1 "
                    "or 2"
                )
        return self


# What may differ between two starts of one run: where the shards lie and how they are read.
_DATA_NOT_IDENTITY = {
    *("shards", "decoder", "workers", "prefetch", "buffer_mib"),
    *("deadline_s", "max_bad_fraction", "bad_allowance"),
    *("allow_pipe", "cache_dir", "cache_gib", "fetch_ahead", "fetch_minutes"),
}


def identity(config: Config) -> dict[str, Any]:
    """Return the part of the tree that makes a run that run, as plain values.

    Seed, system, model, optimizers and data (by dataset id). World size, ZeRO stages, batches,
    workers and cadences may change between starts: samples go on in their order.
    """
    return {
        "run": {"seed": config.run.seed},
        "system": config.system.model_dump(mode="json"),
        "model": config.model.model_dump(mode="json"),
        "players": {
            name: {"optim": player.optim.model_dump(mode="json")}
            for name, player in sorted(config.players.items())
        },
        "data": config.data.model_dump(mode="json", exclude=_DATA_NOT_IDENTITY),
    }


def identity_hash(config: Config) -> str:
    """Hash of :func:`identity`: 16 hex digits."""
    text = json.dumps(identity(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
