import os
import signal
from pathlib import Path

import pytest

from agehpc.cluster.signals import StopFlag
from agehpc.errors import EXIT_RESTART, StoppedError

HANDLED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGTERM, "restart"),
        (signal.SIGUSR1, "restart"),
        (signal.SIGUSR2, "restart"),
        (signal.SIGINT, "interrupt"),
    ],
)
def test_signal_is_noted(number: signal.Signals, reason: str):
    with StopFlag() as flag:
        assert flag.reason is None
        send(number)
        assert flag.reason == reason


def test_repeated_requests_are_harmless():
    with StopFlag() as flag:
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1):
            send(number)
        assert flag.reason == "restart"


def test_weightier_reason_is_kept():
    flag = StopFlag()
    for asked, kept in (
        ("minutes", "minutes"),
        ("restart", "restart"),
        ("minutes", "restart"),
        ("interrupt", "interrupt"),
        ("restart", "interrupt"),
    ):
        flag.request(asked)  # type: ignore[arg-type]
        assert flag.reason == kept


def test_second_ctrl_c_does_not_wait():
    def impatient() -> None:
        with StopFlag():
            send(signal.SIGINT)
            send(signal.SIGUSR1)
            send(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        impatient()


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in HANDLED]
    with StopFlag():
        assert all(signal.getsignal(n) != b for n, b in zip(HANDLED, before, strict=True))
    assert [signal.getsignal(number) for number in HANDLED] == before


@pytest.fixture
def control(tmp_path: Path) -> Path:
    (tmp_path / "control").mkdir()
    return tmp_path / "control"


def test_a_save_is_asked_for_once(control: Path):
    flag = StopFlag(control)
    flag.look()
    assert flag.reason is None
    (control / "save").touch()
    flag.look()
    flag.check()  # a save can wait until long work is done
    assert flag.reason == "save"
    flag.obeyed()
    assert flag.reason is None
    assert list(control.iterdir()) == []
    flag.look()
    assert flag.reason is None


def test_a_stop_ends_long_work_and_saves_as_well(control: Path):
    flag = StopFlag(control)
    (control / "save").touch()
    (control / "stop").touch()
    with pytest.raises(StoppedError, match="stop"):
        flag.check()
    assert flag.reason == "stop"
    flag.obeyed()
    assert list(control.iterdir()) == []
    assert flag.reason == "stop"


def test_a_file_that_was_not_obeyed_stays(control: Path):
    """Ctrl-C goes before a stop: the next start obeys it."""
    flag = StopFlag(control)
    flag.request("interrupt")
    (control / "stop").touch()
    flag.look()
    assert flag.reason == "interrupt"
    flag.obeyed()
    assert [path.name for path in control.iterdir()] == ["stop"]


def test_only_what_ends_the_run_ends_long_work():
    flag = StopFlag()
    for reason in ("save", "minutes"):
        flag.request(reason)
        flag.check()
    flag.request("restart")
    with pytest.raises(StoppedError) as raised:
        flag.check()
    assert raised.value.exit_code == EXIT_RESTART
