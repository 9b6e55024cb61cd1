"""Random numbers keyed by what they are for, so that they do not depend on where they are drawn."""

import hashlib
from functools import lru_cache

import numpy as np


@lru_cache(maxsize=256)
def _key(seed: int, purpose: str) -> tuple[int, int]:
    digest = hashlib.blake2b(f"{seed}\0{purpose}".encode(), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def philox(seed: int, purpose: str, position: int) -> np.random.Generator:
    """Return the generator of (seed, purpose, position).

    `position` counts from 0, below 2^64: a global sample position, a step or an epoch. Streams of
    different arguments are independent and each is 2^128 draws long.
    """
    # The generator counts in the two low words of its counter, the position sits above them.
    counter = np.array([0, 0, position, 0], dtype=np.uint64)
    key = np.array(_key(seed, purpose), dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
