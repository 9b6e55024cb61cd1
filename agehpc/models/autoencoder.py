"""The player made of an encoder E and a generator G that decodes.

Shapes: B batch, C channels, S (H, W) or (T, H, W), Z latent size.
"""

import math

from torch import Tensor, nn

from agehpc.config.schema import Config
from agehpc.models.blocks import DATA, PRIOR, squashed
from agehpc.models.build import build_encoder, build_generator


class Autoencoder(nn.Module):
    """E and G, trained together.

    Args:
        config: channels known.
        variational: E gives mean and log-variance of a Gaussian that the latent is drawn from.
    """

    def __init__(self, config: Config, *, variational: bool = False) -> None:
        super().__init__()
        self.variational = variational
        self.spherical = config.model.prior == "sphere"
        latent = config.model.latent
        self.encoder = build_encoder(config, 2 * latent if variational else latent)
        self.generator = build_generator(config)

    def encode(self, x_BCS: Tensor, bank: int, eps_BZ: Tensor | None = None) -> dict[str, Tensor]:
        """latent, and where E is variational the mean and logvar it was drawn with.

        Without eps the latent is the mean.
        """
        out = self.encoder(x_BCS, bank)
        if not self.variational:
            return {"latent": on_sphere(out) if self.spherical else out}
        mean_BZ, logvar_BZ = out.chunk(2, dim=1)
        latent_BZ = mean_BZ if eps_BZ is None else mean_BZ + (0.5 * logvar_BZ).exp() * eps_BZ
        return {"latent": latent_BZ, "mean": mean_BZ, "logvar": logvar_BZ}

    def forward(
        self,
        x_BCS: Tensor,
        z_BZ: Tensor | None = None,
        *,
        labels_B: Tensor | None = None,
        eps_BZ: Tensor | None = None,
        disturbance_BZ: Tensor | None = None,
        cycle: bool = False,
    ) -> dict[str, Tensor]:
        """What E and G make of samples and of prior latents.

        G's two inputs pass separately: their batch statistics differ.

        Args:
            x_BCS: samples.
            z_BZ: prior latents; without them nothing is generated.
            labels_B: classes, where G is conditional.
            eps_BZ: N(0, I) that a variational E draws with.
            disturbance_BZ: added to E(x) on its way to G.
            cycle: encode G(z) too.

        Returns:
            latent (mean, logvar), logits and reconstruction of E(x); generated G(z); cycle E(G(z)).
        """
        outputs = self.encode(x_BCS, DATA, eps_BZ)
        passed = outputs["latent"]
        if disturbance_BZ is not None:
            passed = passed + disturbance_BZ
        outputs["logits"] = self.generator.logits(passed, DATA, labels_B)
        outputs["reconstruction"] = squashed(outputs["logits"], self.generator.output)
        if z_BZ is not None:
            outputs["generated"] = self.generator(z_BZ, PRIOR, labels_B)
            if cycle:
                found = self.encode(outputs["generated"], PRIOR)
                outputs["cycle"] = found["latent"]
        return outputs


def on_sphere(z_BZ: Tensor) -> Tensor:
    """Latents scaled to the norm sqrt(Z), where the sphere prior lies."""
    return z_BZ * (math.sqrt(z_BZ.shape[1]) / z_BZ.norm(dim=1, keepdim=True).clamp_min(1e-8))
