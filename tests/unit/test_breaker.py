"""Circuit breakers and places for searches, with a clock that stands still unless it is moved."""

from __future__ import annotations

import pytest

from lir_agents.errors import Overloaded
from lir_agents.graph.admission import Admission
from lir_agents.graph.breaker import Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(after=3, open_s=2.0, patience_s=0.5, clock=clock)


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        assert breaker.refusal() is None
        breaker.failed("timed_out")


def test_it_opens_after_so_many_failures_in_a_row(breaker):
    fail(breaker, 2)
    breaker.answered(0.01, late=False)
    fail(breaker, 3)
    how, reason = breaker.refusal()
    assert how == "timed_out"
    assert reason == "gave no answer in time 3 times in a row; asked again in 2.0 s"


def test_one_tries_after_a_while_and_closes_it(breaker, clock):
    fail(breaker, 3)
    clock.now += 1.9
    assert breaker.refusal() is not None
    clock.now += 0.2
    assert breaker.refusal() is None  # this one tries
    assert breaker.refusal() is not None  # and nobody else
    breaker.answered(0.02, late=False)
    assert breaker.refusal() is None
    assert breaker.refusal() is None


def test_one_that_fails_again_keeps_it_open(breaker, clock):
    fail(breaker, 3)
    clock.now += 2.1
    assert breaker.refusal() is None
    breaker.failed("failed")
    assert breaker.refusal() == ("failed", "failed 4 times in a row; asked again in 2.0 s")


def test_one_that_never_comes_back_does_not_keep_it_open_for_ever(breaker, clock):
    fail(breaker, 3)
    clock.now += 2.1
    assert breaker.refusal() is None
    clock.now += 2.1
    assert breaker.refusal() is None


def test_a_late_answer_shows_a_room_that_is_well_only_when_it_is_not_very_late(breaker):
    fail(breaker, 3)
    breaker.answered(9.0, late=True)
    assert breaker.refusal() is not None
    breaker.answered(0.1, late=True)
    assert breaker.refusal() is None


def test_whoever_waits_for_no_longer_than_an_answer_usually_takes_closes_it_to_nobody(breaker):
    breaker.answered(0.02, late=False)
    for _ in range(9):
        breaker.failed("timed_out", 0.01)
    assert breaker.refusal() is None
    for _ in range(3):
        breaker.failed("timed_out", 0.1)
    assert breaker.refusal() is not None


def test_a_first_answer_that_loads_a_model_is_soon_forgotten(breaker):
    breaker.answered(30.0, late=False)
    for _ in range(8):
        breaker.answered(0.005, late=False)
    for _ in range(3):
        breaker.failed("timed_out", 0.1)
    assert breaker.refusal() is not None


def begin(admission: Admission, begun: list[str], name: str, patience_s: float | None = None):
    return admission.enter(lambda: begun.append(name), patience_s=patience_s)


def test_places_are_given_in_the_order_of_asking():
    admission, begun = Admission(2, 3), []
    places = [begin(admission, begun, name) for name in "abcde"]
    assert begun == ["a", "b"]
    with pytest.raises(Overloaded) as refusal:
        begin(admission, begun, "f")
    assert refusal.value.retry_after_s > 0
    admission.leave(places[1], 0.01)
    assert begun == ["a", "b", "c"]
    admission.leave(places[3])  # d no longer waits
    admission.leave(places[0])
    assert begun == ["a", "b", "c", "e"]
    assert not admission.claim()
    for place in (places[2], places[4]):
        admission.leave(place)
    assert admission.claim()
    assert admission.claim()
    assert not admission.claim()


def test_whoever_would_wait_too_long_is_refused_at_once():
    admission, begun = Admission(1, 100), []
    first = begin(admission, begun, "a")
    admission.leave(first, 0.1)
    begin(admission, begun, "b")
    begin(admission, begun, "c", patience_s=0.11)
    with pytest.raises(Overloaded) as refusal:
        begin(admission, begun, "d", patience_s=0.15)
    assert refusal.value.retry_after_s == pytest.approx(0.2)
    begin(admission, begun, "e", patience_s=None)


def test_nobody_is_let_in_past_the_line():
    admission, begun = Admission(1, 5), []
    place = begin(admission, begun, "a")
    begin(admission, begun, "b")
    admission.leave(place)
    assert begun == ["a", "b"]
    assert not admission.claim()
