"""`agehpc plan` from its words to its figures."""

import json
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest

from agehpc import cli
from agehpc.errors import EXIT_USAGE
from agehpc.recipes import RECIPES
from tests.ranks import ROOT

SMALL = ["plan", "image_age_demo", "--data.size", "16", "--train.global-batch", "16"]


def told(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert cli.main([*SMALL, *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_figures_fit_together(capsys: pytest.CaptureFixture[str]):
    plan = told(capsys, "--nodes", "2", "--gpus-per-node", "4", "--samples-per-second", "100")
    assert plan["predicted"] is True
    assert plan["batch"] == {"global": 16, "micro": 2, "accumulation": 1}
    stages = plan["memory"]["by_stage"]
    assert [row["stages"]["autoencoder"] for row in stages] == [0, 1, 2, 3]
    assert all(sum(row["peak"].values()) == row["total_bytes"] for row in stages)
    assert plan["memory"]["usable_bytes"] == 72_000_000_000
    assert plan["memory"]["smallest_stage_that_fits"] == 0
    rows = plan["scaling"]
    assert [row["gpus"] for row in rows] == [2**n for n in range(13)]
    assert rows[0]["samples_per_s"] == pytest.approx(100)
    assert rows[0]["efficiency"] == 1
    assert all(a["efficiency"] >= b["efficiency"] for a, b in pairwise(rows))
    for row in rows:
        assert row["samples_per_s"] == pytest.approx(row["gpus"] * 100 * row["efficiency"])
    assert rows[3]["wire_s"] == pytest.approx(plan["wire"]["seconds"])
    assert any("100 samples/s, as given" in line for line in plan["assumptions"])


def test_faster_links_and_devices_cost_less(capsys: pytest.CaptureFixture[str]):
    where = ["--nodes", "2", "--gpus-per-node", "4"]
    slow = told(capsys, *where, "--inter-gb-s", "1")["scaling"]
    fast = told(capsys, *where, "--inter-gb-s", "100")["scaling"]
    assert slow[2] == fast[2]  # four GPUs are one node
    assert slow[4]["wire_s"] > fast[4]["wire_s"]
    newer = told(capsys, *where, "--device", "h100-80")["scaling"]
    assert newer[0]["step_s"] < slow[0]["step_s"]


def test_a_device_too_small_is_said_to_be(capsys: pytest.CaptureFixture[str]):
    memory = told(capsys, "--memory-gb", "0.001")["memory"]
    assert memory["smallest_stage_that_fits"] is None
    assert not any(row["fits"] for row in memory["by_stage"])
    assert cli.main([*SMALL, "--memory-gb", "0.001"]) == 0
    assert "no stage fits" in capsys.readouterr().out


def test_a_cpu_has_no_data_sheet(capsys: pytest.CaptureFixture[str]):
    assert cli.main([*SMALL, "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "predicted, not measured" in out
    assert "speed is not predicted: give --samples-per-second" in out


def test_a_plan_that_cannot_be_made_is_refused(capsys: pytest.CaptureFixture[str]):
    assert cli.main([*SMALL, "--nodes", "3"]) == EXIT_USAGE
    assert "--train.global-batch 16 does not divide over 3 ranks" in capsys.readouterr().err
    conditional = next(name for name in RECIPES if RECIPES[name]().model.conditional)
    assert cli.main(["plan", conditional]) == EXIT_USAGE
    assert "give --data.shards" in capsys.readouterr().err


def test_help_imports_no_torch():
    code = (
        "import sys; from agehpc import cli; code = cli.main(['plan', '--help']); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--gpus-per-node" in done.stdout
