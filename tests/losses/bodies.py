"""What the tests of the losses share."""

import numpy as np
import torch
from torch import Tensor, nn

Array = np.ndarray
# torch's softplus is the identity above 20, where they differ by 2e-9.
EXACT = {"rel": 1e-12, "abs": 3e-9}


def leaf(a: Array) -> Tensor:
    """A copy that wants a gradient."""
    return torch.from_numpy(a.copy()).requires_grad_(True)


def check_gradient(x: Tensor, wanted: Array) -> None:
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), wanted, rtol=1e-10, atol=3e-9)


class Curved(nn.Module):
    """A small discriminator without kinks: logits [B], or maps [B, h, w]."""

    def __init__(self, maps: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.maps = maps
        self.conv = nn.Conv2d(2, 4, 3)
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.conv(x))
        if not self.maps:
            y = y.mean((2, 3), keepdim=True)
        y = self.head((y**2).movedim(1, -1)).squeeze(-1)
        return y if self.maps else y.flatten()


def samples(seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=generator)
