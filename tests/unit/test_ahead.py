"""What is encoded on a thread of its own arrives whole, in order and in time, and nothing is left running."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lir_agents.deadline import SideCalls
from lir_agents.ingest import ahead as module
from lir_agents.ingest.ahead import ahead

_SOON_S = 10.0


@given(items=st.lists(st.integers()), most=st.integers(1, 5))
def test_everything_arrives_in_its_order(items: list[int], most: int) -> None:
    with ahead(iter(items), most) as taken:
        assert list(taken) == items


def test_the_next_item_is_made_while_the_caller_works_on_one() -> None:
    second = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        second.set()
        yield 2

    with ahead(items(), 1) as taken:
        assert next(taken) == 1
        assert second.wait(_SOON_S)
        assert list(taken) == [2]


def test_the_first_item_is_made_before_the_caller_asks_for_it() -> None:
    begun = threading.Event()

    def items() -> Iterator[int]:
        begun.set()
        yield 1

    with ahead(items(), 1) as taken:
        assert begun.wait(_SOON_S)
        assert list(taken) == [1]


def test_no_more_than_was_said_waits_for_the_caller() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i

    with ahead(items(), 3) as taken:
        for i in taken:
            assert len(made) <= i + 1 + 3 + 1  # those taken, those waiting, and the one that waits for room


def test_as_many_as_were_said_are_made_ahead() -> None:
    fourth = threading.Event()

    def items() -> Iterator[int]:
        yield from range(3)
        fourth.set()
        yield 3

    with ahead(items(), 3) as taken:
        assert fourth.wait(_SOON_S)
        assert list(taken) == [0, 1, 2, 3]


def test_an_error_comes_after_what_came_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("the third")

    with ahead(items(), 5) as taken:
        assert [next(taken), next(taken)] == [1, 2]
        with pytest.raises(ValueError, match="the third"):
            next(taken)


@pytest.mark.parametrize("most", [1, 50])
def test_whoever_leaves_early_leaves_nothing_running(most: int) -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from range(1_000_000)
        finally:
            closed.set()

    made = items()
    with ahead(made, most) as taken:
        next(taken)
    assert closed.is_set()


def test_an_error_of_the_callers_waits_for_what_is_being_made() -> None:
    begun, go_on, made = threading.Event(), threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        begun.set()
        assert go_on.wait(_SOON_S)
        made.set()
        yield 1

    def fail() -> None:
        with ahead(items(), 1):
            assert begun.wait(_SOON_S)
            go_on.set()
            raise KeyError("the caller's")

    with pytest.raises(KeyError, match="the caller's"):
        fail()
    assert made.is_set()


def test_an_interrupt_waits_for_nothing() -> None:
    begun, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        try:
            begun.set()
            assert go_on.wait(_SOON_S)
            yield 1
        finally:
            closed.set()

    def interrupt() -> None:
        with ahead(items(), 1):
            assert begun.wait(_SOON_S)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert not closed.is_set()
    go_on.set()
    assert closed.wait(_SOON_S)


def test_items_that_cannot_be_closed_say_so_and_keep_nobody_waiting() -> None:
    class Stubborn(Generator[int, None, None]):
        left = 2

        def send(self, _: None) -> int:
            if not self.left:
                raise StopIteration
            self.left -= 1
            return self.left

        def throw(self, *_: object) -> int:
            raise ValueError("not now")

    with pytest.raises(ValueError, match="not now"), ahead(Stubborn(), 3) as taken:
        list(taken)


def test_an_interrupt_right_after_the_beginning_leaves_nothing_running(monkeypatch: pytest.MonkeyPatch) -> None:
    closed, start = threading.Event(), module._CALLS.start

    def interrupted(*given: object, **named: object) -> None:
        start(*given, **named)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    def items() -> Iterator[int]:
        try:
            yield from range(100)
        finally:
            closed.set()

    monkeypatch.setattr(module._CALLS, "start", interrupted)
    with pytest.raises(KeyboardInterrupt), ahead(items(), 1):
        pass
    assert closed.wait(_SOON_S)


def test_without_a_thread_to_be_had_one_comes_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    hung, go_on = SideCalls("taken", at_most=1), threading.Event()
    stuck = hung.start(go_on.wait, timeout_s=0)
    monkeypatch.setattr(module, "_CALLS", hung)
    try:
        with ahead(iter([1, 2]), 1) as taken:
            assert list(taken) == [1, 2]
    finally:
        go_on.set()
        stuck.result()
        hung.close()
