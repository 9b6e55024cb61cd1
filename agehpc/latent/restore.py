"""Restoring degraded samples, by inversion of a generator or by a network trained to restore.

Shapes: B batch, C channels, S (H, W) or (T, H, W), Z latent size. Samples lie in [-1, 1].
"""

from torch import Tensor

from agehpc.latent.degrade import Degraded
from agehpc.latent.invert import nearest_draws, optimise
from agehpc.trained import Model


def restore_by_inversion(
    model: Model,
    degraded: Degraded,
    *,
    steps: int,
    lr: float,
    prior_weight: float,
    starts: int = 64,
    seed: int = 0,
    labels_B: Tensor | None = None,
) -> Tensor:
    """The generated samples whose degradation comes closest to what was measured: [B, C, S].

    Yeh et al. 2017 for holes, Bora et al. 2017 for any measurement: minimises the mean squared
    difference of measure(G(z)) to `measured` (over known pixels alone where there is a hole) plus
    `prior_weight` times the departure of z from the prior. Starts from E(degraded), or without an
    encoder from the nearest of `starts` draws. What is known for certain is
    put back into the result.
    """
    target = degraded.measured.to(model.device)

    def objective(y_BCS: Tensor) -> Tensor:
        return (degraded.measure(y_BCS) - target).flatten(1).square().mean(1) / degraded.known

    from_prior = not model.can("encode")
    if from_prior:
        start_BZ = nearest_draws(
            model, objective, len(target), starts=starts, seed=seed, labels_B=labels_B
        )
    else:
        start_BZ = model.encode(degraded.seen_BCS)
    z_BZ = optimise(
        model,
        start_BZ,
        objective,
        steps=steps,
        lr=lr,
        prior_weight=prior_weight,
        labels_B=labels_B,
        from_prior=from_prior,
    )
    return degraded.correct(model.decode(z_BZ, labels_B, from_prior=from_prior))


def restore_by_network(model: Model, degraded: Degraded) -> Tensor:
    """What a network trained to restore makes of the degraded samples: [B, C, S]."""
    return degraded.correct(model.restore(degraded.seen_BCS))
