"""How unlike its training data a trained model finds a sample.

Shapes: B batch, C channels, S (H, W) or (T, H, W), N samples. A larger score is more anomalous.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from agehpc.latent.invert import Loss, distance
from agehpc.trained import Model

PARTS = ("reconstruction", "features", "latent")
"""What :func:`scores` can measure."""


@torch.no_grad()
def scores(
    model: Model,
    x_BCS: Tensor,
    parts: Sequence[str],
    *,
    loss: Loss = "mse",
    labels_B: Tensor | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """Scores [B] of samples in [-1, 1] by part, and the reconstructions G(E(x)) [B, C, S].

    `reconstruction` is the distance of x to G(E(x)); `features` the mean squared difference of
    the data discriminator's features of both (Schlegl et al. 2019, f-AnoGAN); `latent` that of
    E(x) to E(G(E(x))) (Akcay et al. 2018, GANomaly).
    """
    x_BCS = x_BCS.to(model.device)
    z_BZ = model.encode(x_BCS)
    y_BCS = model.decode(z_BZ, labels_B)
    found: dict[str, Tensor] = {}
    if "reconstruction" in parts:
        found["reconstruction"] = distance(loss, y_BCS, x_BCS)
    if "features" in parts:
        (_, real_BF), (_, made_BF) = (model.critique(x, labels_B) for x in (x_BCS, y_BCS))
        found["features"] = distance("mse", made_BF, real_BF)
    if "latent" in parts:
        found["latent"] = distance("mse", model.encode(y_BCS), z_BZ)
    return found, y_BCS


def combine(parts: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    """Weighted sum of the parts [N], each first brought to mean 0 and deviation 1 over the samples.

    The parts have scales of their own: without that the largest would decide alone.
    """
    total_N = np.zeros(len(next(iter(parts.values()))))
    for name, values in parts.items():
        part_N = np.asarray(values, dtype=np.float64)
        deviation = part_N.std()
        total_N += weights[name] * (part_N - part_N.mean()) / (deviation if deviation > 0 else 1.0)
    return total_N


def auroc(score_N: np.ndarray, anomaly_N: np.ndarray) -> float:
    """Area under the ROC curve: how often an anomaly scores above a normal sample, ties half.

    The rank statistic of Mann and Whitney, exact in float64. (torchmetrics takes what lies
    outside of [0, 1] for logits, and its sigmoid makes large scores equal.)

    Args:
        score_N: scores.
        anomaly_N: truth values, of both kinds.
    """
    anomalies = int(anomaly_N.sum())
    normal = len(anomaly_N) - anomalies
    assert 0 < anomalies < len(anomaly_N)
    _, inverse, counts = np.unique(score_N, return_inverse=True, return_counts=True)
    ranks_N = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    above = ranks_N[anomaly_N].sum() - anomalies * (anomalies + 1) / 2
    return float(above / (anomalies * normal))
