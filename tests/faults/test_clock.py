"""A clock that jumps back and forth: what is ordered stays ordered, and deadlines are kept all the same."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from langchain_core.tools import tool

from lir_agents import Document, LateInteractionIndex, Turn
from lir_agents.config import Settings
from lir_agents.graph import RetrievalContext, build_graph
from tests.hashed_encoder import HashedEncoder

HOUR_NS = 3_600 * 10**9


class Clock:
    """The wall clock of this process, moved by hand; the monotonic clocks go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.behind_ns = 0
        self._really = time.time_ns
        monkeypatch.setattr(time, "time_ns", self.now_ns)
        monkeypatch.setattr(time, "time", lambda: self.now_ns() / 1e9)

    def now_ns(self) -> int:
        return self._really() - self.behind_ns

    def back(self, hours: float) -> None:
        self.behind_ns += int(hours * HOUR_NS)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def index(clock: Clock, quick_path: Path) -> Iterator[LateInteractionIndex]:
    settings = Settings(memory={"max_turns": 3, "ttl_s": 7200.0}, search={"tool_timeout_s": 0.2})
    with LateInteractionIndex.open(quick_path / "i.lir", encoder=HashedEncoder(), settings=settings) as opened:
        opened.add([Document(id=f"d{n}", text=f"Rule {n} about leave.") for n in range(8)])
        opened.rooms.memory._clock = time.time  # the default was bound before the clock was taken over
        opened.audit._writer._clock_ns = time.time_ns
        yield opened


def test_the_log_and_the_epochs_never_go_backwards(index, clock):
    for step in range(5):
        clock.back(1 if step % 2 else -0.5)
        index.add([Document(id=f"n{step}", text=f"News of step {step}.")])
        index.search("news")
    events = index.audit.events()
    assert all(earlier.time <= later.time for earlier, later in pairwise(events))
    assert any(earlier.clock > later.clock for earlier, later in pairwise(events))
    assert index.audit.verify().ok
    assert index.verify() == []
    epochs = [change.epoch for change in index.changes(0)]
    assert epochs == sorted(epochs)
    assert len(index.search("news", k=50)) == 13
    assert [len(index.search("news", k=50, as_of=epoch)) for epoch in range(1, 7)] == [8, 9, 10, 11, 12, 13]


def test_a_conversation_keeps_its_order_and_its_newest_turns(index, clock):
    for n in range(6):
        index.memory.remember(None, "t", [Turn("user", f"turn {n}")])
        clock.back(0.25)
    recalled = index.memory.recall(None, "t", set)
    assert [entry.text for entry in recalled] == ["turn 3", "turn 4", "turn 5"]


def test_a_conversation_keeps_its_order_over_a_restart(clock, quick_path):
    path = quick_path / "i.lir"
    for n in range(4):
        with LateInteractionIndex.open(path, encoder=HashedEncoder()) as index:
            index.rooms.memory._clock = time.time
            index.add([Document(id="d", text="Rule about leave.")])
            index.search(f"turn {n}", thread_id="t")
            recalled = index.memory.recall(None, "t", set)
            assert [entry.text for entry in recalled] == [f"turn {m}" for m in range(n + 1)]
        clock.back(0.25)


def test_what_was_said_expires_by_the_clock_and_later_by_what_it_went_back(index, clock):
    index.memory.remember(None, "t", [Turn("user", "first")])
    clock.back(1)
    clock.back(-2.9)  # 1.9 hours after it was said
    assert [entry.text for entry in index.memory.recall(None, "t", set)] == ["first"]
    clock.back(-0.2)
    assert index.memory.recall(None, "t", set) == []


@pytest.mark.parametrize("hours", [-24, 24], ids=["forward", "backward"])
def test_a_deadline_is_kept_whatever_the_clock_does(index, clock, hours):
    @tool
    def slow(word: str) -> str:
        """Takes ten seconds, and turns the clock meanwhile."""
        clock.back(hours)
        time.sleep(10)
        return word

    graph = build_graph(index, tools=[slow]).compile()
    started = time.monotonic()
    calls = [{"name": "slow", "args": {"word": "x"}, "id": "1"}]
    result = graph.invoke({"query": "leave", "tool_calls": calls}, context=RetrievalContext())["result"]
    assert time.monotonic() - started < 3
    assert len(result) == 8
    assert result.coverage.stages["tools"].status != "ok"
    assert 0 <= result.timings_ms["total"] < 3000
