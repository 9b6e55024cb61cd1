"""Bytes and times on the wire against what each rank of a ring does, step by step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agehpc.planning.recorder import Collective
from agehpc.planning.wire import Links, by_kind, seconds, sent

LINKS = Links(gpus_per_node=4, intra_gb_s=100.0, inter_gb_s=10.0, latency_us=0.0)


def ring(kind: str, ranks: int, chunks: int) -> list[int]:
    """Chunks that each rank sends, in rings that pass one chunk on at a time."""
    assert chunks == ranks
    rounds = {"all_reduce": 2 * (ranks - 1), "all_gather": ranks - 1, "reduce_scatter": ranks - 1}
    counts = [0] * ranks
    for _ in range(rounds[kind]):
        for rank in range(ranks):
            counts[rank] += 1
    return counts


@given(st.sampled_from(["all_reduce", "all_gather", "reduce_scatter"]), st.integers(2, 64))
def test_a_rank_sends_what_a_ring_has_it_send(kind: str, ranks: int):
    payload = 1000 * ranks
    chunks = ring(kind, ranks, ranks)
    assert {1000 * count for count in chunks} == {round(sent(Collective(kind, payload), ranks))}


def test_one_rank_sends_nothing():
    assert sent(Collective("all_reduce", 100), 1) == 0
    assert seconds([Collective("all_reduce", 100)], 1, LINKS) == 0


def test_the_slowest_link_sets_the_time():
    gradients = [Collective("all_reduce", 4_000_000_000)]
    within = seconds(gradients, 4, LINKS)
    assert within == pytest.approx(2 * 3 / 4 * 4e9 / 100e9)
    across = seconds(gradients, 8, LINKS)
    assert across == pytest.approx(2 * 7 / 8 * 4e9 / 10e9)


def test_latency_counts_hops():
    links = Links(4, 100.0, 10.0, latency_us=3.0)
    flag = [Collective("all_reduce", 0)]
    assert seconds(flag, 64, links) == pytest.approx(12 * 3e-6)
    assert seconds([Collective("all_gather", 0)], 64, links) == pytest.approx(63 * 3e-6)


def test_kinds_are_summed():
    found = [Collective("all_reduce", 10), Collective("all_gather", 8), Collective("all_reduce", 6)]
    assert by_kind(found, 2) == {"all_reduce": 16.0, "all_gather": 4.0}
