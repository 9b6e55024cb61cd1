"""What a discriminator judges besides the sample: its class, or its latent.

Shapes: B batch, F features, Z latent size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Projection(nn.Module):
    """Share of the logit that depends on the class: <embed(y), features> (Miyato, Koyama 2018)."""

    def __init__(self, classes: int, features: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, features)
        nn.init.xavier_uniform_(self.embedding.weight)

    def forward(self, features_BF: Tensor, labels_B: Tensor | None) -> Tensor:
        """Logits [B] of pooled features and classes (int64)."""
        assert labels_B is not None, "a conditional discriminator needs the samples' classes"
        return (self.embedding(labels_B) * features_BF).sum(1)


class Joint(nn.Module):
    """Features of a sample and its latent together (ALI, Dumoulin et al. 2017; BiGAN).

    The latent passes two layers of its own, is joined to the sample's features, and both pass a
    further hidden layer: [B, F] and [B, Z] to [B, width].
    """

    def __init__(self, features: int, latent: int, width: int, slope: float) -> None:
        super().__init__()
        self.slope = slope
        self.first = nn.Linear(latent, width)
        self.second = nn.Linear(width, width)
        self.both = nn.Linear(features + width, width)

    def forward(self, features_BF: Tensor, z_BZ: Tensor | None) -> Tensor:
        """Join."""
        assert z_BZ is not None, "a joint discriminator needs the samples' latents"
        h_BF = F.leaky_relu(self.first(z_BZ), self.slope)
        h_BF = F.leaky_relu(self.second(h_BF), self.slope)
        return F.leaky_relu(self.both(torch.cat([features_BF, h_BF], 1)), self.slope)
