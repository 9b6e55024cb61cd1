"""How much of what is made looks real, and how much of the real is made.

Both measures take a set of features for the union of balls around its samples, each as large as
the distance to its k-th nearest neighbour in the set. Distances are float64, a block of rows at a
time: memory grows with the number of samples, not with its square.

Shapes: N real and M fake samples, F features, R rows of a block.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from agehpc.errors import DataError

PAIRS = 2**24
"""Distances that are held at once."""
ROUNDING = 1e-13
"""Squared distances below this share of the squared norms are rounding: of equal rows."""


def precision_recall(real_NF: Tensor, fake_MF: Tensor, k: int = 3) -> dict[str, float]:
    """Improved `precision` and `recall` (Kynkaanniemi et al. 2019).

    Precision is the share of fake samples inside a real sample's ball, recall the share of real
    samples inside a fake sample's; the ball includes its surface.

    Args:
        real_NF: features, any real dtype.
        fake_MF: features on the same device; published figures have 50,000 of VGG16's fc2.
        k: the neighbour that sets a ball's radius, itself not counted.

    Raises:
        DataError: a set has k samples or fewer.
    """
    real_NF, fake_MF = _checked(real_NF, fake_MF, k)
    radii_N, radii_M = _radii(real_NF, k), _radii(fake_MF, k)
    inside_M = [(d_RN <= radii_N).any(1) for d_RN in _distances(fake_MF, real_NF)]
    inside_N = [(d_RM <= radii_M).any(1) for d_RM in _distances(real_NF, fake_MF)]
    return {"precision": _share(inside_M), "recall": _share(inside_N)}


def prdc(real_NF: Tensor, fake_MF: Tensor, k: int = 5) -> dict[str, float]:
    """`precision`, `recall`, `density` and `coverage` (Naeem et al. 2020).

    As :func:`precision_recall`, but without the balls' surfaces. Density is the mean number of
    real balls that a fake sample is in, over k; coverage is the share of real balls that hold a
    fake sample.

    Args:
        real_NF: features, any real dtype.
        fake_MF: features on the same device.
        k: the neighbour that sets a ball's radius, itself not counted.

    Raises:
        DataError: a set has k samples or fewer.
    """
    real_NF, fake_MF = _checked(real_NF, fake_MF, k)
    radii_N, radii_M = _radii(real_NF, k), _radii(fake_MF, k)
    recalled, covered, balls_M = [], [], torch.zeros_like(fake_MF[:, 0])
    blocks = zip(_distances(real_NF, fake_MF), radii_N.split(_rows(fake_MF)), strict=True)
    for d_RM, radii_R in blocks:
        in_ball_RM = d_RM < radii_R[:, None]
        balls_M += in_ball_RM.sum(0)
        covered.append(in_ball_RM.any(1))
        recalled.append((d_RM < radii_M).any(1))
    return {
        "precision": float((balls_M > 0).double().mean()),
        "recall": _share(recalled),
        "density": float(balls_M.mean()) / k,
        "coverage": _share(covered),
    }


def _checked(real_NF: Tensor, fake_MF: Tensor, k: int) -> tuple[Tensor, Tensor]:
    assert real_NF.ndim == fake_MF.ndim == 2, (real_NF.shape, fake_MF.shape)
    assert real_NF.shape[1] == fake_MF.shape[1], (real_NF.shape, fake_MF.shape)
    fewest = min(len(real_NF), len(fake_MF))
    if fewest <= k:
        raise DataError(
            f"precision and recall with k = {k} need more than {k} samples of each set, but one "
            f"has {fewest}: give more samples"
        )
    return real_NF.detach().double(), fake_MF.detach().double()


def _rows(y_MF: Tensor) -> int:
    return max(1, PAIRS // len(y_MF))


def _distances(x_NF: Tensor, y_MF: Tensor) -> Iterator[Tensor]:
    """Squared distances [R, M] of x's rows to all of y's, block after block."""
    y_M = y_MF.square().sum(1)
    for x_RF in x_NF.split(_rows(y_MF)):
        norms_RM = x_RF.square().sum(1)[:, None] + y_M
        d_RM = torch.addmm(norms_RM, x_RF, y_MF.T, alpha=-2)
        yield d_RM.masked_fill_(d_RM < ROUNDING * norms_RM, 0)


def _radii(x_NF: Tensor, k: int) -> Tensor:
    """Squared distances [N] to the k-th neighbour; the nearest row is the row itself."""
    return torch.cat([d_RN.kthvalue(k + 1, dim=1).values for d_RN in _distances(x_NF, x_NF)])


def _share(parts: list[Tensor]) -> float:
    return float(torch.cat(parts).double().mean())
