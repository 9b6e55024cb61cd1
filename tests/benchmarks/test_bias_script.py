"""The plot of bias against sample count, on real digits and few of them."""

import csv
import json
from pathlib import Path

import bias
import numpy as np
import pytest
import torch
from PIL import Image

from agehpc.evaluate.features.base import build
from tests.evaluate.sets import some_digits


def test_a_line_over_one_over_n_is_found():
    sizes = [200, 400, 800, 1500, 3000, 5000]
    means = np.array([7 + 900 / n for n in sizes])
    found = bias.fits(sizes, means, 1280)
    assert list(found) == [(200, 800), (1500, 5000)]
    for slope, infinite in found.values():
        assert (slope, infinite) == pytest.approx((900, 7))
    assert list(bias.fits([8, 16], means[:2], 1280)) == [(8, 16)]


def test_rows_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    x_NCHW = np.stack([np.asarray(x) for x in some_digits(0, 40)])[:, None]
    np.save(tmp_path / "real.npy", x_NCHW)
    words = ["--real", str(tmp_path / "real.npy"), "--sizes", "5", "10", "20", "--seeds", "2"]
    words += ["--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "rows.csv"), "--json"]
    assert bias.main([*words, "--plot", str(tmp_path / "bias.png")]) == 0
    rows = json.loads(capsys.readouterr().out)
    frechets = [row for row in rows if row["metric"] == "frechet_lite0" and "n" in row]
    assert [row["n"] for row in frechets] == [5, 10, 20]
    assert frechets[0]["low"] > frechets[2]["high"] > 0
    features_NF = build("lite0", "cpu")(torch.from_numpy(x_NCHW))["features"]
    halves = []
    for seed in range(2):
        order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
        halves.append(bias.distances(*features_NF[order].split(20)))
    for metric, mean in zip(("frechet_lite0", "kid_lite0"), np.mean(halves, 0), strict=True):
        (row,) = (row for row in rows if row["metric"] == metric and row.get("n") == 20)
        assert row["mean"] == pytest.approx(mean, rel=2e-3)
    assert {row.get("through") for row in rows} == {None, "5-20"}
    with (tmp_path / "rows.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(rows)
    with Image.open(tmp_path / "bias.png") as picture:
        assert picture.size == (1100, 440)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert bias.main([*words[:-1], "--sizes", "21"]) == 2
    assert "fewer than twice 21" in capsys.readouterr().err
