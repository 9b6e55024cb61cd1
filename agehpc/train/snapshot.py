"""The averaged model beside training: calibrated, rendered and measured on fixed samples.

Rank 0 alone owns one; nothing in it is collective. Shapes: B batch, C channels, S (H, W) or
(T, H, W).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from agehpc.config.plan import Plan
from agehpc.config.schema import Config
from agehpc.data.keyed import philox
from agehpc.data.loader import Batch, train_batches, validation_batches
from agehpc.data.pixels import to_float
from agehpc.data.shards import Split, read_manifest
from agehpc.evaluate.reconstruction import psnr
from agehpc.models.prior import draw
from agehpc.observe import grids
from agehpc.trained import Model

CALIBRATION_SAMPLES = {"image": 512, "video": 128}
# Not the ranks' micro-batch: the averaged model does not depend on the world size.
CALIBRATION_BATCH = {"image": 64, "video": 16}


class Snapshot:
    """The model as a user of the run will meet it.

    Args:
        config: the run's, data filled in.
        plan: for the batch size that statistics are taken over.
        device: where it computes.
    """

    def __init__(self, config: Config, plan: Plan, device: torch.device) -> None:
        self.config = config
        self.model = Model(config, device)
        manifest = read_manifest(config.data.shards)
        self.fps = (manifest.fps or 1.0) / config.data.strides[0]
        self.split: Split = "validation" if manifest.samples("validation") else "train"
        self._calibration = self._draw_calibration(plan)
        self._fixed = self._draw_fixed()

    def _draw_fixed(self) -> Tensor:
        """Held-out samples, then as many that are trained on: how well it generalises shows."""
        unseen = max(1, self.config.observe.grid // 2)
        parts = [b.pixels for b in self._validation(unseen, unseen)]
        rest = self.config.observe.grid - sum(map(len, parts))
        if rest > 0:
            data = self.config.data
            parts += [
                b.pixels for b in validation_batches(data, split="train", batch=rest, limit=rest)
            ]
        return torch.cat(parts)

    def _draw_calibration(self, plan: Plan) -> list[tuple[Tensor, Tensor]]:
        """The first samples of the training order, as uint8, with latents: the same at any time."""
        batch = min(plan.global_batch, CALIBRATION_BATCH[self.config.data.kind])
        stream = train_batches(
            self.config.data.model_copy(update={"workers": 0}),
            self.config.run.seed,
            start=0,
            global_batch=batch,
            micro_batch=batch,
            accumulation=1,
            rank=0,
            world_size=1,
        )
        pairs = []
        for _ in range(max(1, CALIBRATION_SAMPLES[self.config.data.kind] // batch)):
            loaded = next(stream)
            keys = [philox(self.config.run.seed, "calibration", int(p)) for p in loaded.positions]
            z_BZ = draw(self.config.model.prior, keys, self.config.model.latent)
            pairs.append((loaded.pixels, z_BZ))
        return pairs

    def _validation(self, batch: int, limit: int) -> Iterator[Batch]:
        return validation_batches(self.config.data, split=self.split, batch=batch, limit=limit)

    def refresh(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take averaged weights, calibrate the norms for them, and return the whole state."""
        self.model.load(weights)
        self.model.calibrate((to_float(x), z) for x, z in self._calibration)
        return self.model.state()

    def render(self, stem: Path) -> list[Path]:
        """Write the grid real | reconstruction | generated as PNG, and as MP4 for video.

        Fixed samples (half of them held out) and fixed noise. Returns the paths written.
        """
        x_BCS = to_float(self._fixed)
        rows = [
            self._fixed.numpy(),
            grids.to_uint8(self.model.reconstruct(x_BCS)),
            grids.to_uint8(self.model.sample(self.config.observe.grid, self.config.run.seed)),
        ]
        return grids.save_grid(stem, rows, self.fps)

    def reconstruction_psnr(self) -> tuple[float, int]:
        """Mean PSNR in dB over the validation samples, and their number."""
        values = [
            psnr(
                grids.to_uint8(self.model.reconstruct(to_float(batch.pixels))), batch.pixels.numpy()
            )
            for batch in self._validation(16, self.config.evaluate.samples)
        ]
        every = np.concatenate(values)
        return float(every.mean()), len(every)
