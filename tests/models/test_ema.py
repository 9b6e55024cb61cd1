"""The average of weights and its half-life."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agehpc.models.ema import Ema, decay


@given(batch=st.integers(1, 4096), half_life=st.floats(0.01, 100))
def test_the_past_weighs_half_after_a_half_life(batch: int, half_life: float):
    keep = decay(batch, 10**9, half_life, 0.05)
    steps = half_life * 1000 / batch
    assert keep**steps == pytest.approx(0.5, rel=1e-6)


@given(seen=st.integers(1, 10**6), ramp=st.floats(0.01, 1))
def test_the_half_life_grows_with_the_run(seen: int, ramp: float):
    half_life = min(10.0 * 1000, seen * ramp)
    assert decay(64, seen, 10.0, ramp) == pytest.approx(0.5 ** (64 / half_life), rel=1e-12)


def test_edges():
    assert decay(64, 6400, 0.0, 0.05) == 0.0
    assert decay(64, 0, 10.0, 0.05) == 0.0
    assert decay(64, 0, 10.0, 0.0) == pytest.approx(0.5 ** (64 / 10_000))


def test_update():
    rng = np.random.default_rng(0)
    weights = {"a": torch.from_numpy(rng.normal(size=(3, 4))).float(), "b": torch.ones(2)}
    ema = Ema(weights)
    wanted = {name: w.double().clone() for name, w in weights.items()}
    assert ema.averages["a"] is not weights["a"]
    for step in range(20):
        keep = decay(8, 8 * (step + 1), 0.05, 0.5)
        for w in weights.values():
            w += 0.1 * torch.from_numpy(rng.normal(size=w.shape)).float()
        ema.update(weights, keep)
        for name, w in weights.items():
            wanted[name] = keep * wanted[name] + (1 - keep) * w.double()
    for name, average in ema.averages.items():
        torch.testing.assert_close(average.double(), wanted[name], rtol=0, atol=1e-6)
        assert not torch.allclose(average, weights[name], atol=1e-3)


def test_keeping_nothing_copies():
    ema = Ema({"a": torch.zeros(3)})
    ema.update({"a": torch.arange(3.0)}, 0.0)
    assert torch.equal(ema.averages["a"], torch.arange(3.0))


def test_parameters_are_detached():
    parameter = torch.nn.Parameter(torch.zeros(2))
    ema = Ema({"a": parameter})
    ema.update({"a": parameter}, 0.5)
    assert not ema.averages["a"].requires_grad
