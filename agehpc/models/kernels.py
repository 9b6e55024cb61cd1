"""Which code normalises: the fused kernels, or torch's own functions."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

from agehpc.errors import ConfigError
from agehpc_kernels import backend, explain, use_reference

NormKernel = Literal["auto", "fused", "reference"]
KERNELS = ("triton", "cpp")
TYPICAL = (128, 64, 32, 32)  # large enough for every kernel; smaller layers may be torch's


def choose(players: Iterable[nn.Module], norm_kernel: NormKernel, device: torch.device) -> str:
    """Set up the norms of players as `train.norm_kernel` says, and say what will run.

    ConfigError where kernels are insisted on and the device has none.
    """
    if norm_kernel == "reference":
        for player in players:
            use_reference(player)
        return "torch's own functions"
    found = explain(torch.empty(TYPICAL, device=device))
    if found.backend in KERNELS:
        return found.title
    if norm_kernel == "fused":
        why = "; ".join(f"{name} {found.verdicts[name]}" for name in KERNELS)
        raise ConfigError(
            f"--train.norm-kernel fused: no kernel runs on {device} ({why}); --train.norm-kernel "
            "auto takes torch's own functions there"
        )
    return "torch's own functions"


@contextmanager
def sized(players: Iterable[nn.Module], norm_kernel: NormKernel) -> Iterator[None]:
    """Let tensors without memory keep as much for backward as `train.norm_kernel` will.

    That of kernels, where they are not ruled out: where they refuse a tensor it is more.
    """
    if norm_kernel == "reference":
        for player in players:
            use_reference(player)
        yield
        return
    with backend("aten"):
        yield
