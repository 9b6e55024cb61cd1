"""Modules of the fused operation, whose state_dict is that of torch's BatchNorm."""

from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from agehpc_kernels.form import Order, Save, wide
from agehpc_kernels.fused import bn_leaky_relu


class FusedBatchNorm(_NormBase):
    """BatchNorm and LeakyReLU over [N, C, *]; the base of the classes below.

    Arguments up to `dtype`, `bias`, the parameters, the buffers and so the state_dict are those of
    torch's BatchNorm, in both directions and strictly. Running statistics are float32, or float64
    after `.double()`: a cast of the module to bfloat16 or float16 casts its parameters only.

    Not torch's `_BatchNorm`: `torch.nn.SyncBatchNorm.convert_sync_batchnorm` would replace such a
    module by one without activation. `agehpc_kernels.fuse` and `unfuse` convert.

    Args:
        slope: negative slope of LeakyReLU; 0 is ReLU, 1 leaves the norm alone.
        order: whether the norm or LeakyReLU comes first.
        save: what backward keeps, see `bn_leaky_relu`.
    """

    _dims: ClassVar[tuple[int, ...]] = ()  # numbers of dimensions of x; all from 2 on where empty

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        slope: float = 0.2,
        order: Order = "norm_first",
        save: Save = "input",
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias
        )
        self.slope = slope
        self.order: Order = order
        self.save: Save = save
        self.keep_statistics_wide()  # `dtype` is for the parameters only

    def forward(self, x: Tensor) -> Tensor:
        """Normalise and activate [N, C, *]; see `bn_leaky_relu`."""
        return self._run(x)

    def extra_repr(self) -> str:
        """Show torch's own settings, then slope, order and what is kept."""
        own = f"slope={self.slope}, order={self.order}, save={self.save}"
        return f"{super().extra_repr()}, {own}"

    def keep_statistics_wide(self) -> None:
        """Cast running statistics that came in a narrow dtype to float32."""
        if self.running_mean is not None and self.running_var is not None:
            self.running_mean = self.running_mean.to(wide(self.running_mean.dtype))
            self.running_var = self.running_var.to(wide(self.running_var.dtype))

    def _run(self, x: Tensor, **sync: Any) -> Tensor:
        if self._dims and x.dim() not in self._dims:
            wanted = " or ".join(f"{n}-D" for n in self._dims)
            raise ValueError(f"{type(self).__name__} takes {wanted} input, got {list(x.shape)}")
        running = self.running_mean, self.running_var
        if self.training and not self.track_running_stats:
            running = None, None  # buffers from before tracking was switched off stay as they are
        return bn_leaky_relu(
            x,
            self.weight,
            self.bias,
            *running,
            training=self.training or running[0] is None,
            momentum=self._share(),
            eps=self.eps,
            slope=self.slope,
            order=self.order,
            save=self.save,
            **sync,
        )

    def _share(self) -> float | Tensor:
        """Count a batch and return its weight in the running statistics."""
        if not self.training or not self.track_running_stats or self.num_batches_tracked is None:
            return 0.0
        self.num_batches_tracked.add_(1)
        if self.momentum is not None:
            return self.momentum
        return 1.0 / self.num_batches_tracked.double()  # a tensor: nothing waits for the device

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        running = {id(self.running_mean), id(self.running_var)}

        def kept_wide(t: Tensor) -> Tensor:
            moved = fn(t)
            if id(t) not in running or moved.dtype == wide(moved.dtype):
                return moved
            # Cast from what was there: a narrow value has lost bits.
            return t.to(moved.device, wide(moved.dtype))

        return super()._apply(kept_wide, recurse)


class BatchNormLeakyReLU1d(FusedBatchNorm):
    """torch.nn.BatchNorm1d and LeakyReLU: [N, C] or [N, C, L]."""

    _dims = (2, 3)


class BatchNormLeakyReLU2d(FusedBatchNorm):
    """torch.nn.BatchNorm2d and LeakyReLU: [N, C, H, W]."""

    _dims = (4,)


class BatchNormLeakyReLU3d(FusedBatchNorm):
    """torch.nn.BatchNorm3d and LeakyReLU: [N, C, D, H, W]."""

    _dims = (5,)


class SyncBatchNormLeakyReLU(FusedBatchNorm):
    """torch.nn.SyncBatchNorm and LeakyReLU: [N, C, *] on any device, differentiable twice.

    In training its forward and backward are collective; ranks may hold unequally many samples or
    none.

    Args:
        process_group: the ranks that share statistics; None is the default group.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: dist.ProcessGroup | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        slope: float = 0.2,
        order: Order = "norm_first",
        save: Save = "input",
    ) -> None:
        super().__init__(
            num_features,
            eps,
            momentum,
            affine,
            track_running_stats,
            device,
            dtype,
            bias=bias,
            slope=slope,
            order=order,
            save=save,
        )
        self.process_group = process_group

    def forward(self, x: Tensor) -> Tensor:
        """Normalise by the statistics of all ranks and activate; collective in training."""
        return self._run(x, sync=self.training, group=self.process_group)
