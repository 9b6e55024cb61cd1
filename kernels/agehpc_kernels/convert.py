"""Replace BatchNorm and activation by the fused module, and back."""

from itertools import pairwise

from torch import nn

from agehpc_kernels.form import Order, Save
from agehpc_kernels.modules import (
    BatchNormLeakyReLU1d,
    BatchNormLeakyReLU2d,
    BatchNormLeakyReLU3d,
    FusedBatchNorm,
    SyncBatchNormLeakyReLU,
)

_FUSED: dict[type[nn.Module], type[FusedBatchNorm]] = {
    nn.BatchNorm1d: BatchNormLeakyReLU1d,
    nn.BatchNorm2d: BatchNormLeakyReLU2d,
    nn.BatchNorm3d: BatchNormLeakyReLU3d,
    nn.SyncBatchNorm: SyncBatchNormLeakyReLU,
}
_PLAIN = {fused: plain for plain, fused in _FUSED.items()}
_ORDERS: tuple[Order, Order] = ("norm_first", "activation_first")


def fuse(module: nn.Module, *, save: Save = "input") -> nn.Module:
    """Fuse neighbours BatchNorm and LeakyReLU (or ReLU) of every `nn.Sequential` inside.

    In place. The fused module takes the norm's place and parameters, an `nn.Identity` the
    activation's: names, state_dict and optimizers stay valid. LeakyReLU before the norm is fused
    where none follows it. Modules with hooks and subclasses are left alone.

    Args:
        module: the network.
        save: what backward keeps; ReLU always keeps its input.

    Returns:
        `module`.
    """
    for part in module.modules():
        if type(part) is nn.Sequential:
            for order in _ORDERS:
                for norm, activation in _neighbours(part, order):
                    _fuse_pair(part, norm, activation, order, save)
    return module


def unfuse(module: nn.Module) -> nn.Module:
    """Undo `fuse`, in place: torch's own BatchNorm and activation, with the same parameters.

    A fused module that no `nn.Identity` of an `nn.Sequential` belongs to is left alone; its
    state_dict loads into torch's BatchNorm as it is.

    Returns:
        `module`.
    """
    for part in module.modules():
        if type(part) is nn.Sequential:
            for order in _ORDERS:
                for norm, activation in _neighbours(part, order):
                    _part_pair(part, norm, activation, order)
    return module


def _neighbours(part: nn.Sequential, order: Order) -> list[tuple[str, str]]:
    """Return pairs of names: where a norm would be, and where its activation."""
    pairs = list(pairwise(part._modules))
    return pairs if order == "norm_first" else [(b, a) for a, b in pairs]


def _fuse_pair(part: nn.Sequential, norm: str, activation: str, order: Order, save: Save) -> None:
    old, act = part.get_submodule(norm), part.get_submodule(activation)
    if type(old) not in _FUSED or _hooked(old) or _hooked(act):
        return
    if type(act) is nn.LeakyReLU:
        slope = act.negative_slope
    elif type(act) is nn.ReLU:
        slope = 0.0
    else:
        return
    kept: Save = save if slope > 0 else "input"
    new = _FUSED[type(old)](*_settings(old), slope=slope, order=order, save=kept)
    _share(old, new)
    setattr(part, norm, new)
    setattr(part, activation, nn.Identity())


def _part_pair(part: nn.Sequential, norm: str, activation: str, order: Order) -> None:
    old, act = part.get_submodule(norm), part.get_submodule(activation)
    if not isinstance(old, FusedBatchNorm) or type(act) is not nn.Identity or old.order != order:
        return
    new = _PLAIN[type(old)](*_settings(old))
    _share(old, new)
    setattr(part, norm, new)
    setattr(part, activation, nn.LeakyReLU(old.slope) if old.slope else nn.ReLU())


def _settings(norm: nn.Module) -> tuple:
    names = ("num_features", "eps", "momentum", "affine", "track_running_stats")
    process_group = (norm.process_group,) if hasattr(norm, "process_group") else ()
    return (*(getattr(norm, name) for name in names), *process_group)


def _share(old: nn.Module, new: nn.Module) -> None:
    """Give `new` the parameters, buffers and mode of `old`: the same objects.

    Narrow running statistics of torch's norm become float32 in ours.
    """
    new._parameters.update(old._parameters)
    new._buffers.update(old._buffers)
    if isinstance(new, FusedBatchNorm):
        new.keep_statistics_wide()
    new.train(old.training)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
