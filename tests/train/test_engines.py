"""What engines hand out and take back, on two ranks at every ZeRO stage."""

import pytest
import torch
from torch import nn

from agehpc.config.plan import Plan
from agehpc.config.schema import OptimConfig, PlayerConfig, ZeroConfig
from agehpc.train.engines import Engine


def network() -> nn.Module:
    torch.manual_seed(3)
    # 7 x 13 weights: two ranks cannot halve them, so shards are padded.
    return nn.Sequential(nn.Linear(13, 7), nn.BatchNorm1d(7), nn.Linear(7, 1))


PLAN = Plan(
    world_size=2,
    micro_batch=4,
    accumulation=1,
    batches=1,
    samples_per_step=8,
    global_batch=8,
    samples=8,
    steps=1,
    shared_forward=False,
)


def engine_of(module: nn.Module, stage: int, ranks) -> Engine:
    player = PlayerConfig(optim=OptimConfig(lr=0.1), zero=ZeroConfig(stage=stage))
    return Engine("player", module, player, PLAN, "fp32", ranks.device)


def train(engine: Engine, ranks, steps: range) -> Engine:
    for step in steps:
        x = torch.randn(8, 13, generator=torch.Generator().manual_seed(step))
        engine.backward(engine.forward(x[4 * ranks.env.rank :][:4]).square().mean())
        engine.step()
    return engine


@pytest.mark.world_size(2)
def test_whole_tensors_survive_being_shared_out(ranks):
    for stage in range(4):
        engine = train(engine_of(network(), stage, ranks), ranks, range(2))
        whole = engine.weights()
        assert {n: w.shape for n, w in whole.items()} == {
            n: p.shape for n, p in network().named_parameters()
        }
        again = engine.gather(engine.scatter(whole))
        for name, weight in whole.items():
            assert torch.equal(again[name], weight), (stage, name)


@pytest.mark.world_size(2)
def test_moments_and_steps_travel_between_stages(ranks):
    """A step from loaded moments equals the step that an engine takes that never stopped."""
    straight = train(engine_of(network(), 0, ranks), ranks, range(3)).weights()
    for old, new in ((0, 3), (3, 1), (1, 2), (2, 0)):
        first = train(engine_of(network(), old, ranks), ranks, range(2))
        module = network()
        module.load_state_dict(first.weights() | first.buffers())
        moments = {name: moment.clone() for name, moment in first.moments().items()}
        second = engine_of(module, new, ranks)
        second.load_moments(moments, steps=2)
        train(second, ranks, range(2, 3))
        for name, weight in second.weights().items():
            torch.testing.assert_close(weight, straight[name], rtol=1e-5, atol=1e-6)


@pytest.mark.world_size(2)
def test_running_statistics_become_equal(ranks):
    engine = train(engine_of(network(), 1, ranks), ranks, range(2))
    mine = engine.buffers()["1.running_mean"].clone()
    both = [torch.zeros_like(mine) for _ in range(2)]
    torch.distributed.all_gather(both, mine)
    assert not torch.equal(*both)
    engine.average_buffers()
    torch.testing.assert_close(engine.buffers()["1.running_mean"], (both[0] + both[1]) / 2)


@pytest.mark.world_size(2)
def test_the_largest_gradient_norm_is_told(ranks):
    """That of the mean gradient over the ranks, before clipping, at every stage alike."""
    plain, norms = network(), []
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.1, betas=(0.5, 0.999), weight_decay=0.0)
    for step in range(3):
        x = torch.randn(8, 13, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        plain(x[4 * ranks.env.rank :][:4]).square().mean().backward()
        for p in plain.parameters():
            torch.distributed.all_reduce(p.grad)
            p.grad /= 2
        norms.append(float(sum(p.grad.square().sum() for p in plain.parameters()) ** 0.5))
        optimizer.step()
    for stage in range(4):
        engine = train(engine_of(network(), stage, ranks), ranks, range(2))
        assert float(engine.take_largest_norm()) == pytest.approx(max(norms[:2]), rel=1e-4)
        train(engine, ranks, range(2, 3))
        assert float(engine.take_largest_norm()) == pytest.approx(norms[2], rel=1e-4)
        player = PlayerConfig(zero=ZeroConfig(stage=stage), clip=0.1 * norms[0])
        clipped = Engine("player", network(), player, PLAN, "fp32", ranks.device)
        train(clipped, ranks, range(1))
        assert float(clipped.take_largest_norm()) == pytest.approx(norms[0], rel=1e-4)
        spike = clipped.forward(torch.ones(4, 13))
        clipped.backward(sum(spike.sum() * torch.inf for _ in range(1 + ranks.env.rank)))
        clipped.step()
        assert not clipped.take_largest_norm().isfinite()


@pytest.mark.world_size(2)
def test_an_engine_goes_back_in_place(ranks):
    """Weights, statistics and moments set in an engine that went on: the same steps, bit by bit."""
    for stage in range(4):
        engine = train(engine_of(network(), stage, ranks), ranks, range(2))
        engine.average_buffers()
        weights = {n: t.clone() for n, t in (engine.weights() | engine.buffers()).items()}
        moments = {n: t.clone() for n, t in engine.moments().items()}
        train(engine, ranks, range(2, 5))
        straight = {n: t.clone() for n, t in (engine.weights() | engine.buffers()).items()}
        engine.load_weights(weights)
        engine.load_moments(moments, steps=2)
        for name, tensor in (engine.weights() | engine.buffers()).items():
            assert torch.equal(tensor, weights[name]), (stage, name)
        train(engine, ranks, range(2, 5))
        for name, tensor in (engine.weights() | engine.buffers()).items():
            assert torch.equal(tensor, straight[name]), (stage, name)
