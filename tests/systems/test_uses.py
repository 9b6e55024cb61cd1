"""What a trained model of each system can do, and the error for what it cannot."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import agehpc
from agehpc import checkpoints
from agehpc.config.networks import NetworkConfig, PatchConfig, UnetConfig
from agehpc.config.run_files import write_run_config
from agehpc.config.schema import Config
from agehpc.config.systems import (
    AgeMomentsSystem,
    AgeSystem,
    AutoencoderSystem,
    CycleganSystem,
    DenoisingSystem,
    GanSystem,
    Pix2pixSystem,
    SystemConfig,
    VaeSystem,
    WganSystem,
)
from agehpc.errors import RunError, UsageError
from agehpc.systems import build_system
from agehpc.systems.base import Collectives
from agehpc.train.checkpoint import restore_modules
from agehpc.trained import Model
from tests.systems.scenes import (
    CHANNELS,
    CLASSES,
    FRAMES,
    INPUT_CHANNELS,
    LATENT,
    SIZE,
    Scene,
    config,
)

USES = ("encode", "generate", "sample", "translate", "restore", "critique")
TRANSLATOR = {"translator": UnetConfig(width=2, max_width=4, dropout=0.0)}
PATCHES = {
    "generator": NetworkConfig(width=4, max_width=8),
    "discriminator": PatchConfig(width=4, layers=1),
}
CAN: list[tuple[SystemConfig, dict[str, Any], str]] = [
    (AutoencoderSystem(), {}, "encode generate"),
    (DenoisingSystem(), {}, "encode generate restore"),
    (DenoisingSystem(), {"parts": TRANSLATOR}, "restore"),
    (VaeSystem(), {"output": "sigmoid"}, "encode generate sample"),
    (GanSystem(), {}, "generate sample critique"),
    (GanSystem(), {"parts": PATCHES}, "generate sample critique"),
    (WganSystem(), {}, "generate sample critique"),
    (AgeSystem(), {}, "encode generate sample critique"),
    (AgeSystem(encoder="vae"), {}, "encode generate sample critique"),
    (AgeSystem(joint=True), {}, "encode generate sample critique"),
    (AgeMomentsSystem(), {}, "encode generate sample"),
    (Pix2pixSystem(), {}, "translate"),
    (CycleganSystem(), {"norm": "instance"}, "translate"),
]
IDS = [f"{type(s).__name__.removesuffix('System')}-{n}" for n, (s, *_) in enumerate(CAN)]


def model_of(conf: Config) -> Model:
    torch.manual_seed(0)
    model = Model(conf)
    model.load_judges({name: judge.state_dict() for name, judge in model.judges.items()})
    return model


def used(model: Model, use: str) -> list[Tensor]:
    """Results of a use, on two samples."""
    paired = model.config.system.pairing == "paired"
    inputs = INPUT_CHANNELS if paired and use == "translate" else CHANNELS
    x = torch.rand(2, inputs, SIZE, SIZE) * 2 - 1
    given = {"generate": torch.randn(2, LATENT), "sample": 2}.get(use, x)
    made = getattr(model, use)(given)
    return list(made) if isinstance(made, tuple) else [made]


@pytest.mark.parametrize(("system", "more", "uses"), CAN, ids=IDS)
def test_uses(system: SystemConfig, more: dict[str, Any], uses: str):
    model = model_of(config(system, **more))
    assert {use for use in USES if model.can(use)} == set(uses.split())
    for use in USES:
        if not model.can(use):
            with pytest.raises(
                UsageError, match=rf"recipe test .*{system.name}|translator"
            ) as told:
                used(model, use)
            assert "use a run" in str(told.value)
            continue
        first, *others = used(model, use)
        assert all(t.isfinite().all() for t in (first, *others))
        if use == "encode":
            assert first.shape == (2, LATENT)
        elif use == "critique":
            assert first.shape == (2,)
            assert others[0].shape[0] == 2
            assert others[0].dim() == 2
        else:
            assert first.shape == (2, CHANNELS, SIZE, SIZE)
            assert first.abs().max() <= 1


@pytest.mark.parametrize(("system", "more", "uses"), CAN, ids=IDS)
def test_figures_are_told_beforehand(system: SystemConfig, more: dict[str, Any], uses: str):
    scene = Scene(config(system, **more))
    given = {f"{name}_psnr_db" for name in scene.system.compare(scene.players, scene.micro)}
    given |= set(scene.system.score(scene.players, scene.micro))
    assert given == set(system.figures)
    assert system.generates == ("sample" in uses)


@pytest.mark.parametrize(("system", "more", "uses"), CAN[:-2], ids=IDS[:-2])
def test_clips(system: SystemConfig, more: dict[str, Any], uses: str):
    """All but translation, which is of images."""
    model = model_of(config(system, video=True, **more))
    x = torch.rand(2, CHANNELS, FRAMES, SIZE, SIZE) * 2 - 1
    if "encode" in uses:
        assert model.reconstruct(x).shape == x.shape
    if "sample" in uses:
        assert model.sample(2).shape == x.shape
    if "restore" in uses:
        assert model.restore(x).shape == x.shape
    if "critique" in uses:
        assert model.critique(x)[0].shape == (2,)


@pytest.mark.parametrize(
    ("system", "use", "message"),
    [
        (GanSystem(), "encode", "trains the system gan, which has no encoder: it cannot encode; u"),
        (WganSystem(), "translate", "system wgan, which has no translator: it cannot translate"),
        (
            AutoencoderSystem(),
            "sample",
            "which has no prior .*: it cannot sample; use a run of age",
        ),
        (Pix2pixSystem(), "generate", "system pix2pix, which has no generator of latents"),
        (CycleganSystem(), "encode", "system cyclegan, which has no encoder: it cannot encode"),
        (VaeSystem(), "critique", "system vae, which has no data discriminator: .* age, gan or w"),
        (AgeSystem(), "restore", "system age, which has no restoring network: .* denoising"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_what_is_lacking_is_named(system: SystemConfig, use: str, message: str):
    norm = "instance" if system.name == "cyclegan" else "batch"
    with pytest.raises(UsageError, match=message):
        used(model_of(config(system, norm=norm, output="sigmoid")), use)


@pytest.mark.parametrize("system", [GanSystem(), AgeSystem(), VaeSystem()], ids=lambda s: s.name)
def test_labels_out_of_range(system: SystemConfig):
    model = model_of(config(system, conditional=True, output="sigmoid"))
    for wrong in (CLASSES, -1):
        labels = torch.tensor([0, wrong])
        with pytest.raises(UsageError, match=r"labels must be 0 to 2, .*\(a, b, c\): got \["):
            model.sample(2, labels=labels)
        with pytest.raises(UsageError, match="labels must be"):
            model.decode(torch.randn(2, LATENT), labels)
    one, other = (model.sample(1, labels=torch.tensor([c])) for c in (0, 1))
    assert one.shape == other.shape
    everything = model.sample(4)
    assert torch.equal(everything, model.sample(4, labels=torch.tensor([0, 1, 2, 0])))


def test_domains_of_a_translation():
    conf = config(CycleganSystem(), norm="instance")
    data = conf.data.model_copy(update={"domains": ("neutral", "smile")})
    model = model_of(conf.model_copy(update={"data": data}))
    x = torch.rand(2, CHANNELS, SIZE, SIZE) * 2 - 1
    to_b, to_a = model.translate(x), model.translate(x, to="neutral")
    assert torch.equal(to_b, model.translate(x, to="smile"))
    assert not torch.equal(to_a, to_b)
    player: Any = model.players["generators"]
    assert torch.equal(to_a, player.to_a(x, 0))
    with pytest.raises(UsageError, match=r"no domain 'frown' to translate to: .* neutral, smile"):
        model.translate(x, to="frown")


def written(run: Path, conf: Config, step: int = 1, **state: Any) -> None:
    """A checkpoint of fresh networks."""
    system = build_system(conf, Collectives.alone())
    players = system.build()
    tensors: dict[str, dict[str, Tensor]] = {n: p.state_dict() for n, p in players.items()}
    tensors["ema"] = {
        f"{name}.{key}": t
        for name in system.models
        for key, t in players[name].state_dict().items()
    }
    checkpoints.write(run, step, tensors, state)


@pytest.mark.parametrize(
    ("mine", "other"),
    [
        (GanSystem(), AgeSystem()),
        (AgeSystem(), AgeMomentsSystem()),
        (AgeSystem(), AgeSystem(joint=True)),
        (AgeSystem(), AgeSystem(encoder="vae")),
        (VaeSystem(), AutoencoderSystem()),
        (GanSystem(), WganSystem()),
    ],
    ids=lambda s: type(s).__name__,
)
def test_a_checkpoint_of_another_system_is_refused(
    mine: SystemConfig, other: SystemConfig, tmp_path: Path
):
    ours, theirs = (config(s, output="sigmoid") for s in (mine, other))
    write_run_config(tmp_path, ours)
    written(tmp_path, ours)
    assert agehpc.load(tmp_path).config.system == mine
    written(tmp_path, theirs, step=2, hash="0123456789abcdef")
    with pytest.raises(RunError, match="step-00000002 is of another system or of oth"):
        agehpc.load(tmp_path)
    # Training does not go on from it either.
    system = build_system(ours, Collectives.alone())
    players = system.build()
    path = tmp_path / "checkpoints" / "step-00000002"
    with pytest.raises(RunError, match=r"belongs to another run \(hash 0123456789abcdef"):
        restore_modules(path, ours, system, players)
