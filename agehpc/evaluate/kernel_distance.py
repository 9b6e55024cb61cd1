"""The Kernel Inception Distance of two sets of features, also of other extractors' features.

Shapes: N and M samples, F features, S subsets, R rows of a block.
"""

import numpy as np
import torch
from torch import Tensor

from agehpc.errors import DataError

ROWS = 1024
"""Rows of the kernel matrix that are held at once."""


def kid(
    x_NF: Tensor, y_MF: Tensor, subsets: int = 100, size: int = 1000, seed: int = 2020
) -> tuple[float, float]:
    """Mean and standard deviation (ddof 0) over subsets of the unbiased squared MMD.

    Binkowski et al. 2018: kernel (x . y / F + 1)^3. Subsets are drawn as torch-fidelity draws
    them, so that both give equal values up to its float32 sums; all here is float64. It may be
    a little below 0 where both are alike.

    Args:
        x_NF: features, any real dtype, in the order of samples.
        y_MF: features on the same device; the value changes a little with which is which, for
            subsets of x are drawn first: those of its `input1`, the generated samples.
        subsets: how often a subset of each is drawn.
        size: samples of a subset, drawn without replacement.
        seed: of the draws.

    Raises:
        DataError: a set has fewer samples than a subset.
    """
    assert x_NF.ndim == y_MF.ndim == 2, (x_NF.shape, y_MF.shape)
    assert x_NF.shape[1] == y_MF.shape[1], (x_NF.shape, y_MF.shape)
    assert size > 1, size
    fewest = min(len(x_NF), len(y_MF))
    if fewest < size:
        raise DataError(
            f"KID draws subsets of {size} samples, but a set has {fewest}: give more samples or "
            "ask for smaller subsets"
        )
    x_NF, y_MF = x_NF.detach().double(), y_MF.detach().double()
    draws = np.random.RandomState(seed)
    picks = [
        [torch.from_numpy(draws.choice(len(z), size, replace=False)) for z in (x_NF, y_MF)]
        for _ in range(subsets)
    ]
    picks_x, picks_y = ([pair[side].to(x_NF.device) for pair in picks] for side in (0, 1))
    # Subsets of small sets overlap so much that the kernel of all pairs is less work.
    of = _over_all_pairs if len(x_NF) * len(y_MF) < subsets * size**2 else _one_by_one
    within_S = of(x_NF, x_NF, picks_x, picks_x) + of(y_MF, y_MF, picks_y, picks_y)
    for z, picked in ((x_NF, picks_x), (y_MF, picks_y)):
        diagonal = (z.square().sum(1) / z.shape[1] + 1) ** 3
        within_S -= torch.stack([diagonal[pick].sum() for pick in picked])
    between_S = of(x_NF, y_MF, picks_x, picks_y)
    values = (within_S / (size * (size - 1)) - 2 * between_S / size**2).cpu().numpy()
    return float(values.mean()), float(values.std())


def _kernel(x_NF: Tensor, y_MF: Tensor) -> Tensor:
    return (x_NF @ y_MF.T).div_(x_NF.shape[1]).add_(1).pow_(3)


def _one_by_one(x_NF: Tensor, y_MF: Tensor, picks_x: list[Tensor], picks_y: list[Tensor]) -> Tensor:
    """Sums [S] of the kernel over each subset's pairs."""
    pairs = zip(picks_x, picks_y, strict=True)
    return torch.stack([_kernel(x_NF[p], y_MF[q]).sum() for p, q in pairs])


def _over_all_pairs(
    x_NF: Tensor, y_MF: Tensor, picks_x: list[Tensor], picks_y: list[Tensor]
) -> Tensor:
    """The same, from each pair's kernel computed once, by blocks of rows."""
    chosen_SN, chosen_SM = (
        torch.stack([torch.zeros_like(z[:, 0]).index_fill_(0, pick, 1) for pick in picked])
        for z, picked in ((x_NF, picks_x), (y_MF, picks_y))
    )
    sums_S = torch.zeros_like(chosen_SN[:, 0])
    for x_RF, chosen_SR in zip(x_NF.split(ROWS), chosen_SN.split(ROWS, 1), strict=True):
        sums_S += (chosen_SR @ _kernel(x_RF, y_MF) * chosen_SM).sum(1)
    return sums_S
