"""What a run says: lines on a file, a bar on a terminal, a log a rank."""

import io
import logging

import pytest

from agehpc.observe.console import (
    Console,
    Status,
    close_logging,
    duration,
    setup_logging,
)
from agehpc.observe.throughput import Rates

STATUS = Status(
    kimg=12.0,
    total_kimg=100.0,
    step=375,
    rates=Rates(samples=4123, seconds=10.0, wait_seconds=0.21),
    eta_s=192.4,
    values={"rec": 0.21337, "adv": 0.69},
)
LINE = "kimg 12.0/100  step 375  412.3 samples/s  wait 2.1%  rec 0.213  adv 0.69  eta 3m12s"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_file_gets_one_line_a_tick():
    stream = io.StringIO()
    with Console(stream=stream) as console:
        console.rows("video_age_64", {"players": "two", "run": "runs/a"})
        console.progress(6.0, 100.0)
        console.tick(STATUS)
        console.say("saved")
        console.tick(STATUS)
    assert stream.getvalue() == (
        f"video_age_64\n  players  two\n  run      runs/a\n{LINE}\nsaved\n{LINE}\n"
    )


def test_a_terminal_gets_a_bar_that_keeps_count_and_time(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    with Console(stream=stream) as console:
        console.say("before")
        console.progress(6.0, 100.0)
        console.tick(STATUS)
        console.say("saved [runs/a]")
        console.progress(13.0, 100.0)
    shown = stream.getvalue()
    assert "before\n" in shown
    assert "saved [runs/a]" in shown
    last = shown.rstrip().rpartition("kimg ")[2]
    assert last.startswith("13.0/100.0")
    assert "eta 3m12s" in last
    assert "412.3" in last
    assert "step 375" not in shown


def test_only_rank_0_speaks():
    for stream in (io.StringIO(), Terminal()):
        with Console(speaks=False, stream=stream) as console:
            console.rows("a", {"b": 1})
            console.progress(1.0, 2.0)
            console.tick(STATUS)
            console.say("b")
        assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (192, "3m12s"),
        (3599.6, "1h00m"),
        (18420, "5h07m"),
        (183600, "2d03h"),
        (float("inf"), "unknown"),
        (float("nan"), "unknown"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_every_rank_logs_to_its_file_and_appends(tmp_path, capsys):
    try:
        for start in range(2):
            setup_logging(tmp_path, 1)
            logging.getLogger("agehpc.data").info("start %d", start)
            with Console(speaks=False) as console:
                console.tick(STATUS)
        setup_logging(tmp_path, 0).info("quiet")
        logging.getLogger("agehpc.data").warning("loud")
    finally:
        close_logging()
    lines = (tmp_path / "logs" / "rank1.log").read_text().splitlines()
    assert [line.split(" INFO ")[1] for line in lines] == ["start 0", LINE, "start 1", LINE]
    assert (tmp_path / "logs" / "rank0.log").read_text().count("\n") == 2
    assert capsys.readouterr().err == "WARNING: loud\n"
    assert logging.getLogger("agehpc").handlers == []


def test_a_short_run_shows_hundredths():
    short = Status(kimg=0.25, total_kimg=8.0, step=16, rates=STATUS.rates, eta_s=1.0)
    assert short.line().startswith("kimg 0.25/8  step 16")
