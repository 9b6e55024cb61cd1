"""The game on data that every adversarial system plays: what a discriminator sees, and what
bounds it.

Shapes: B batch, C channels, S (H, W) or (T, H, W), Z latent size, K uniforms of an augmentation.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from agehpc.config.schema import Config
from agehpc.config.systems import Game
from agehpc.losses import (
    critic_loss,
    finite_difference_penalty,
    generator_loss,
    gradient_penalty,
    r1_penalty,
)
from agehpc.models.blocks import DATA, PRIOR
from agehpc.models.build import build_discriminator
from agehpc.models.diffaug import augment, draws
from agehpc.systems.base import Keys, Micro

Terms = dict[str, tuple[float, Tensor]]


class Judge(nn.Module):
    """A player made of one data discriminator.

    Args:
        config: channels known.
        joint: it judges pairs of sample and latent.
        inputs: channels of what it sees; None: a sample's.
    """

    def __init__(self, config: Config, *, joint: bool = False, inputs: int | None = None) -> None:
        super().__init__()
        self.discriminator = build_discriminator(config, joint=joint, inputs=inputs)

    def judge(
        self,
        samples: Mapping[str, Tensor | None],
        labels_B: Tensor | None = None,
        latents: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Logits by name of what is given, and features as `<name>_features`.

        `real` samples pass through the norms' bank of data, all others through the prior's.
        """
        outputs: dict[str, Tensor] = {}
        for name, x_BCS in samples.items():
            if x_BCS is not None:
                bank = DATA if name == "real" else PRIOR
                z_BZ = None if latents is None else latents[name]
                logits, features = self.discriminator(x_BCS, bank, labels_B, z_BZ)
                outputs[name], outputs[f"{name}_features"] = logits.float(), features
        return outputs

    def forward(
        self, labels_B: Tensor | None = None, **samples: Tensor | None
    ) -> dict[str, Tensor]:
        """As `judge`."""
        return self.judge(samples, labels_B)


class DataGame:
    """Draws, augmentation, losses and penalties of a game, by its settings.

    Args:
        settings: the game's.
    """

    def __init__(self, settings: Game) -> None:
        self.settings = settings

    def draw(self, keys: Keys, shape: tuple[int, ...], step: int) -> dict[str, Tensor]:
        """What augmentation and penalties need, a row a sample: float32 on the CPU."""
        s = self.settings
        drawn: dict[str, Tensor] = {}
        if s.augment:
            count = draws(s.augment)
            for side in ("real", "generated"):
                rows = [g.random(count, dtype=np.float32) for g in keys(f"augment {side}")]
                drawn[f"augment_{side}"] = torch.from_numpy(np.stack(rows))
        if self.due(step) and s.r1_form == "finite_difference":
            rows = [g.standard_normal(shape, dtype=np.float32) for g in keys("r1")]
            drawn["r1"] = torch.from_numpy(np.stack(rows))
        if s.gradient_penalty > 0:
            rows = [g.random(dtype=np.float32) for g in keys("gradient penalty")]
            drawn["mix"] = torch.tensor(rows, dtype=torch.float32)
        return drawn

    def due(self, step: int) -> bool:
        """Whether R1 is computed in this step."""
        return self.settings.r1_gamma > 0 and step % self.settings.r1_every == 0

    def shown(self, x_BCS: Tensor, micro: Micro, side: str) -> Tensor:
        """Samples as a discriminator sees them: augmented, `side` being real or generated."""
        policies = self.settings.augment
        return augment(x_BCS, policies, micro.draws[f"augment_{side}"]) if policies else x_BCS

    def leaf(self, x_BCS: Tensor, step: int) -> Tensor:
        """Real samples, that D is to be differentiated by where exact R1 is due."""
        exact = self.due(step) and self.settings.r1_form == "exact"
        return x_BCS.detach().requires_grad_(True) if exact else x_BCS

    def critic_loss(self, real: Tensor, generated: Tensor) -> Tensor:
        """What a discriminator minimises."""
        return critic_loss(
            self.settings.adversarial, real, generated, self.settings.label_smoothing
        )

    def generator_loss(self, generated: Tensor) -> Tensor:
        """What the discriminated player minimises."""
        return generator_loss(self.settings.adversarial, generated)

    def penalties(
        self,
        judge: Callable[[Tensor], Tensor],
        micro: Micro,
        *,
        leaf: Tensor,
        logits: Tensor,
        generated: Tensor,
    ) -> Terms:
        """Weighted penalties on a discriminator that are due.

        Args:
            judge: (samples as they are, not augmented) to logits.
            micro: its draws and step.
            leaf: real samples, from `leaf`.
            logits: of the real samples, computed from `leaf`.
            generated: generated samples, without graph.
        """
        s = self.settings
        terms: Terms = {}
        if self.due(micro.step):
            # Computed every r1_every steps and weighed that much more (lazy regularisation,
            # Karras et al. 2020).
            weight = 0.5 * s.r1_gamma * s.r1_every
            if s.r1_form == "exact":
                terms["r1"] = (weight, r1_penalty(logits, leaf))
            else:
                disturbed = judge(leaf + s.r1_sigma * micro.draws["r1"])
                terms["r1"] = (weight, finite_difference_penalty(logits, disturbed, s.r1_sigma))
        if s.gradient_penalty > 0:
            penalty = gradient_penalty(judge, leaf.detach(), generated, micro.draws["mix"])
            terms["gradient_penalty"] = (s.gradient_penalty, penalty)
        return terms
