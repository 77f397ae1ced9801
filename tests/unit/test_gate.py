"""The lock between readers of a mapped file and whoever maps it anew."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from lir_agents.stores.gate import Gate


class Signalled(Exception):
    """What a signal's handler raises, as Ctrl-C does."""


@pytest.fixture
def alarm() -> Iterator[Callable[[float], object]]:
    if not hasattr(signal, "setitimer"):
        pytest.skip("no timers here")

    def ring(*_: object) -> None:
        raise Signalled

    before = signal.signal(signal.SIGALRM, ring)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_who_is_called_away_while_waiting_to_be_alone_keeps_nobody_out(alarm: Callable[[float], object]) -> None:
    gate, inside, leave, passed = Gate(), threading.Event(), threading.Event(), threading.Event()

    def read() -> None:
        with gate.shared():
            inside.set()
            leave.wait(20)

    def pass_by() -> None:
        with gate.shared():
            passed.set()

    threading.Thread(target=read, daemon=True).start()
    assert inside.wait(20)
    alarm(0.1)
    with pytest.raises(Signalled), gate.exclusive():
        pass
    threading.Thread(target=pass_by, daemon=True).start()
    assert passed.wait(10)
    leave.set()
    with gate.exclusive():
        assert not gate._inside
