"""The averaged model beside training: calibrated, rendered and measured on fixed samples.

Rank 0 alone owns one; nothing in it is collective.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from agehpc.config.plan import Plan
from agehpc.config.schema import Config
from agehpc.data.loader import Batch, train_batches, validation_batches
from agehpc.data.mixture import read_shards
from agehpc.data.quarantine import Quarantine
from agehpc.data.shards import Split
from agehpc.evaluate.reconstruction import psnr
from agehpc.observe import grids
from agehpc.systems.base import Micro
from agehpc.train.micro import to_micro
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
        quarantine: bad samples that the run knows of.
    """

    def __init__(
        self, config: Config, plan: Plan, device: torch.device, quarantine: Quarantine
    ) -> None:
        self.config = config
        self._quarantine = quarantine
        self.model = Model(config, device)
        manifest = read_shards(config.data)
        self.fps = (manifest.fps or 1.0) / config.data.strides[0]
        self.split: Split = "validation" if manifest.samples("validation") else "train"
        self.captions: tuple[str, ...] = ()
        self._calibration = self._draw_calibration(plan)
        self._real_distance = math.nan
        self._fixed = self._draw_fixed()

    def _draw_fixed(self) -> list[Batch]:
        """Held-out samples, then as many that are trained on: how well it generalises shows."""
        unseen = max(1, self.config.observe.grid // 2)
        parts = list(self._validation(unseen, unseen))
        rest = self.config.observe.grid - sum(len(part.pixels) for part in parts)
        if rest > 0:
            data = self.config.data
            # Its positions are not those of the training order: bad samples are its own affair.
            aside = Quarantine(data)
            seen = list(
                validation_batches(data, split="train", batch=rest, limit=rest, quarantine=aside)
            )
            for part in seen:
                part.positions += unseen  # keys of the noise: another for each column
            parts += seen
        return parts

    def _draw_calibration(self, plan: Plan) -> list[Batch]:
        """The first samples of the training order, the same at any time."""
        batch = min(plan.global_batch, CALIBRATION_BATCH[self.config.data.kind])
        stream = train_batches(
            self.config.data.model_copy(update={"workers": min(1, self.config.data.workers)}),
            self.config.run.seed,
            start=0,
            global_batch=batch,
            micro_batch=batch,
            accumulation=1,
            rank=0,
            world_size=1,
            quarantine=self._quarantine,
        )
        count = max(1, CALIBRATION_SAMPLES[self.config.data.kind] // batch)
        with contextlib.closing(stream):
            return list(itertools.islice(stream, count))

    def _validation(self, batch: int, limit: int) -> Iterator[Batch]:
        return validation_batches(self.config.data, split=self.split, batch=batch, limit=limit)

    def _micro(self, batch: Batch, prefix: str) -> Micro:
        return to_micro(
            batch, self.model.system, self.model.device, seed=self.config.run.seed, prefix=prefix
        )

    def refresh(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take averaged weights, calibrate the norms for them, and return the whole state."""
        self.model.load(weights)
        self.model.calibrate(self._micro(batch, "calibration ") for batch in self._calibration)
        return self.model.state()

    def render(self, stem: Path) -> list[Path]:
        """Write the grid of the system's rows as PNG, and as MP4 for video.

        Fixed samples (half of them held out) and fixed noise. Returns the paths written.
        """
        rows: dict[str, list[np.ndarray]] = {}
        for batch in self._fixed:
            for name, x_BCS in self.model.rows(self._micro(batch, "sample ")).items():
                rows.setdefault(name, []).append(grids.to_uint8(x_BCS))
        self.captions = tuple(rows)
        return grids.save_grid(stem, [np.concatenate(parts) for parts in rows.values()], self.fps)

    def diversity(self) -> tuple[float | None, int]:
        """Mean distance between generated samples as a share of that between real ones.

        Of some training samples, and as many draws, the same at any time; 0 where all samples are
        alike. None where the system has no samples, or the real ones are all alike. And their
        number.
        """
        real, made = [], []
        for batch in self._calibration:
            micro = self._micro(batch, "diversity ")
            if not self._generates(micro):
                return None, 0
            real.append(micro.x.flatten(1))
            made.append(self.model.decode(micro.z, micro.labels, from_prior=True).flatten(1))
            if sum(map(len, real)) >= CALIBRATION_BATCH[self.config.data.kind]:
                break
        if math.isnan(self._real_distance):
            self._real_distance = float(torch.pdist(torch.cat(real)).mean())
        count = sum(map(len, real))
        if not self._real_distance > 0:
            return None, count
        return float(torch.pdist(torch.cat(made)).mean()) / self._real_distance, count

    def _generates(self, micro: Micro) -> bool:
        return self.model.can("sample") and "z" in micro.draws

    def figures(self) -> set[str]:
        """Names of the figures that `measure` gives."""
        micro = self._micro(self._fixed[0], "sample ")
        compared = {f"{name}_psnr_db" for name in self.model.compare(micro)}
        seen = self._generates(micro) and self.config.train.guard.diversity is not None
        return compared | set(self.model.score(micro)) | ({"diversity"} if seen else set())

    def measure(self, check: Callable[[], None]) -> tuple[dict[str, float], int]:
        """Mean figures over the validation samples by name, and the number of samples.

        `<name>_psnr_db` for what the system compares, and its own scores. `check` is called at
        every batch, and may raise.
        """
        found: dict[str, list[np.ndarray]] = {}
        count = 0
        for batch in self._validation(16, self.config.evaluate.samples):
            check()
            micro = self._micro(batch, "validation ")
            for name, (made, wanted) in self.model.compare(micro).items():
                value = psnr(grids.to_uint8(made), grids.to_uint8(wanted))
                found.setdefault(f"{name}_psnr_db", []).append(value)
            for name, value_B in self.model.score(micro).items():
                found.setdefault(name, []).append(value_B.double().cpu().numpy())
            count += len(batch.pixels)
        return {name: float(np.concatenate(parts).mean()) for name, parts in found.items()}, count
