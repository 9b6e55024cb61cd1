"""Counters and what is due."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from agehpc.train.progress import Progress, is_due


def test_a_step():
    after = Progress(3, 24, 120).after(8, 40)
    assert (after.step, after.samples_seen, after.samples_read) == (4, 32, 160)
    assert after.kimg == 0.032


@given(
    batch=st.integers(1, 200),
    steps=st.integers(1, 100),
    every=st.integers(1, 2000),
)
def test_due_once_in_each_interval(batch: int, steps: int, every: int):
    """As whole samples say, wherever a resumed run begins."""
    now, due = Progress(), []
    for _ in range(steps):
        before, now = now, now.after(batch, batch)
        if is_due(every / 1000, before, now):
            due.append(now.samples_seen)
    seen = [batch * (n + 1) for n in range(steps)]
    # The first step at or after each multiple.
    assert due == [s for s in seen if any(m % every == 0 for m in range(s - batch + 1, s + 1))]


def test_due_at_multiples():
    steps = [Progress(n, 8 * n) for n in range(12)]
    pairs = itertools.pairwise(steps)
    assert [now.step for before, now in pairs if is_due(0.016, before, now)] == [2, 4, 6, 8, 10]
    assert is_due(1.0, Progress(0, 0), Progress(1, 2500))
    assert not is_due(1.0, Progress(0, 0), Progress(1, 999))
    assert not is_due(0.0, Progress(0, 0), Progress(1, 10**9))


def test_never_due_twice_for_one_multiple():
    assert is_due(1.0, Progress(0, 999), Progress(1, 1000))
    assert not is_due(1.0, Progress(1, 1000), Progress(2, 1001))
