"""Networks that another player's turn uses and does not train."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from agehpc_kernels import frozen_statistics


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No gradients, hooks or buffer updates for a player inside."""
    module.requires_grad_(False)
    try:
        with frozen_statistics(module):
            yield
    finally:
        module.requires_grad_(True)
