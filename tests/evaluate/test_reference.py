"""Features of real samples that are kept between evaluations."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from agehpc.evaluate import reference
from agehpc.evaluate.moments import Moments
from agehpc.evaluate.protocols import digest

ABOUT = {"extractor": "lite0", "n": 9}


def test_comes_back_as_it_was(tmp_path: Path):
    rows = torch.randn(9, 4)
    moments = Moments(4)
    moments.add(rows)
    assert reference.load(ABOUT, tmp_path / "new") is None
    for about, kept in ((ABOUT, rows), ({**ABOUT, "n": 8}, moments)):
        reference.save(about, kept, tmp_path / "new")
    found = reference.load(ABOUT, tmp_path / "new")
    assert isinstance(found, torch.Tensor)
    assert found.equal(rows)
    found = reference.load({**ABOUT, "n": 8}, tmp_path / "new")
    assert isinstance(found, Moments)
    assert found.count == 9
    assert found.covariance().equal(moments.covariance())


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "bits":
        path.write_bytes(content[:200] + bytes(50) + content[250:])
    else:
        np.savez(path, fingerprint=np.array(json.dumps(ABOUT)), other=np.zeros(3))


@pytest.mark.parametrize("how", ["cut", "empty", "bits", "other arrays"])
def test_damage_is_told(tmp_path: Path, how: str):
    reference.save(ABOUT, torch.randn(100, 4), tmp_path)
    damage(tmp_path / f"{digest(ABOUT)}.npz", how)
    with pytest.raises(reference.CacheError, match=r"\.npz is damaged .*; delete it"):
        reference.load(ABOUT, tmp_path)


def test_what_another_name_was_given_is_refused(tmp_path: Path):
    reference.save(ABOUT, torch.randn(9, 4), tmp_path)
    other = {**ABOUT, "n": 8}
    (tmp_path / f"{digest(ABOUT)}.npz").rename(tmp_path / f"{digest(other)}.npz")
    with pytest.raises(reference.CacheError, match=r"something else \(they differ in n\)"):
        reference.load(other, tmp_path)
