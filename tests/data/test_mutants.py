"""Damaged clips on their way to a batch: an error of some kind, never the end of the process."""

from pathlib import Path
from typing import get_args

import pytest

from agehpc.data.damage import DamagedError
from agehpc.data.decode import Decoder, Reader
from agehpc.data.shards import read_manifest
from tests.data.mutants import read_mutants, write_mutants


@pytest.mark.parametrize(
    "count",
    [pytest.param(45, id="some"), pytest.param(504, id="all", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("decoder", get_args(Decoder))
def test_what_checksums_cannot_tell(demo_shards: Path, tmp_path: Path, decoder: str, count: int):
    write_mutants(demo_shards, tmp_path / "mutants", count, checksums=True)
    seen = read_mutants(tmp_path / "mutants", count, decoder)
    assert set(seen) == {"open", "short", "decode", "decoded"}, seen
    # Of nine kinds of damage these two may leave a picture: anywhere, and a fifth of it zeroed.
    assert seen["decoded"] <= count * 4 / 9
    assert seen["short"] >= count * 2 / 9


def test_checksums_tell_all(demo_shards: Path, tmp_path: Path):
    write_mutants(demo_shards, tmp_path / "mutants", 504, checksums=False)
    reader = Reader(tmp_path / "mutants", read_manifest(tmp_path / "mutants"), "train")
    for number in range(504):
        with pytest.raises(DamagedError, match="checksum") as caught:
            reader.read(0, number)
        assert caught.value.kind == "crc"
