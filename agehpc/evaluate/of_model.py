"""Metrics of a run's own: how it rebuilds held-out samples, and where their latents lie.

Shapes: B batch, C channels, S (H, W) or (T, H, W), N samples, Z latent size.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from agehpc.data.check import check as check_data
from agehpc.data.loader import Batch, validation_batches
from agehpc.data.mixture import read_shards
from agehpc.data.pixels import to_float
from agehpc.data.shards import Split
from agehpc.errors import DataError, UsageError
from agehpc.evaluate.collect import gathered
from agehpc.evaluate.measure import Figure
from agehpc.evaluate.pictures import Lpips, ms_ssim, scales_of
from agehpc.evaluate.prior_match import prior_match
from agehpc.evaluate.protocols import OF_MODEL, figures
from agehpc.evaluate.reconstruction import psnr, ssim
from agehpc.latent.command import labels_for
from agehpc.observe.grids import to_uint8
from agehpc.trained import Model

Compare = Callable[[np.ndarray, np.ndarray], np.ndarray]


class OfModel:
    """Metrics of a model, ready to be measured; what is missing is an error when it is made.

    Args:
        metrics: names of OF_MODEL.
        model: what is measured.
        split: of the run's shards.
        count: samples at most, the first ones; None takes all.
        weights: files of LPIPS's backbone by name, where they are not in the usual places.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        model: Model,
        split: Split,
        count: int | None,
        weights: Mapping[str, Path],
    ) -> None:
        for metric in metrics:
            for use in OF_MODEL[metric]:
                if not model.can(use):
                    raise model.system.lacks(use)
        if "prior_match" in metrics and find_spec("scipy") is None:
            raise UsageError(
                "prior_match needs scipy, which is not installed: pip install 'agehpc[evaluate]'"
            )
        self._metrics, self._model = metrics, model
        self._split: Split = split
        self._data = check_data(model.config.data, manifest := read_shards(model.config.data))
        total = manifest.samples(split)
        if not total:
            raise DataError(
                f"the {split} split of {self._data.where} is empty; choose the other with "
                "--rebuilt-split"
            )
        self.count = min(count or total, total)
        size = model.config.data.size
        scales = scales_of(size, size)
        if "ms_ssim" in metrics and not scales:
            raise DataError(f"samples of {size} x {size} pixels are too small for MS-SSIM")
        self._compare: dict[str, Compare] = {"psnr_db": psnr, "ssim": ssim}
        self._compare["ms_ssim"] = lambda y, x: ms_ssim(y, x, scales)
        self._about: dict[str, dict[str, Any]] = {"ms_ssim": {"scales": scales}}
        if "lpips" in metrics:
            lpips = Lpips("alex", model.device, weights.get("alexnet"))
            self._compare["lpips"] = lpips
            self._about["lpips"] = dict(lpips.fingerprint)

    @property
    def told(self) -> str:
        """What is measured, in a line."""
        return f"{self.count} rebuilt samples of the {self._split} split of {self._data.where}"

    def measure(self, batch: int) -> list[Figure]:
        """Return the figures, means over the samples. Collective."""
        pairs = [m for m in self._metrics if m in self._compare]
        sums = {name: np.zeros(2) for name in (*pairs, "latent_mse")}
        latents: list[Tensor] = []
        order: list[Tensor] = []
        for loaded in self._batches(batch):
            own = loaded.positions >= 0  # the others fill a rank's last batch up
            x_BCS = loaded.pixels[own]
            if not len(x_BCS):
                continue
            z_BZ = self._model.encode(to_float(x_BCS))
            latents.append(z_BZ.cpu())
            order.append(loaded.positions[own])
            if not pairs and "latent_mse" not in self._metrics:
                continue
            labels_B = labels_for(self._model, loaded.labels[own])
            made = self._model.decode(z_BZ, labels_B)
            for name in pairs:
                values_B = self._compare[name](to_uint8(made), x_BCS.numpy())
                sums[name] += values_B.sum(), len(values_B)
            again_BZ = self._model.encode(made)
            error_B = (again_BZ - z_BZ).double().square().mean(1)
            sums["latent_mse"] += float(error_B.sum()), len(error_B)
        found_all: list[Figure] = []
        for metric in self._metrics:
            if metric == "prior_match":
                z_NZ = gathered(latents, order, self._model.config.model.latent)
                found = prior_match(z_NZ, self._model.config.model.prior)
                values = list(found.values())
            else:
                total, count = _over_ranks(sums[metric])
                values = [total / count]
            named = zip(figures(metric), values, strict=True)
            found_all += [self._figure(metric, name, value) for name, value in named]
        return found_all

    def _batches(self, batch: int) -> Iterator[Batch]:
        return validation_batches(
            self._data,
            split=self._split,
            batch=batch,
            limit=self.count,
            rank=dist.get_rank(),
            world_size=dist.get_world_size(),
        )

    def _figure(self, metric: str, name: str, value: float) -> Figure:
        about = {"metric": metric, "dataset": self._data.dataset_id, "split": self._split}
        about |= {"n": self.count, "size": self._data.size, **self._about.get(metric, {})}
        return Figure(name, value, None, self.count, 0, about)


def _over_ranks(sums: np.ndarray) -> list[float]:
    total = torch.from_numpy(sums)
    dist.all_reduce(total)
    return total.tolist()
