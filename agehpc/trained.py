"""A trained A.G.E. in evaluation mode: encode, decode, sample, reconstruct.

Shapes: B batch, C channels, S (H, W) or (T, H, W), Z latent size. Samples lie in [-1, 1].
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from agehpc import checkpoints
from agehpc.config.run_files import read_run_config
from agehpc.config.schema import Config
from agehpc.data.keyed import philox
from agehpc.errors import RunError
from agehpc.models.blocks import DATA, PRIOR
from agehpc.models.prior import draw
from agehpc.systems.age import Autoencoder
from agehpc_kernels import calibrating


class Model:
    """Encoder and generator of a run, for use after (or beside) training.

    Each stream has its own running statistics in the norms: samples and their latents come from
    data, noise and what is generated from it come from the prior.

    Args:
        config: the run's configuration, channels filled in.
        device: where it computes.
    """

    def __init__(self, config: Config, device: torch.device | str = "cpu") -> None:
        self.config = config
        self.device = torch.device(device)
        with torch.random.fork_rng(devices=[]):
            self.autoencoder = Autoencoder(config).to(self.device).eval().requires_grad_(False)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take weights by parameter name, and the statistics among them if there are any."""
        missing, unexpected = self.autoencoder.load_state_dict(dict(tensors), strict=False)
        buffers = {name for name, _ in self.autoencoder.named_buffers()}
        assert not unexpected, unexpected
        assert set(missing) <= buffers, missing

    def calibrate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Take the norms' statistics anew from (samples [B, C, S], prior latents [B, Z]) pairs.

        Averaged weights were never run in training: their statistics are not the live ones'.
        """
        with calibrating(self.autoencoder):
            for x_BCS, z_BZ in batches:
                self.autoencoder(x_BCS.to(self.device), z_BZ.to(self.device), None, True)

    def state(self) -> dict[str, Tensor]:
        """Weights and statistics by name."""
        return self.autoencoder.state_dict()

    @torch.no_grad()
    def encode(self, x_BCS: Tensor) -> Tensor:
        """Latents [B, Z] of samples [B, C, S] in [-1, 1]."""
        return self.autoencoder.encoder(x_BCS.to(self.device), DATA)

    @torch.no_grad()
    def decode(self, z_BZ: Tensor, *, from_prior: bool = False) -> Tensor:
        """Samples [B, C, S] in [-1, 1] from latents [B, Z].

        `from_prior` says that the latents were drawn from the prior, not encoded.
        """
        return self.autoencoder.generator(z_BZ.to(self.device), PRIOR if from_prior else DATA)

    def reconstruct(self, x_BCS: Tensor) -> Tensor:
        """G(E(x)): [B, C, S] in [-1, 1]."""
        return self.decode(self.encode(x_BCS))

    def noise(self, count: int, seed: int = 0, first: int = 0) -> Tensor:
        """Prior latents [count, Z]: the n-th depends on (seed, first + n) alone."""
        keys = [philox(seed, "sample", first + n) for n in range(count)]
        return draw(self.config.model.prior, keys, self.config.model.latent).to(self.device)

    def sample(self, count: int, seed: int = 0, first: int = 0) -> Tensor:
        """G(z) for `count` draws: [count, C, S] in [-1, 1]."""
        return self.decode(self.noise(count, seed, first), from_prior=True)


def load(
    run: str | Path, *, checkpoint: str = "latest", device: torch.device | str = "cpu"
) -> Model:
    """The averaged model of a run directory.

    Args:
        run: the run directory.
        checkpoint: `latest`, or the name of one, as `step-00001000`.
        device: where to compute.

    Raises:
        RunError: no run, no complete checkpoint, or a damaged one.
    """
    run = Path(run)
    config = read_run_config(run)
    found = {path.name: path for path in checkpoints.complete(run)}
    if not found:
        raise RunError(f"{run} has no complete checkpoint yet; train it first")
    if checkpoint != "latest" and checkpoint not in found:
        raise RunError(f"{run} has no checkpoint {checkpoint!r}; it has {', '.join(found)}")
    path = found[checkpoint] if checkpoint != "latest" else list(found.values())[-1]
    checkpoints.verify(path)
    model = Model(config, device)
    model.load(checkpoints.read_tensors(path, "ema"))
    return model
