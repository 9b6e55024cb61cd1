"""The Frechet distance between two Gaussians: the last step of FID, FVD and their kin.

Shapes: F features, R rank.
"""

import numpy as np
from torch import Tensor

from agehpc.errors import DataError


def frechet(mean_x_F: Tensor, cov_x_FF: Tensor, mean_y_F: Tensor, cov_y_FF: Tensor) -> float:
    """Squared Frechet distance of N(mean_x, cov_x) and N(mean_y, cov_y) (Dowson, Landau 1982).

    |m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)) in float64. With C_x = A A^T the eigenvalues
    of C_x C_y are those of the symmetric A^T C_y A: they are real, and found several times faster
    than those of the product. A is the Cholesky factor with pivoting, which ends at the rank where
    C_x is singular, as it is for fewer samples than features. Computed on the CPU by scipy's
    LAPACK.

    Args:
        mean_x_F: mean, any real dtype; all four on any device.
        cov_x_FF: covariance, symmetric.
        mean_y_F: mean.
        cov_y_FF: covariance.

    Returns:
        The distance, in the features' unit squared; rounding may put it a little below 0.

    Raises:
        DataError: a mean or covariance holds NaN or infinite values.
    """
    given = [t.detach().cpu().double() for t in (mean_x_F, cov_x_FF, mean_y_F, cov_y_FF)]
    if not all(bool(t.isfinite().all()) for t in given):
        raise DataError(
            "the features' means or covariances hold NaN or infinite values: the extractor's "
            "weights or what it was given are damaged"
        )
    mean_x_F, cov_x_FF, mean_y_F, cov_y_FF = given
    assert mean_x_F.shape == mean_y_F.shape, (mean_x_F.shape, mean_y_F.shape)
    assert cov_x_FF.shape == cov_y_FF.shape == (len(mean_x_F),) * 2, (cov_x_FF.shape, mean_x_F)
    cross = _root_trace(cov_x_FF.numpy(), cov_y_FF.numpy())
    traces = float(cov_x_FF.trace() + cov_y_FF.trace())
    return float((mean_x_F - mean_y_F).square().sum()) + traces - 2 * cross


def _root_trace(x_FF: np.ndarray, y_FF: np.ndarray) -> float:
    """tr (X Y)^(1/2) of two covariances."""
    from scipy.linalg import eigvalsh, get_blas_funcs, get_lapack_funcs

    (pivoted_cholesky,) = get_lapack_funcs(("pstrf",), (x_FF,))
    (triangular_product,) = get_blas_funcs(("trmm",), (x_FF, y_FF))
    # Rows in the order of the pivots; what is left below the tolerance is rounding, whose root
    # would count.
    lower_FF, order, rank, _ = pivoted_cholesky(x_FF, lower=1)
    y_FF = y_FF[np.ix_(order - 1, order - 1)]
    half_FF = triangular_product(1.0, lower_FF, y_FF, side=1, lower=1)
    product_RR = triangular_product(1.0, lower_FF, half_FF, trans_a=1, lower=1)[:rank, :rank]
    # Rounding puts eigenvalues that are zero a little below it.
    return float(np.sqrt(eigvalsh(product_RR).clip(min=0)).sum())
