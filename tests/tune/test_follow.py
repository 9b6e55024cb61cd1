"""What trials reach, as their files tell it."""

import json
from pathlib import Path
from typing import Any

from agehpc_tune.follow import Score, last_words, reached, scores


def write(path: Path, *rows: dict[str, Any], torn: str = "") -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + torn)


def figure(step: int, metric: str, value: float) -> dict[str, Any]:
    return {"kimg": step / 10, "step": step, "metric": metric, "value": value}


def test_nothing_yet(tmp_path: Path):
    assert scores(tmp_path, ["psnr"]) == []
    assert reached(tmp_path) == 0.0


def test_a_step_counts_once_all_objectives_are_there(tmp_path: Path):
    rows = [figure(10, "psnr", 1.0), figure(10, "fid", 7.0), figure(20, "psnr", 2.0)]
    write(tmp_path / "evaluations.jsonl", *rows, torn='{"kimg": 2.0, "step": 20, "metr')
    assert scores(tmp_path, ["psnr"]) == [
        Score(1.0, 10, {"psnr": 1.0}),
        Score(2.0, 20, {"psnr": 2.0}),
    ]
    assert scores(tmp_path, ["fid", "psnr"]) == [Score(1.0, 10, {"fid": 7.0, "psnr": 1.0})]
    assert scores(tmp_path, ["other"]) == []


def test_the_newest_figure_of_a_step_counts(tmp_path: Path):
    write(tmp_path / "evaluations.jsonl", figure(10, "psnr", 1.0), figure(10, "psnr", 1.5))
    assert scores(tmp_path, ["psnr"]) == [Score(1.0, 10, {"psnr": 1.5})]


def test_speed_is_the_median_of_the_ticks_and_memory_the_peak(tmp_path: Path):
    speeds = [(5, 1.0, 9.0), (10, 30.0, 2.0), (15, 10.0, 3.0), (20, 20.0, 1.0), (25, 99.0, 1.0)]
    ticks = [
        {"kimg": step / 10, "step": step, "samples_per_s": speed, "memory_gib": memory}
        for step, speed, memory in speeds
    ]
    write(tmp_path / "metrics.jsonl", *ticks)
    write(tmp_path / "evaluations.jsonl", figure(20, "psnr", 2.0))
    names = ["samples_per_s", "memory_gib", "psnr"]
    # The first tick holds the start, and the last comes after the step.
    values = {"samples_per_s": 20.0, "memory_gib": 3.0, "psnr": 2.0}
    assert scores(tmp_path, names) == [Score(2.0, 20, values)]
    assert reached(tmp_path) == 2.5


def test_last_words(tmp_path: Path):
    path = tmp_path / "trial.log"
    assert last_words(path) == "no output"
    path.write_text("banner\nerror: no such metric\ngoing down\n\n")
    assert last_words(path) == "no such metric"
    path.write_text("Traceback\n  File x\nValueError: bad\n")
    assert last_words(path) == "ValueError: bad"
