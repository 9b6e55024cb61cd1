"""Mean and covariance of features, summed as they come and over ranks.

Shapes: B batch, F features.
"""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from agehpc.errors import DataError


class Moments:
    """Count, mean and scatter matrix of rows of features, in float64.

    The scatter matrix is the sum of (x - mean)(x - mean)^T over all rows; batches are joined by
    the exact update of Chan, Golub and LeVeque (1983), so that neither the size of batches nor a
    large mean costs accuracy. Memory is F * F whatever the count.
    """

    def __init__(self, features: int, device: torch.device | str = "cpu") -> None:
        self.count = 0
        self.mean_F = torch.zeros(features, dtype=torch.float64, device=device)
        self.scatter_FF = torch.zeros(features, features, dtype=torch.float64, device=device)

    def add(self, x_BF: Tensor) -> None:
        """Count rows in: any real dtype and device, B may be 0."""
        assert x_BF.ndim == 2, x_BF.shape
        assert x_BF.shape[1] == len(self.mean_F), (x_BF.shape, len(self.mean_F))
        if not len(x_BF):
            return
        x_BF = x_BF.detach().to(self.mean_F)
        total = self.count + len(x_BF)
        mean_F = x_BF.mean(0)
        shift_F = mean_F - self.mean_F
        between = (self.count * len(x_BF) / total) ** 0.5
        rows = torch.cat([x_BF - mean_F, between * shift_F[None]])
        self.scatter_FF.addmm_(rows.T, rows)
        self.mean_F = self.mean_F + shift_F * (len(x_BF) / total)
        self.count = total

    def combined(self, group: dist.ProcessGroup | None = None) -> "Moments":
        """The moments of all ranks' rows; ranks may hold unequally many, or none. Collective."""
        whole = Moments(len(self.mean_F), self.mean_F.device)
        count = torch.tensor(self.count, dtype=torch.int64, device=self.mean_F.device)
        dist.all_reduce(count, group=group)
        whole.count = int(count)
        if whole.count:
            whole.mean_F = self.mean_F * (self.count / whole.count)
            dist.all_reduce(whole.mean_F, group=group)
            shift_F = self.mean_F - whole.mean_F
            whole.scatter_FF = self.scatter_FF + self.count * torch.outer(shift_F, shift_F)
            dist.all_reduce(whole.scatter_FF, group=group)
        return whole

    def covariance(self, ddof: int = 1) -> Tensor:
        """Covariance [F, F], the scatter matrix divided by count - ddof.

        DataError where there are too few rows for it.
        """
        if self.count <= ddof:
            raise DataError(
                f"a covariance needs {ddof + 1} or more samples, but there are {self.count}: "
                "give more samples"
            )
        return self.scatter_FF / (self.count - ddof)

    def to_dict(self) -> dict[str, Tensor]:
        """All of it as tensors: int64 `count`, float64 `mean` [F] and `scatter` [F, F]."""
        count = torch.tensor(self.count, dtype=torch.int64)
        return {"count": count, "mean": self.mean_F, "scatter": self.scatter_FF}

    @staticmethod
    def from_dict(state: Mapping[str, Tensor], device: torch.device | str = "cpu") -> "Moments":
        """What :meth:`to_dict` gave; KeyError or AssertionError where it is something else."""
        mean_F, scatter_FF = state["mean"], state["scatter"]
        assert mean_F.ndim == 1, mean_F.shape
        assert scatter_FF.shape == (len(mean_F), len(mean_F)), scatter_FF.shape
        assert mean_F.dtype == scatter_FF.dtype == torch.float64, (mean_F.dtype, scatter_FF.dtype)
        moments = Moments(0, device)
        moments.count = int(state["count"])
        moments.mean_F, moments.scatter_FF = mean_F.to(device), scatter_FF.to(device)
        return moments
