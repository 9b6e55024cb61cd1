"""A trained model: what a run directory's checkpoint holds is what it computes."""

from pathlib import Path
from typing import Any

import pytest
import torch

import agehpc
from agehpc import checkpoints
from agehpc.config.run_files import write_run_config
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
from agehpc.errors import RunError
from agehpc.models.blocks import DATA, PRIOR
from agehpc.models.prior import draw
from agehpc.systems.age import Autoencoder, Critics
from agehpc.systems.base import ALWAYS, Micro
from agehpc.trained import Model

LATENT = 6


@pytest.fixture
def config() -> Config:
    net = NetworkConfig(width=4, max_width=16)
    return Config(
        run=RunConfig(recipe="test"),
        data=DataConfig(kind="video", size=16, frames=4, channels=3, dataset_id="d"),
        system=AgeSystem(),
        model=ModelConfig(
            latent=LATENT,
            encoder=net,
            generator=net,
            discriminator=net,
            latent_discriminator=LatentNetworkConfig(),
        ),
        players={"autoencoder": PlayerConfig(), "critics": PlayerConfig()},
    )


def autoencoder(config: Config, seed: int) -> Any:
    """One whose statistics say what it has seen."""
    torch.manual_seed(seed)
    net = Autoencoder(config)
    for _ in range(3):
        net(clips(4), torch.randn(4, LATENT), cycle=True)
    return net.eval()


def clips(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 4, 16, 16) * 2 - 1


def prefixed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"autoencoder.{name}": tensor for name, tensor in tensors.items()}


@pytest.fixture
def run(config: Config, tmp_path: Path) -> Path:
    """A run directory with two checkpoints."""
    write_run_config(tmp_path, config)
    for step in (1, 2):
        state = autoencoder(config, step).state_dict()
        tensors = {"ema": prefixed(state), "critics": Critics(config).state_dict()}
        checkpoints.write(tmp_path, step, tensors, {"step": step})
    return tmp_path


def test_load_gives_the_averaged_model_of_the_newest_checkpoint(config: Config, run: Path):
    model, wanted = agehpc.load(run), autoencoder(config, 2)
    assert model.state().keys() == prefixed(wanted.state_dict()).keys()
    for name, tensor in checkpoints.read_tensors(checkpoints.complete(run)[-1], "ema").items():
        assert torch.equal(model.state()[name], tensor)
    x_BCS, z_BZ = clips(3), torch.randn(3, LATENT)
    with torch.no_grad():
        latent = wanted.encoder(x_BCS, DATA)
        assert torch.equal(model.encode(x_BCS), latent)
        assert torch.equal(model.decode(z_BZ), wanted.generator(z_BZ, DATA))
        assert torch.equal(model.decode(z_BZ, from_prior=True), wanted.generator(z_BZ, PRIOR))
        assert torch.equal(model.reconstruct(x_BCS), wanted.generator(latent, DATA))
        keys = [philox(5, "sample", n) for n in (2, 3)]
        noise = draw("gaussian", keys, LATENT)
        assert torch.equal(model.sample(2, seed=5, first=2), wanted.generator(noise, PRIOR))
    assert model.sample(2).shape == (2, 3, 4, 16, 16)
    assert not torch.equal(model.decode(z_BZ), model.decode(z_BZ, from_prior=True))
    assert not any(p.requires_grad for p in model.players["autoencoder"].parameters())


def test_one_sample_does_not_see_the_others(run: Path):
    model, x_BCS = agehpc.load(run), clips(4)
    alone = torch.cat([model.reconstruct(x[None]) for x in x_BCS])
    torch.testing.assert_close(model.reconstruct(x_BCS), alone)
    torch.testing.assert_close(model.sample(4, seed=1)[2:], model.sample(2, seed=1, first=2))


def test_a_checkpoint_by_name(config: Config, run: Path):
    x_BCS = clips(2)
    model = agehpc.load(run, checkpoint="step-00000001")
    with torch.no_grad():
        assert torch.equal(model.encode(x_BCS), autoencoder(config, 1).encoder(x_BCS, DATA))
    with pytest.raises(RunError, match=r"no checkpoint 'step-3'; it has step-00000001, step-0000"):
        agehpc.load(run, checkpoint="step-3")


def test_what_cannot_be_loaded(
    config: Config, run: Path, tmp_path_factory: Any, caplog: pytest.LogCaptureFixture
):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(RunError, match=r"is no run directory"):
        agehpc.load(empty)
    write_run_config(empty, config)
    with pytest.raises(RunError, match="no complete checkpoint yet"):
        agehpc.load(empty)
    file = run / "checkpoints" / "step-00000002" / "ema.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(RunError, match="differs from its checksum"):
        agehpc.load(run, checkpoint="step-00000002")
    wanted = autoencoder(config, 1).encoder(x_BCS := clips(2), DATA)
    with torch.no_grad():
        assert torch.equal(agehpc.load(run).encode(x_BCS), wanted)
    assert f"{file} differs from its checksum" in caplog.text
    assert "passed over for step-00000001" in caplog.text
    (run / "checkpoints" / "step-00000001" / "state.json").unlink()
    with pytest.raises(RunError, match=r"none of the 2 checkpoints of .* is sound"):
        agehpc.load(run)


def test_loading_leaves_the_random_generator_alone(run: Path):
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    agehpc.load(run).sample(1)
    assert torch.equal(torch.rand(3), wanted)


def test_weights_without_statistics_are_calibrated(config: Config):
    trained = autoencoder(config, 3)
    model = Model(config)
    model.load(prefixed({name: p.detach() for name, p in trained.named_parameters()}))
    batches = [
        Micro(clips(4), torch.full((4,), -1), ALWAYS, 0, {"z": torch.randn(4, LATENT)})
        for _ in range(3)
    ]
    model.calibrate(batches)
    stage = "autoencoder.encoder.trunk.stages.1"
    conv = trained.encoder.trunk.stages[1].conv
    seen = [conv(trained.encoder.trunk.stages[0](m.x, DATA)) for m in batches]
    state = model.state()
    torch.testing.assert_close(
        state[f"{stage}.norm.running_mean"][DATA],
        torch.stack([h.mean((0, 2, 3, 4)) for h in seen]).mean(0),
    )
    torch.testing.assert_close(
        state[f"{stage}.norm.running_var"][DATA],
        torch.stack([h.var((0, 2, 3, 4)) for h in seen]).mean(0),
    )
    counts = [t for name, t in state.items() if name.endswith("batches_tracked")]
    assert all(t.tolist() == [3, 3] for t in counts)
    model.calibrate(batches)  # from scratch each time
    for name, tensor in model.state().items():
        assert torch.equal(tensor, state[name])
