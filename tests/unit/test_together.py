"""Calls of several threads share a run where they had to wait for one; each gets its own answer or error."""

from __future__ import annotations

import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lir_agents.encoding.together import Together

ROOM = 3
SIZES = {"a": 1, "b": 3, "c": 2}


def size_of(asked: str) -> int:
    return SIZES[asked[-1]]


class Signalled(BaseException):
    """What a signal's handler raises."""


class Room:
    """What runs calls: records groups, and stays in a run for as long as the gate is shut."""

    def __init__(self) -> None:
        self.groups: list[tuple[list[str], bool]] = []
        self.gate = threading.Event()
        self.running = self.most_running = 0
        self.lock = threading.Lock()

    def run(self, asked: Sequence[str], crowded: bool) -> list[str]:
        with self.lock:
            self.groups.append((list(asked), crowded))
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            assert self.gate.wait(20)
            if any(one.startswith("bad") for one in asked):
                raise ValueError(f"{len(asked)} with a bad one: {[one for one in asked if 'bad' in one]}")
            return [one.upper() for one in asked]
        finally:
            with self.lock:
                self.running -= 1


@pytest.fixture
def room() -> Room:
    return Room()


def line(room: Room, **lanes: int) -> Together[str, str]:
    return Together(room.run, size_of, room=ROOM, **lanes)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.001)


def queue(calls: Together[str, str], threads: ThreadPoolExecutor, *asked: str) -> list[Future[str]]:
    """Puts calls in line one after another; the last letter says how much room each takes."""
    found = []
    for one in asked:
        before = len(calls._line)
        found.append(threads.submit(calls, one))
        until(lambda before=before: len(calls._line) != before)  # type: ignore[misc]
    return found


def occupy(calls: Together[str, str], room: Room, threads: ThreadPoolExecutor) -> Future[str]:
    first = threads.submit(calls, "first a")
    until(lambda: room.running == 1)
    return first


@pytest.fixture
def threads(room: Room) -> ThreadPoolExecutor:
    with ThreadPoolExecutor(16) as pool:
        yield pool  # type: ignore[misc]
        room.gate.set()


def test_who_comes_alone_goes_at_once_and_alone(room: Room) -> None:
    room.gate.set()
    calls = line(room)
    assert [calls("one a"), calls("two a")] == ["ONE A", "TWO A"]
    assert room.groups == [(["one a"], False), (["two a"], False)]


def test_who_had_to_wait_goes_together_in_order_as_far_as_there_is_room(
    room: Room, threads: ThreadPoolExecutor
) -> None:
    calls = line(room)
    first = occupy(calls, room, threads)
    waiting = queue(calls, threads, "1 a", "2 b", "3 a", "4 c", "5 a", "6 a")
    room.gate.set()
    assert [one.result(20) for one in [first, *waiting]] == [
        "FIRST A", "1 A", "2 B", "3 A", "4 C", "5 A", "6 A",
    ]  # fmt: skip
    assert [asked for asked, _ in room.groups] == [["first a"], ["1 a", "3 a", "5 a"], ["2 b"], ["4 c", "6 a"]]
    assert [crowded for *_, crowded in room.groups] == [False, True, True, True]


def test_after_a_while_alone_it_is_no_longer_crowded(
    room: Room, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = line(room)
    first = occupy(calls, room, threads)
    (second,) = queue(calls, threads, "second a")
    room.gate.set()
    assert (first.result(20), second.result(20)) == ("FIRST A", "SECOND A")
    now = time.monotonic()
    monkeypatch.setattr("lir_agents.encoding.together.time.monotonic", lambda: now + 1)
    assert calls("third a") == "THIRD A"
    assert room.groups[-1] == (["third a"], False)


def test_an_error_is_told_to_who_caused_it(room: Room, threads: ThreadPoolExecutor) -> None:
    calls = line(room)
    first = occupy(calls, room, threads)
    good, bad, other = queue(calls, threads, "good a", "bad a", "other a")
    room.gate.set()
    assert [one.result(20) for one in (first, good, other)] == ["FIRST A", "GOOD A", "OTHER A"]
    with pytest.raises(ValueError, match="1 with a bad one"):
        bad.result(20)
    assert calls("next a") == "NEXT A"


def test_a_full_group_gets_a_lane_that_single_calls_do_not(room: Room, threads: ThreadPoolExecutor) -> None:
    calls = line(room, at_once=1, lanes=2)
    occupy(calls, room, threads)
    queue(calls, threads, "1 a", "2 a")
    assert room.most_running == 1
    threads.submit(calls, "3 a")
    until(lambda: room.running == 2)
    assert room.groups[-1] == (["1 a", "2 a", "3 a"], True)


def test_a_single_call_is_no_group_however_large(room: Room, threads: ThreadPoolExecutor) -> None:
    calls = line(room, at_once=1, lanes=2)
    occupy(calls, room, threads)
    queue(calls, threads, "1 b")
    assert room.most_running == 1
    threads.submit(calls, "2 a")
    until(lambda: room.running == 2)
    assert room.groups[-1] == (["1 b"], True)


def test_without_room_each_goes_alone(room: Room, threads: ThreadPoolExecutor) -> None:
    calls = Together(room.run, size_of, room=0, lanes=2)
    first = occupy(calls, room, threads)
    waiting = queue(calls, threads, "1 a", "2 a")
    assert room.most_running == 1
    room.gate.set()
    assert [one.result(20) for one in [first, *waiting]] == ["FIRST A", "1 A", "2 A"]
    assert [asked for asked, _ in room.groups] == [["first a"], ["1 a"], ["2 a"]]


def test_two_lanes_at_once_are_two_runs(room: Room, threads: ThreadPoolExecutor) -> None:
    calls = line(room, at_once=2, lanes=2)
    occupy(calls, room, threads)
    threads.submit(calls, "1 b")
    until(lambda: room.running == 2)
    assert [crowded for *_, crowded in room.groups] == [False, True]


@pytest.fixture
def alarm() -> Callable[[float], None]:
    if not hasattr(signal, "setitimer"):
        pytest.skip("no timers here")

    def ring(*_: object) -> None:
        raise Signalled

    before = signal.signal(signal.SIGALRM, ring)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)  # type: ignore[misc]
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_who_is_called_away_while_waiting_holds_nobody_up(
    room: Room, threads: ThreadPoolExecutor, alarm: Callable[[float], None]
) -> None:
    calls = line(room)
    first = occupy(calls, room, threads)
    alarm(0.1)
    with pytest.raises(Signalled):
        calls("away a")
    (other,) = queue(calls, threads, "other a")
    room.gate.set()
    assert (first.result(20), other.result(20)) == ("FIRST A", "OTHER A")
    assert [asked for asked, _ in room.groups] == [["first a"], ["other a"]]


def test_who_is_called_away_at_work_leaves_the_others_theirs(alarm: Callable[[float], None]) -> None:
    """The thread that leads a group of three ends by a signal; the other two lead themselves."""
    here, sizes, began = threading.main_thread(), [], threading.Event()

    def run(asked: Sequence[str], crowded: bool) -> list[str]:
        sizes.append(len(asked))
        if threading.current_thread() is here:
            alarm(0.1)
            time.sleep(20)
        elif not began.is_set():
            began.set()
            until(lambda: len(calls._line) == 3)
        return [one.upper() for one in asked]

    calls: Together[str, str] = Together(run, lambda _: 1, room=ROOM)
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(calls, "first")
        assert began.wait(20)

        def follow() -> list[str]:
            until(lambda: len(calls._line) == 1)
            return [one.result(20) for one in [threads.submit(calls, "1"), threads.submit(calls, "2")]]

        others = threads.submit(follow)
        with pytest.raises(Signalled):
            calls("away")
        assert first.result(20) == "FIRST"
        assert others.result(20) == ["1", "2"]
    assert sizes[:2] == [1, 3]
    assert calls._busy == 0


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 8),
    st.integers(1, 4),
    st.integers(0, 3),
    st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), min_size=1, max_size=60),
)
def test_whoever_comes_gets_their_own(threads: int, at_once: int, more: int, asked: list[tuple[str, bool]]) -> None:
    running, most_running, lock = 0, 0, threading.Lock()

    def run(group: Sequence[tuple[int, bool]], crowded: bool) -> list[tuple[str, int]]:
        nonlocal running, most_running
        assert len(group) == 1 or sum(SIZES[asked[i][0]] for i, _ in group) <= ROOM
        with lock:
            running += 1
            most_running = max(most_running, running)
        time.sleep(random.choice([0, 0.0003]))
        with lock:
            running -= 1
        if any(bad for _, bad in group):
            raise ValueError(str([i for i, _ in group]))
        return [(asked[i][0], i) for i, _ in group]

    calls: Together[tuple[int, bool], tuple[str, int]] = Together(
        run, lambda one: SIZES[asked[one[0]][0]], room=ROOM, at_once=at_once, lanes=at_once + more
    )

    def ask(i: int) -> tuple[str, int] | str:
        _, bad = asked[i]
        try:
            return calls((i, bad))
        except ValueError as error:
            return str(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(ask, range(len(asked)), timeout=30))
    finally:
        sys.setswitchinterval(interval)
    assert found == [str([i]) if bad else (kind, i) for i, (kind, bad) in enumerate(asked)]
    assert most_running <= at_once + more
    assert (calls._busy, calls._line) == (0, [])
