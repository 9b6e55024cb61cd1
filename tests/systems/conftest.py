"""Fixtures of the systems' tests."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses stay in float64: what brings bfloat16 to float32 leaves float64 alone."""
    widen = Tensor.float
    monkeypatch.setattr(Tensor, "float", lambda x: x if x.dtype == torch.float64 else widen(x))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors wait for each other on more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
