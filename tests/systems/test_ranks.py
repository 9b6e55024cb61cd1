"""Two ranks against one process: the game of moments, and the bound of a critic's weights."""

import copy
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from agehpc.cluster.collectives import gather
from agehpc.config.plan import Plan
from agehpc.config.schema import OptimConfig, PlayerConfig, ZeroConfig
from agehpc.config.systems import AgeMomentsSystem, WganSystem
from agehpc.systems import build_system
from agehpc.systems.base import Collectives, Micro
from agehpc.systems.step import run_turns
from agehpc.train.engines import Engine
from agehpc_kernels.norm import global_moments
from tests.systems.scenes import LATENT, PlainEngine, Taken, config

WHOLE = 8
JOINED = Collectives(lambda z: global_moments(z)[:2], gather, dist.get_rank)
EVERYTHING: dict[str, Any] = {
    "encoder_turns": 1,
    "generator_turns": 1,
    "encoder_cycle_weight": 1.0,
    "generator_reconstruction_weight": 1.0,
}


def micro(chosen: slice) -> Micro:
    """Part of a batch of 8."""
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(WHOLE, 3, 16, 16, generator=generator, dtype=torch.float64) * 2 - 1
    z = torch.randn(WHOLE, LATENT, generator=generator, dtype=torch.float64)
    return Micro(x[chosen], torch.full((WHOLE,), -1)[chosen], 0, 0, {"z": z[chosen]})


def taken(conf: Any, collectives: Collectives, weights: Any, batch: Micro) -> list[Taken]:
    """Both turns on a batch."""
    system = build_system(conf, collectives)
    players = {name: player.double() for name, player in system.build().items()}
    log: list[Taken] = []
    for name, player in players.items():
        player.load_state_dict(weights[name])
    engines: Any = {n: PlainEngine(n, p, log) for n, p in players.items()}
    run_turns(system, engines, [[batch]], shared_forward=False)
    return log


def averaged(value: Tensor) -> Tensor:
    total = value.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


@pytest.mark.world_size(2)
def test_the_game_of_moments_does_not_know_of_ranks(ranks):
    """2 x 4 samples give the losses and the averaged gradients of 1 x 8."""
    first = 4 * ranks.env.rank
    # Losses in float64, as in the fixture `exact`: these ranks are processes of their own.
    widen = Tensor.float
    Tensor.float = lambda x: x if x.dtype == torch.float64 else widen(x)  # type: ignore[method-assign]
    for form in ("exact", "legacy_age"):
        for reduction in ("sum", "mean"):
            system = AgeMomentsSystem(kl_form=form, kl_reduction=reduction, **EVERYTHING)  # type: ignore[arg-type]
            for one, many in (("batch", "sync_batch"), ("none", "none"), ("group", "group")):
                torch.manual_seed(1)
                built = build_system(config(system, norm=one), Collectives.alone()).build()
                for p in (p for player in built.values() for p in player.parameters()):
                    p.data += 0.1 * torch.randn_like(p)
                weights = {n: copy.deepcopy(p.double().state_dict()) for n, p in built.items()}
                whole = taken(
                    config(system, norm=one), Collectives.alone(), weights, micro(slice(WHOLE))
                )
                mine = micro(slice(first, first + 4))
                part = taken(config(system, norm=many), JOINED, weights, mine)
                for want, got in zip(whole, part, strict=True):
                    told = (form, reduction, many, want.player)
                    assert want.player == got.player
                    torch.testing.assert_close(
                        averaged(got.loss), want.loss, rtol=1e-10, atol=1e-12
                    )
                    sizes = [s.abs().max() for s in want.gradients.values() if s is not None]
                    for name, slope in want.gradients.items():
                        other = got.gradients[name]
                        assert slope is not None
                        assert other is not None
                        off = (averaged(other) - slope).abs().max()
                        assert off <= 1e-9 * max(sizes), (*told, name)
                # Without the other rank's samples it is another game.
                alone = taken(config(system, norm=one), Collectives.alone(), weights, mine)
                assert abs(averaged(alone[0].loss) - whole[0].loss) > 1e-3


PLAN = Plan(
    world_size=2,
    micro_batch=2,
    accumulation=1,
    batches=1,
    samples_per_step=4,
    global_batch=4,
    samples=4,
    steps=1,
    shared_forward=False,
)


@pytest.mark.world_size(2)
def test_the_critics_weights_stay_within_their_bound(ranks):
    """At every ZeRO stage that a critic may have, in what is computed with and in what is saved."""
    bound = 0.01
    system = build_system(
        config(WganSystem(gradient_penalty=0.0, weight_clip=bound)), Collectives.alone()
    )
    assert system.weight_bounds == {"critic": bound}
    assert build_system(config(WganSystem()), Collectives.alone()).weight_bounds == {}
    found = []
    for stage in range(3):
        for limit in (bound, None):
            torch.manual_seed(2)
            critic = system.build()["critic"]
            before = max(p.abs().max().item() for p in critic.parameters())
            assert before > 5 * bound
            player = PlayerConfig(optim=OptimConfig(lr=0.02), zero=ZeroConfig(stage=stage))
            engine = Engine("critic", critic, player, PLAN, "fp32", ranks.device, limit)
            for step in range(2):
                generator = torch.Generator().manual_seed(10 * step + ranks.env.rank)
                x = torch.rand(2, 2, 3, 16, 16, generator=generator)
                verdict = engine.forward(real=x[0], generated=x[1])
                engine.backward(verdict["generated"].mean() - verdict["real"].mean())
                engine.step()
            for weights in (engine.weights(), dict(critic.named_parameters())):
                largest = max(w.abs().max().item() for w in weights.values())
                if limit is None:
                    assert largest > 5 * bound
                    continue
                assert largest == torch.tensor(bound).item()  # float32's nearest
                inside = [((w.abs() < bound).float().mean().item()) for w in weights.values()]
                assert 0 < max(inside) < 1  # some are at the bound, not all
            if limit is not None:
                found.append({n: w.detach().clone() for n, w in engine.weights().items()})
    for other in found[1:]:
        for name, weight in found[0].items():
            torch.testing.assert_close(other[name], weight, rtol=1e-5, atol=1e-6)
