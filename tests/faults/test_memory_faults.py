"""A memory that is down, hangs, lies or is full of garbage costs a search its memory, and never the search."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langgraph.store.base import BaseStore, Op, Result
from langgraph.store.memory import InMemoryStore

from lir_agents import Document, LateInteractionIndex, Principal, ToolBinding, ToolSignal, Turn
from lir_agents.config import MemorySettings, Settings
from lir_agents.errors import StoreError
from lir_agents.graph.quote import quote
from lir_agents.memory.records import Entry
from lir_agents.types import SearchResult
from tests.hashed_encoder import HashedEncoder

STAFF = Principal("sam", groups=["group:staff"])
FAST = Settings(memory=MemorySettings(timeout_s=0.2))


class FaultyStore(InMemoryStore):
    """A real store that does something else first, when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.trouble: Callable[[list[Op]], None] | None = None

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        asked = list(ops)
        if self.trouble is not None:
            self.trouble(asked)
        return super().batch(asked)


def raising(error: BaseException, *, writes: bool | None = None) -> Callable[[list[Op]], None]:
    def trouble(ops: list[Op]) -> None:
        if writes is None or writes == any(type(op).__name__ == "PutOp" for op in ops):
            raise error

    return trouble


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore()


@pytest.fixture
def index(quick_path: Path, encoder: HashedEncoder, store: BaseStore) -> Iterator[LateInteractionIndex]:
    with LateInteractionIndex.open(
        quick_path / "i.lir",
        access="acl",
        encoder=encoder,
        settings=FAST,
        store=store,
        bindings=[ToolBinding("t", "n", "n")],
    ) as opened:
        opened.add(
            Document(id=f"d{n}", text=f"Rule {n} about leave.", acl=["group:staff"], metadata={"n": n})
            for n in range(12)
        )
        yield opened


def told(result: SearchResult) -> list[Any]:
    return [(hit.passage_id, hit.score, hit.breakdown) for hit in result]


ERRORS = [OSError(28, "No space left on device"), sqlite3.OperationalError("locked"), RuntimeError("x"), KeyError()]


@pytest.mark.parametrize("error", [*ERRORS, TimeoutError("slow"), AssertionError()], ids=lambda e: type(e).__name__)
def test_a_store_that_is_down_costs_the_memory_and_is_named(index, store, error):
    index.search("leave of rule 3", principal=STAFF, thread_id="t")
    plain = told(index.search("and rule 5?", principal=STAFF))
    store.trouble = raising(error)
    result = index.search("and rule 5?", principal=STAFF, thread_id="t")
    assert told(result) == plain
    memory = result.coverage.stages["memory"]
    assert memory.status == "failed"
    assert "memory" in memory.reason
    assert not result.coverage.full
    assert index.audit.get(result.event_id).kind == "retrieval"
    store.trouble = None
    healed = index.search("and rule 5?", principal=STAFF, thread_id="t")
    assert healed.coverage.stages["memory"].status == "ok"
    assert told(healed) != plain


def test_a_store_that_cannot_write_still_recalls_and_says_what_is_lost(index, store):
    index.memory.remember(STAFF, "t", [Turn("user", "what is rule 3?"), Turn("assistant", "rule 3 it is")])
    wanted = told(index.search("and its leave?", principal=STAFF, thread_id="t", remember=False))
    store.trouble = raising(OSError(28, "No space left on device"), writes=True)
    result = index.search("and its leave?", principal=STAFF, thread_id="t")
    assert told(result) == wanted
    assert result.coverage.stages["memory"].status == "failed"
    assert "not remembered" in result.coverage.stages["memory"].reason


def test_what_a_store_says_of_an_error_goes_nowhere(index, store, caplog):
    """A database quotes what it could not take: the conversation, which nobody could erase from the log again."""
    store.trouble = raising(ValueError('no such escape in {"text": "my salary is 123456"}'))
    result = index.search("leave", principal=STAFF, thread_id="t")
    assert "ValueError" in result.coverage.stages["memory"].reason
    event = index.audit.get(result.event_id)
    for shown in (result.coverage, quote(result), event, caplog.text):
        assert "salary" not in repr(shown)


def test_history_told_by_the_caller_counts_while_the_store_is_down(index, store):
    history = [Turn("user", "what is rule 3?"), Turn("assistant", "rule 3 is about leave")]
    wanted = told(index.search("and that?", principal=STAFF, history=history))
    store.trouble = raising(RuntimeError("down"))
    assert told(index.search("and that?", principal=STAFF, history=history, thread_id="t")) == wanted


@pytest.mark.parametrize("writes", [False, True], ids=["recall", "remember"])
def test_a_store_that_hangs_is_given_up_on_and_left_behind(index, store, writes):
    wanted = told(index.search("leave of rule 4", principal=STAFF))
    let_go = threading.Event()

    def hang(ops: list[Op]) -> None:
        if writes == any(type(op).__name__ == "PutOp" for op in ops):
            let_go.wait(30)

    store.trouble = hang
    before = threading.active_count()
    try:
        for _ in range(3):
            started = time.monotonic()
            result = index.search("leave of rule 4", principal=STAFF, thread_id="t")
            # .2 s for the store's deadline, twice at most (recall, remember), and room for a busy machine.
            assert time.monotonic() - started < 3
            assert told(result) == wanted
            assert result.coverage.stages["memory"].status == "failed"
            assert "in time" in result.coverage.stages["memory"].reason
        hanging = [thread for thread in threading.enumerate() if thread.name == "lir-memory"]
        assert hanging
        assert all(thread.daemon for thread in hanging)
        assert threading.active_count() - before <= 8
    finally:
        store.trouble = None
        let_go.set()


def test_a_store_that_hangs_for_ever_costs_a_bounded_number_of_threads(index, store):
    let_go = threading.Event()
    store.trouble = lambda ops: (let_go.wait(30), None)[1]
    failures: list[str] = []

    def ask() -> None:
        try:
            index.memory.recall(STAFF, "t", set)
        except StoreError as error:
            failures.append(str(error))

    askers = [threading.Thread(target=ask) for _ in range(40)]
    before = sum(thread.name == "lir-memory" for thread in threading.enumerate())
    try:
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
        assert len(failures) == 40
        assert sum(thread.name == "lir-memory" for thread in threading.enumerate()) <= before + 16
    finally:
        let_go.set()


# ---------------------------------------------------------------- entries that memory did not write

GOOD = {"kind": "assistant", "text": "x", "passage_ids": [], "at": 1.0, "expires": 9e9}
GARBAGE: list[dict[str, Any]] = [
    {},
    {"hello": "world"},
    {**GOOD, "kind": "system"},
    {**GOOD, "kind": ["user"]},
    {**GOOD, "passage_ids": None},
    {**GOOD, "passage_ids": "d1#1.0"},
    {**GOOD, "passage_ids": 7},
    {**GOOD, "expires": "never"},
    {**GOOD, "expires": float("inf")},
    {**GOOD, "expires": float("nan")},
    {**GOOD, "at": 1e300},
    {**GOOD, "kind": "tool", "tool": "t", "output": "require everything", "confidence": 1},
    {**GOOD, "kind": "tool", "tool": "t", "output": {"n": 3}, "confidence": 1e9},
    {**GOOD, "kind": "tool", "tool": "t", "output": {"n": 3}, "confidence": float("nan")},
    {**GOOD, "kind": "tool", "tool": "t", "output": {"n": 3}, "confidence": "full"},
    {**GOOD, "kind": "tool", "tool": "t", "output": {"n": [10**2000]}, "confidence": 1},
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=repr)
def test_garbage_costs_one_search_its_memory_and_is_swept_out(index, store, garbage):
    index.search("leave of rule 3", principal=STAFF, thread_id="t")
    (item,) = store.search(("lir",))
    plain = told(index.search("and rule 5?", principal=STAFF))
    store.put(item.namespace, "00garbage", garbage)
    result = index.search("and rule 5?", principal=STAFF, thread_id="t")
    assert result.coverage.stages["memory"].status == "failed"
    assert told(result) == plain
    again = index.search("and rule 6?", principal=STAFF, thread_id="t")
    assert again.coverage.stages["memory"].status == "ok"
    assert [entry.text for entry in index.memory.recall(STAFF, "t", set)] == [
        "leave of rule 3",
        "and rule 5?",
        "and rule 6?",
    ]


def test_garbage_elsewhere_in_the_store_is_nobodys_business(index, store):
    for namespace in (("lir",), ("lir", "x"), ("other",)):
        store.put(namespace, "k", {"hello": "world"})
    index.search("leave", principal=STAFF, thread_id="t")
    assert index.search("leave", principal=STAFF, thread_id="t").coverage.full
    assert index.memory.unlearn(["no such document"]) == 0
    assert index.memory.forget(STAFF) == 2
    assert store.get(("lir",), "k") is not None


@pytest.mark.parametrize("value", GARBAGE, ids=repr)
def test_garbage_is_never_read_as_an_entry(value):
    with pytest.raises((KeyError, TypeError, ValueError, OverflowError)):
        Entry.from_value("k", value)


def nested(levels: int) -> dict[str, Any]:
    value: Any = 1
    for _ in range(levels):
        value = {"n": value}
    return value


def test_one_conversations_deep_answers_do_not_open_the_circuit_breaker_of_everybodys_memory(quick_path, encoder):
    with LateInteractionIndex.open(quick_path / "file.lir", encoder=encoder) as index:
        index.add([Document(id="d", text="Rules about leave.")])
        for levels in (65, 255, 300, 400, 500, 600, 5000):
            index.search("leave", thread_id="theirs", tool_signals=[ToolSignal("t", nested(levels))])
        result = index.search("leave", thread_id="mine")
    assert result.coverage.stages["memory"].status == "ok"


def test_what_a_caller_remembers_by_hand_cannot_break_a_search(index):
    odd = [
        Turn("user", ""),
        Turn("assistant", "\x00\ud800\u202e" * 50, ["d1#1.0", "d1", "no such", "d1#99999999999999999999.0", "#"]),
        Turn("tool", "x" * 300_000),
        ToolSignal("", {}),
        ToolSignal("t", {"n": [float("inf"), 2**90, "\ud800", None, {}], "document_ids": ["\ud800", 3, "d1"]}),
        ToolSignal("t", {"n": list(range(5000))}),
    ]
    for start in range(len(odd)):
        index.memory.remember(STAFF, f"t{start}", odd[start:])
        result = index.search("leave of rule 3", principal=STAFF, thread_id=f"t{start}")
        assert len(result) == 10
        assert result.coverage.stages["memory"].status == "ok"


# ---------------------------------------------------------------- the index's own file


def test_a_file_that_another_process_holds_costs_memory_alone_and_a_bounded_time(quick_path, encoder):
    """Memory's own file is asked on the thread of the search: SQLite gives up on a lock after `timeout_s`."""
    path = quick_path / "own.lir"
    with LateInteractionIndex.open(path, access="acl", encoder=encoder, settings=FAST) as index:
        index.add([Document(id="d", text="Rule 4 about leave.", acl=["group:staff"])])
        wanted = told(index.search("leave of rule 4", principal=STAFF))
        other = sqlite3.connect(path / "memory.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        before = {thread for thread in threading.enumerate() if thread.name == "lir-memory"}
        started = time.monotonic()
        result = index.search("leave of rule 4", principal=STAFF, thread_id="t")
        assert 0.2 <= time.monotonic() - started < 3
        assert told(result) == wanted
        assert result.coverage.stages["memory"].status == "failed"
        assert "SQLITE_BUSY" in result.coverage.stages["memory"].reason
        assert not {thread for thread in threading.enumerate() if thread.name == "lir-memory"} - before
        other.execute("ROLLBACK")
        other.close()
        assert (
            index.search("leave of rule 4", principal=STAFF, thread_id="t").coverage.stages["memory"].status == "ok"
        )
        assert index.memory.recall(STAFF, "t", set)


def test_searches_that_would_wait_for_each_others_turn_are_given_up_on_in_time(quick_path, encoder):
    settings = FAST.model_copy(update={"limits": FAST.limits.model_copy(update={"at_work": 16})})
    path = quick_path / "own.lir"
    with LateInteractionIndex.open(path, access="acl", encoder=encoder, settings=settings) as index:
        index.add([Document(id="d", text="Rule 4 about leave.", acl=["group:staff"])])
        index.search("leave of rule 4", principal=STAFF, thread_id="t")
        other = sqlite3.connect(path / "memory.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        waited: list[float] = []

        def ask(n: int) -> None:
            started = time.monotonic()
            index.search("leave of rule 4", principal=STAFF, thread_id=f"t{n}")
            waited.append(time.monotonic() - started)

        askers = [threading.Thread(target=ask, args=(n,)) for n in range(16)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
        other.execute("ROLLBACK")
        other.close()
        assert len(waited) == 16
        assert max(waited) < 2.2  # .2 s for recalling and for remembering each, not sixteen times that


@pytest.mark.parametrize("seconds", [1e-9, 0.2, 1e7])
def test_sqlite_waits_for_as_long_as_is_said(quick_path, encoder, seconds):
    """More milliseconds than it has numbers for, or less than one, would be none at all."""
    settings = Settings(memory=MemorySettings(timeout_s=seconds))
    with LateInteractionIndex.open(quick_path / "own.lir", encoder=encoder, settings=settings) as index:
        (waits_ms,) = index.memory._store.conn.execute("PRAGMA busy_timeout").fetchone()
        assert waits_ms == min(max(1, seconds * 1000), 2**31 - 1)
