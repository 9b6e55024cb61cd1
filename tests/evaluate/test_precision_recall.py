"""Precision, recall, density and coverage against plain float64 loops and torch-fidelity."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_fidelity.metric_prc import prc_features_to_metric

from agehpc.errors import DataError
from agehpc.evaluate import precision_recall as module
from agehpc.evaluate.precision_recall import prdc, precision_recall


def gaussian(samples: int, size: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(samples, size, generator=torch.Generator().manual_seed(seed)) + shift


def squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.array([[((a - b) ** 2).sum() for b in y] for a in x])


def radii(x: np.ndarray, k: int) -> np.ndarray:
    return np.array([np.sort(np.delete(row, i))[k - 1] for i, row in enumerate(squares(x, x))])


def plain(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[dict[str, float], ...]:
    """The two papers' definitions, pair by pair: improved precision and recall, and PRDC."""
    of_real, of_fake, d = radii(real, k), radii(fake, k), squares(real, fake)
    improved, wanted = (
        dict.fromkeys(("precision", "recall"), 0.0),
        dict.fromkeys(("precision", "recall", "density", "coverage"), 0.0),
    )
    for j in range(len(fake)):
        balls = sum(d[i, j] < of_real[i] for i in range(len(real)))
        improved["precision"] += any(d[i, j] <= of_real[i] for i in range(len(real))) / len(fake)
        wanted["precision"] += (balls > 0) / len(fake)
        wanted["density"] += balls / len(fake) / k
    for i in range(len(real)):
        improved["recall"] += any(d[i, j] <= of_fake[j] for j in range(len(fake))) / len(real)
        wanted["recall"] += any(d[i, j] < of_fake[j] for j in range(len(fake))) / len(real)
        wanted["coverage"] += any(d[i, j] < of_real[i] for j in range(len(fake))) / len(real)
    return improved, wanted


# Whole numbers from few: many distances are equal, many rows too, and float64 makes no error.
@settings(deadline=None, max_examples=60)
@given(st.data())
def test_ties_and_equal_rows(data: st.DataObject):
    size, k = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    row = st.lists(st.integers(-2, 2), min_size=size, max_size=size)
    real, fake = (
        np.array(data.draw(st.lists(row, min_size=k + 1, max_size=14)), np.float64) for _ in "xy"
    )
    improved, wanted = plain(real, fake, k)
    given_ = torch.from_numpy(real), torch.from_numpy(fake)
    pairs, module.PAIRS = module.PAIRS, data.draw(st.sampled_from([1, 30, 10**6]))
    try:
        assert precision_recall(*given_, k) == pytest.approx(improved, abs=1e-12)
        assert prdc(*given_, k) == pytest.approx(wanted, abs=1e-12)
    finally:
        module.PAIRS = pairs


@pytest.mark.parametrize(("shift", "k"), [(0.0, 3), (0.4, 3), (0.4, 5), (3.0, 1)])
def test_features_of_many_dimensions(shift: float, k: int):
    real, fake = gaussian(90, 32, 0), gaussian(70, 32, 1, shift) * 0.8
    improved, wanted = plain(real.double().numpy(), fake.double().numpy(), k)
    assert precision_recall(real, fake, k) == pytest.approx(improved, abs=1e-12)
    assert prdc(real, fake, k) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("k", [3, 5])
def test_equal_to_torch_fidelity(k: int):
    real, fake = gaussian(300, 16, 0).double(), gaussian(200, 16, 1, 0.3).double() * 0.8
    theirs = prc_features_to_metric(fake, real, prc_neighborhood=k, verbose=False)
    found = precision_recall(real, fake, k)
    assert found == pytest.approx({name: theirs[name] for name in found}, abs=1e-6)
    assert 0 < found["recall"] < found["precision"] - 0.1  # which is which shows


def test_repeated_rows_far_from_zero_have_no_distance():
    """|x|^2 + |y|^2 - 2 x.y of equal rows is rounding: a radius of 0 must still hold its copies."""
    x = (gaussian(5, 333, 0, shift=1000) / 3).repeat(9, 1)
    y = x[torch.randperm(45, generator=torch.Generator().manual_seed(0))]
    assert precision_recall(x, y, k=3) == {"precision": 1, "recall": 1}
    assert prdc(x, y, k=5) == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}


def test_a_set_and_itself():
    """A ball without its surface holds its centre and k - 1 neighbours."""
    x = (gaussian(60, 8, 0) * 4096).round()  # float64 makes no error
    assert prdc(x, x, k=5) == {
        "precision": 1,
        "recall": 1,
        "density": pytest.approx(1),
        "coverage": 1,
    }


def test_too_few_samples():
    with pytest.raises(DataError, match=r"k = 3 need more than 3 .* one has 3"):
        precision_recall(gaussian(10, 2, 0), gaussian(3, 2, 0))
    with pytest.raises(DataError, match=r"k = 5"):
        prdc(gaussian(5, 2, 0), gaussian(30, 2, 0))
