"""What the ranks of the tests beside this file run."""

import torch
from torch import Tensor

from agehpc.cluster.groups import Ranks
from agehpc.evaluate.frechet import frechet
from agehpc.evaluate.moments import Moments

FEATURES = 13


def rows(samples: int, seed: int = 0) -> Tensor:
    """Correlated float32 features far from zero: [N, 13]."""
    draws = torch.Generator().manual_seed(seed)
    mixing = torch.randn(FEATURES, FEATURES, generator=torch.Generator().manual_seed(1))
    return torch.randn(samples, FEATURES, generator=draws) @ mixing + 1000


def moments(ranks: Ranks, shares: list[int]) -> dict[str, object]:
    """The combined moments of each rank's share, and their distance to fixed others."""
    rank = ranks.env.rank
    mine = rows(sum(shares))[sum(shares[:rank]) : sum(shares[: rank + 1])]
    own = Moments(FEATURES)
    for batch in mine.split(rank + 3):
        own.add(batch)
    whole = own.combined()
    other = Moments(FEATURES)
    other.add(rows(50, seed=2))
    statistics = (whole.mean_F, whole.covariance(), other.mean_F, other.covariance())
    return {
        "count": whole.count,
        "mean": whole.mean_F.tolist(),
        "covariance": whole.covariance().tolist(),
        "frechet": frechet(*statistics),
        "own count": own.count,
        "without any row": Moments(FEATURES).combined().count,
    }
