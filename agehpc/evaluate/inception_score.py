"""The Inception Score of a classifier's outputs.

Shapes: N samples, K classes.
"""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from agehpc.errors import DataError


def inception_score(logits_NK: Tensor, splits: int = 10, seed: int = 2020) -> tuple[float, float]:
    """Mean and standard deviation (ddof 0) over splits of exp(mean KL(p(y|x) || p(y))).

    Salimans et al. 2016. Samples are shuffled and split as torch-fidelity does, so that both give
    equal values; the published figures are of 50,000 samples and 10 splits.

    Args:
        logits_NK: the classifier's outputs before softmax, any real dtype, in the order of samples.
        splits: parts that are scored on their own.
        seed: of the shuffling.

    Raises:
        DataError: fewer samples than splits, or outputs that are not finite.
    """
    assert logits_NK.ndim == 2, logits_NK.shape
    count = len(logits_NK)
    if count < splits:
        raise DataError(
            f"the Inception Score has {splits} splits, but there are {count} samples: give more "
            "samples or ask for fewer splits"
        )
    if not bool(logits_NK.isfinite().all()):
        raise DataError("the classifier's outputs hold NaN or infinite values")
    order = torch.from_numpy(np.random.RandomState(seed).permutation(count))
    bounds = [split * count // splits for split in range(splits + 1)]
    parts = [order[low:high] for low, high in pairwise(bounds)]
    scores = [_score(logits_NK[part.to(logits_NK.device)]) for part in parts]
    return float(np.mean(scores)), float(np.std(scores))


def _score(logits_NK: Tensor) -> float:
    """exp(H(y) - mean H(y|x)), which is the same and defined where a probability is 0."""
    p_NK = logits_NK.detach().double().softmax(1)
    gain = torch.special.entr(p_NK.mean(0)).sum() - torch.special.entr(p_NK).sum(1).mean()
    return float(gain.exp())
