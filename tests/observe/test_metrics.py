"""metrics.jsonl: exact values, torn lines, cutting back to a checkpoint."""

import json
import math
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agehpc.errors import RunError
from agehpc.observe.metrics import MetricsLog, encode, read


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


def write(path: Path, steps) -> None:
    with MetricsLog(path) as log:
        for step in steps:
            log.append({"step": step, "loss": step / 3})


@given(st.floats())
def test_floats_come_back_with_the_same_bits(value):
    line = encode({"step": 1, "loss": value})
    # Valid JSON for any reader: no bare NaN.
    parsed = json.loads(line, parse_constant=lambda name: pytest.fail(f"bare {name}"))
    again = float(parsed["loss"])
    assert bits(again) == bits(value) or (math.isnan(again) and math.isnan(value))


def test_rows_come_back_as_written(tmp_path):
    rows = [
        {"step": 1, "kimg": 0.1 + 0.2, "adv": math.inf, "name": "a", "list": [1, 2.5]},
        {"step": 2, "kimg": 1e-300, "adv": -math.inf, "flag": True, "none": None},
    ]
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        for row in rows:
            log.append(row)
    assert read(path) == rows
    assert math.isnan(read_one(tmp_path, {"step": 1, "loss": math.nan})["loss"])


def read_one(folder: Path, row):
    path = folder / "one.jsonl"
    path.write_bytes(encode(row))
    return read(path)[0]


def test_rows_are_readable_while_the_run_goes_on(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.append({"step": 1})
        assert read(path) == [{"step": 1}]
        log.sync()


def test_opening_again_appends(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, [1, 2])
    write(path, [3])
    assert [row["step"] for row in read(path)] == [1, 2, 3]


@pytest.mark.parametrize("torn", [b'{"step": 4, "lo', b'{"step": 4}', b"\x00\x00"])
def test_a_torn_last_line_is_no_row_and_goes_at_the_next_start(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    write(path, [1, 2])
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert [row["step"] for row in read(path)] == [1, 2]
    write(path, [3])
    assert path.read_bytes() == whole + encode({"step": 3, "loss": 1.0})


def test_cutting_back_equals_never_having_gone_further(tmp_path):
    undisturbed, resumed = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    write(undisturbed, range(10))
    write(resumed, range(8))
    resumed.write_bytes(resumed.read_bytes() + b'{"st')
    with MetricsLog(resumed) as log:
        assert log.cut_back(5) == 2
        assert [row["step"] for row in read(resumed)] == [0, 1, 2, 3, 4, 5]
        for step in range(6, 10):
            log.append({"step": step, "loss": step / 3})
    assert resumed.read_bytes() == undisturbed.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl"]


def test_cutting_back_nothing_leaves_the_file_alone(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, range(3))
    before = path.stat().st_ino
    with path.open(), MetricsLog(path) as log:  # held open, its inode is not given away
        assert log.cut_back(2) == 0
    assert path.stat().st_ino == before


@pytest.mark.parametrize("damage", [b"{oops}\n", b"3\n", b"\xff\xfe\n"])
def test_damage_in_the_middle_is_named(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(encode({"step": 1}) + damage + encode({"step": 2}))
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 2 is not a JSON object"):
        read(path)
    with MetricsLog(path) as log, pytest.raises(RunError, match="line 2"):
        log.cut_back(1)
    assert path.read_bytes().count(b"\n") == 3


def test_a_new_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        assert log.cut_back(0) == 0
    assert path.read_bytes() == b""
