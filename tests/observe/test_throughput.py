"""Throughput on a clock that the test moves."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agehpc.observe.throughput import Meter, Rates


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_tick_by_hand():
    clock = Clock()
    meter = Meter(clock)
    for _ in range(4):
        with meter.waiting():
            clock.now += 0.5
        clock.now += 1.5
        meter.add(100)
    with meter.span("save"):
        clock.now += 7.0
    with meter.span("sample"):
        clock.now += 2.0
    with meter.span("save"):
        clock.now += 1.0
    rates = meter.tick()
    assert (rates.samples, rates.seconds, rates.wait_seconds) == (400, 8.0, 2.0)
    assert rates.samples_per_s == 50.0
    assert rates.s_per_kimg == 20.0
    assert rates.wait_share == 0.25
    assert rates.spans == {"save": 8.0, "sample": 2.0}
    assert rates.row() == {
        "samples_per_s": 50.0,
        "s_per_kimg": 20.0,
        "wait_share": 0.25,
        "tick_s": 8.0,
        "save_s": 8.0,
        "sample_s": 2.0,
    }


def test_ticks_do_not_share_anything():
    clock = Clock()
    meter = Meter(clock)
    meter.add(5)
    with meter.span("save"):
        clock.now += 1.0
    meter.tick()
    clock.now += 2.0
    meter.add(10)
    assert meter.tick() == Rates(samples=10, seconds=2.0, wait_seconds=0.0)


def test_time_is_counted_where_an_error_ends_it():
    clock = Clock()
    meter = Meter(clock)

    def save() -> None:
        with meter.span("save"):
            clock.now += 3.0
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        save()
    with meter.span("sample"):
        clock.now += 1.0
    assert meter.tick().spans == {"save": 3.0, "sample": 1.0}


def test_spans_do_not_nest():
    meter = Meter(Clock())
    with (
        pytest.raises(AssertionError, match="span sample inside span save"),
        meter.span("save"),
        meter.span("sample"),
    ):
        pass


def test_before_anything_happened():
    rates = Meter(Clock()).tick()
    assert (rates.samples_per_s, rates.wait_share) == (0.0, 0.0)
    assert math.isinf(rates.s_per_kimg)
    assert math.isinf(rates.eta_s(10))
    assert rates.eta_s(0) == 0.0


@pytest.mark.parametrize(
    ("left", "limit", "eta"),
    [(1000, None, 20.0), (1000, 5.0, 5.0), (1000, 90.0, 20.0), (-3, None, 0.0), (1000, -1.0, 0.0)],
)
def test_time_left(left, limit, eta):
    assert Rates(samples=400, seconds=8.0, wait_seconds=0.0).eta_s(left, limit) == eta


@given(samples=st.integers(1, 10**9), seconds=st.floats(1e-3, 1e6))
def test_the_two_rates_are_one_figure(samples, seconds):
    rates = Rates(samples, seconds, 0.0)
    assert rates.samples_per_s * rates.s_per_kimg == pytest.approx(1000.0)
    assert rates.eta_s(samples) == pytest.approx(seconds)
