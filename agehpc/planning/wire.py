"""Bytes on the wire and the time they take, for collectives of a number of ranks.

A rank sends, by the bandwidth-optimal algorithms (Patarasuk and Yuan 2009), 2 (W - 1) / W of the
tensor for an all-reduce and (W - 1) / W for an all-gather or reduce-scatter. Imports no torch but
through the recorder.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from agehpc.planning.recorder import Collective


@dataclass(frozen=True)
class Links:
    """What connects the ranks.

    Attributes:
        gpus_per_node: ranks of a node.
        intra_gb_s: from a rank to others of its node, 1e9 bytes a second one way.
        inter_gb_s: from a node to others, all its cards together, one way.
        latency_us: microseconds of one hop.
    """

    gpus_per_node: int
    intra_gb_s: float
    inter_gb_s: float
    latency_us: float

    def bytes_a_second(self, ranks: int) -> float:
        """Of a ring over all ranks: its slowest part."""
        alone = ranks <= self.gpus_per_node
        slowest = self.intra_gb_s if alone else min(self.intra_gb_s, self.inter_gb_s)
        return 1e9 * slowest


def sent(collective: Collective, ranks: int) -> float:
    """Bytes that a rank sends."""
    if ranks == 1:
        return 0.0
    if collective.kind == "broadcast":  # down a chain
        return float(collective.payload)
    share = (ranks - 1) / ranks * collective.payload
    return 2 * share if collective.kind == "all_reduce" else share


def by_kind(collectives: Iterable[Collective], ranks: int) -> dict[str, float]:
    """Bytes that a rank sends by kind of collective."""
    found: dict[str, float] = {}
    for collective in collectives:
        found[collective.kind] = found.get(collective.kind, 0.0) + sent(collective, ranks)
    return found


def seconds(collectives: Iterable[Collective], ranks: int, links: Links) -> float:
    """Time that they take one after the other, on a network without other traffic.

    Hops: 2 log2 W for an all-reduce (up and down a tree), W - 1 for the ring of the others.
    """
    if ranks == 1:
        return 0.0
    total = 0.0
    for collective in collectives:
        reduces = collective.kind == "all_reduce"
        hops = 2 * math.ceil(math.log2(ranks)) if reduces else ranks - 1
        total += hops * links.latency_us * 1e-6
        total += sent(collective, ranks) / links.bytes_a_second(ranks)
    return total
