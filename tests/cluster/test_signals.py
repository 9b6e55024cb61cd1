import os
import signal

import pytest

from agehpc.cluster.signals import StopFlag

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
