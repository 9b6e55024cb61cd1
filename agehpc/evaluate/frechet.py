"""The Frechet distance between two Gaussians: the last step of FID, FVD and their kin.

Shapes: F features.
"""

import torch
from torch import Tensor

from agehpc.errors import DataError


def frechet(mean_x_F: Tensor, cov_x_FF: Tensor, mean_y_F: Tensor, cov_y_FF: Tensor) -> float:
    """Squared Frechet distance of N(mean_x, cov_x) and N(mean_y, cov_y) (Dowson, Landau 1982).

    |m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)) in float64. With C_x = A A^T the eigenvalues
    of C_x C_y are those of the symmetric A^T C_y A: they are real, and found several times faster
    than those of the product. A is the Cholesky factor, or comes from the eigenvectors where C_x
    is singular, as it is for fewer samples than features.

    Args:
        mean_x_F: mean, any real dtype, all four on one device.
        cov_x_FF: covariance, symmetric.
        mean_y_F: mean.
        cov_y_FF: covariance.

    Returns:
        The distance, in the features' unit squared; rounding may put it a little below 0.

    Raises:
        DataError: a mean or covariance holds NaN or infinite values.
    """
    given = [t.detach().double() for t in (mean_x_F, cov_x_FF, mean_y_F, cov_y_FF)]
    if not all(bool(t.isfinite().all()) for t in given):
        raise DataError(
            "the features' means or covariances hold NaN or infinite values: the extractor's "
            "weights or what it was given are damaged"
        )
    mean_x_F, cov_x_FF, mean_y_F, cov_y_FF = given
    assert mean_x_F.shape == mean_y_F.shape, (mean_x_F.shape, mean_y_F.shape)
    assert cov_x_FF.shape == cov_y_FF.shape == (len(mean_x_F),) * 2, (cov_x_FF.shape, mean_x_F)
    factor = _factor(cov_x_FF)
    values = torch.linalg.eigvalsh(factor.T @ cov_y_FF @ factor)
    # Rounding puts eigenvalues that are zero a little below it.
    cross = values.clamp(min=0).sqrt().sum()
    traces = cov_x_FF.trace() + cov_y_FF.trace()
    return float((mean_x_F - mean_y_F).square().sum() + traces - 2 * cross)


def _factor(cov_FF: Tensor) -> Tensor:
    """A [F, R] with A A^T = C, R the rank."""
    lower_FF, failed = torch.linalg.cholesky_ex(cov_FF)
    if not int(failed):
        return lower_FF
    values_F, vectors_FF = torch.linalg.eigh(cov_FF)
    # What is smaller is rounding, whose root would count: the tolerance of numpy's matrix_rank.
    kept = values_F > len(cov_FF) * torch.finfo(torch.float64).eps * values_F[-1]
    return vectors_FF[:, kept] * values_F[kept].sqrt()
