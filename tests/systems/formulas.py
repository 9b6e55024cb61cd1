"""Published formulas in plain torch, sample by sample: the other side of the systems' tests.

Nothing here comes from the code under test. Shapes: B batch, C channels, S (H, W) or (T, H, W),
M the map of logits of a patch discriminator, K uniforms, Z latent size.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence


def critic(kind: str, real: Tensor, fake: Tensor, smoothing: float = 0.0) -> Tensor:
    """What a discriminator minimises; real logits have the target 1 - smoothing."""
    zero, wanted = torch.zeros_like(real), 1 - smoothing
    if kind == "non_saturating":
        # Cross entropy with the target: -t ln s(a) - (1 - t) ln (1 - s(a)).
        of_real = wanted * torch.logaddexp(zero, -real) + smoothing * torch.logaddexp(zero, real)
        of_fake = torch.logaddexp(torch.zeros_like(fake), fake)
    elif kind == "hinge":
        of_real, of_fake = torch.clamp(1 - real, min=0), torch.clamp(1 + fake, min=0)
    elif kind == "lsgan":
        of_real, of_fake = (real - wanted) ** 2 / 2, fake**2 / 2
    else:
        assert kind == "wasserstein"
        of_real, of_fake = -real, fake
    return of_real.sum() / real.numel() + of_fake.sum() / fake.numel()


def generator(kind: str, fake: Tensor) -> Tensor:
    """What the player minimises whose samples are judged: they are to pass for real."""
    if kind == "non_saturating":
        each = torch.logaddexp(torch.zeros_like(fake), -fake)
    elif kind == "lsgan":
        each = (fake - 1) ** 2 / 2
    else:
        each = -fake
    return each.sum() / fake.numel()


def encoder(kind: str, real: Tensor) -> Tensor:
    """What E minimises whose pairs (x, E(x)) are judged: they are to pass for generated."""
    if kind == "non_saturating":
        each = torch.logaddexp(torch.zeros_like(real), real)
    elif kind == "lsgan":
        each = real**2 / 2
    else:
        each = real
    return each.sum() / real.numel()


def distance(kind: str, y: Tensor, x: Tensor) -> Tensor:
    """Mean absolute or squared difference."""
    error = y - x
    return (error.abs() if kind == "l1" else error * error).sum() / error.numel()


def cross_entropy(p: Tensor, x: Tensor) -> Tensor:
    """Of probabilities p and targets x, in nats, each element."""
    return -(x * p.log() + (1 - x) * (1 - p).log())


def r1(logits: Tensor, x: Tensor) -> Tensor:
    """E |grad D(x)|^2 of the logits' sums (Mescheder et al. 2018)."""
    (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return torch.stack([(slope[b] ** 2).sum() for b in range(len(slope))]).mean()


def finite_difference(
    judge: Callable[[Tensor], Tensor], x: Tensor, n: Tensor, sigma: float
) -> Tensor:
    """E ((D(x + sigma n) - D(x)) / sigma)^2 of the logits' sums."""
    moved, still = judge(x + sigma * n), judge(x)
    each = [((moved[b].sum() - still[b].sum()) / sigma) ** 2 for b in range(len(x))]
    return torch.stack(each).mean()


def gradient_penalty(
    judge: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor
) -> Tensor:
    """E (|grad D(u x + (1 - u) G(z))| - 1)^2 of the logits' means (Gulrajani et al. 2017)."""
    between = [mix[b] * real[b] + (1 - mix[b]) * fake[b] for b in range(len(mix))]
    x = torch.stack(between).detach().requires_grad_(True)
    logits = judge(x)
    value = torch.stack([logits[b].mean() for b in range(len(x))]).sum()
    (slope,) = torch.autograd.grad(value, x, create_graph=True)
    norms = [(slope[b] ** 2).sum().sqrt() for b in range(len(x))]
    return torch.stack([(norm - 1) ** 2 for norm in norms]).mean()


def augmented(x: Tensor, policies: Sequence[str], u: Tensor) -> Tensor:
    """DiffAugment (Zhao et al. 2020): each sample by its own uniforms u [B, K], frames alike."""
    return torch.stack([_augmented(x[b], policies, u[b].tolist()) for b in range(len(x))])


def _augmented(x: Tensor, policies: Sequence[str], uniforms: list[float]) -> Tensor:
    """One sample [C, S]."""
    u = iter(uniforms)
    height, width = x.shape[-2:]
    for policy in policies:
        if policy == "colour":
            x = x + next(u) - 0.5
            grey = x.mean(0, keepdim=True)
            x = grey + 2 * next(u) * (x - grey)
            x = x.mean() + (0.5 + next(u)) * (x - x.mean())
        elif policy == "translation":
            down, right = (
                math.floor(next(u) * (2 * most + 1)) - most
                for most in (round(height / 8), round(width / 8))
            )
            most = max(height, width)
            padded = torch.nn.functional.pad(x, (most, most, most, most))
            x = padded[..., most - down :, most - right :][..., :height, :width]
        else:
            assert policy == "cutout"
            tall, wide = round(height / 2), round(width / 2)
            top = math.floor(next(u) * (height + 1 - tall % 2)) - tall // 2
            left = math.floor(next(u) * (width + 1 - wide % 2)) - wide // 2
            kept = torch.ones_like(x)
            kept[..., max(0, top) : top + tall, max(0, left) : left + wide] = 0
            x = x * kept
    return x


def moments(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each dimension of [B, Z]."""
    mean = z.sum(0) / len(z)
    return mean, ((z - mean) ** 2).sum(0) / len(z)


def divergence(z: Tensor, form: str, reduction: str) -> Tensor:
    """KL of the Gaussian with the latents' moments from N(0, I) (Ulyanov et al. 2017)."""
    mean, variance = moments(z)
    if form == "exact":
        prior = Normal(torch.zeros_like(mean), torch.ones_like(mean))
        each = kl_divergence(Normal(mean, variance.sqrt()), prior)
    else:  # as the paper's code has it
        each = (variance**2 + mean**2) / 2 - variance.log() - 0.5
    return each.sum() if reduction == "sum" else each.sum() / len(each)


def posterior_kl(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, I)), summed over Z, averaged over the batch."""
    prior = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    return kl_divergence(Normal(mean, (logvar / 2).exp()), prior).sum() / len(mean)


def bernoulli_nats(p: Tensor, x: Tensor) -> Tensor:
    """-ln p(x) of a sample's Bernoulli pixels, averaged; x between 0 and 1 is a mix."""
    on, off = (Bernoulli(p).log_prob(torch.full_like(p, bit)) for bit in (1.0, 0.0))
    return -(x * on + (1 - x) * off).sum() / len(x)


def gaussian_nats(mean: Tensor, sigma: float, x: Tensor) -> Tensor:
    """-ln p(x) of a sample's Gaussian pixels, averaged over the batch."""
    return -Normal(mean, sigma).log_prob(x).sum() / len(x)


def on_sphere(z: Tensor) -> Tensor:
    """Scaled to the radius sqrt(Z)."""
    return torch.stack([row * math.sqrt(len(row)) / (row**2).sum().sqrt() for row in z])
