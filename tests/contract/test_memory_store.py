"""What session memory promises over every LangGraph store that people use: the same, whichever it is."""

from __future__ import annotations

import itertools
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite import SqliteStore

from lir_agents import Document, LateInteractionIndex, Principal, ToolSignal, Turn
from lir_agents.config import MemorySettings
from lir_agents.memory.session import SessionMemory

ALICE = Principal("alice")
BOB = Principal("bob")


def everything(names: Sequence[str]) -> set[str]:
    return set(names)


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def sqlite_store(path: Path) -> SqliteStore:
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=OFF")
    store = SqliteStore(connection)
    store.setup()
    return store


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request: pytest.FixtureRequest, quick_path: Path) -> Iterator[BaseStore]:
    if request.param == "memory":
        yield InMemoryStore()
    elif request.param == "sqlite":
        opened = sqlite_store(quick_path / "memory.sqlite")
        with closing(opened.conn):
            yield opened
    else:
        pytest.importorskip("langgraph.store.postgres", reason="langgraph-checkpoint-postgres is not installed")
        yield request.getfixturevalue("postgres_store")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def remembering(store: BaseStore, clock: Clock) -> Callable[..., SessionMemory]:
    def make(**settings: object) -> SessionMemory:
        patient = {"timeout_s": 20.0, **settings}  # how long a busy machine takes is not the question here
        return SessionMemory(store, index_id="i", settings=MemorySettings(**patient), clock=clock)

    return make


@pytest.fixture
def memory(remembering: Callable[..., SessionMemory]) -> SessionMemory:
    return remembering()


def said(memory: SessionMemory, principal: Principal | None = ALICE, thread: str = "t") -> list[str]:
    return [entry.text for entry in memory.recall(principal, thread, everything)]


# ---------------------------------------------------------------- what is kept


def test_what_was_said_comes_back_as_it_was_said(memory):
    signal = ToolSignal("runtime", {"version": "v22", "nested": {"a": [1, 2.5, None, True]}}, 0.75)
    turns = [Turn("user", "how?", ["d#1.0", "e#2.1"]), Turn("assistant", "so", ["d#1.0"])]
    memory.remember(ALICE, "t", [*turns, signal, ToolSignal("broken", "", 0.0, error="no answer")])
    user, answer, tool, broken = memory.recall(ALICE, "t", everything)
    assert [user.turn, answer.turn] == turns
    assert tool.signal == signal
    assert (broken.signal.error, broken.signal.confidence) == ("no answer", 0.0)


def test_order_is_kept_while_the_clock_stands_still(memory):
    for number in range(12):
        memory.remember(ALICE, "t", [Turn("user", f"{number}a"), Turn("assistant", f"{number}b")])
    assert said(memory) == [f"{number}{half}" for number in range(2, 12) for half in "ab"]


@pytest.mark.parametrize("turns", [0, 1, 5, 20])
def test_only_the_newest_are_recalled_and_the_rest_goes(remembering, store, turns):
    memory = remembering(max_turns=turns)
    memory.remember(ALICE, "t", [Turn("user", f"old {number}") for number in range(500)])
    for number in range(60):
        memory.remember(ALICE, "t", [Turn("user", str(number))])
    assert said(memory) == [str(number) for number in range(60)][60 - turns :]
    assert len(store.search(("lir",), limit=1000)) <= turns + 8


def test_long_texts_are_cut_and_fields_that_do_not_fit_become_text(remembering):
    memory = remembering(max_chars=50)
    memory.remember(ALICE, "t", [Turn("user", "x" * 1_000_000), ToolSignal("t", {"big": "y" * 1_000_000})])
    turn, tool = memory.recall(ALICE, "t", everything)
    assert turn.text == "x" * 50
    assert tool.output is None
    assert len(tool.text) == 50


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\x00\x01\x1b[2J",
        "\\u0000 \\\x00\x00",
        "\ud800 alone",
        "'; DROP TABLE store; --",
        "%_*?[a]\\",
        "😀" * 50,
        "\u202egnp",
    ],
)
def test_any_text_is_data(memory, text):
    memory.remember(ALICE, "t", [Turn("user", text, ["d#1.0"]), ToolSignal(text or "t", {text: [text]})])
    turn, tool = memory.recall(ALICE, "t", everything)
    clean = text.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")
    assert turn.text == clean
    assert tool.output == {clean: [clean]}


@pytest.mark.parametrize(
    "output",
    [{"a": float("nan")}, {"a": 2**80}, {("a", 1): 1}, {"a": object()}, {1: {2: {3}}}, {"a": b"\xff"}],
    ids=["nan", "huge", "tuple key", "object", "set", "bytes"],
)
def test_an_output_that_is_no_json_is_remembered_as_far_as_it_goes(memory, output):
    memory.remember(ALICE, "t", [ToolSignal("t", output), Turn("user", "after")])
    assert said(memory)[-1] == "after"


# ---------------------------------------------------------------- whose it is

NAMES = (
    "a",
    "a.b",
    "a/b",
    "a\\b",
    "ä",
    "a\u0308",
    "a b",
    "",
    ".",
    "..",
    "%",
    "*",
    "a'b",
    "a\x00b",
    "\ud800",
    "lir",
)


def test_no_two_principals_tenants_or_threads_share_anything(remembering):
    memory = remembering(max_turns=3)
    owners = [Principal(name, tenant=tenant) for tenant in NAMES for name in NAMES if name]
    owners += [None]  # nobody, where an index is open to all
    places = list(itertools.product(owners[::3], [name for name in NAMES if name][::2]))
    places += [(owner, "t") for owner in owners]
    for number, (owner, thread) in enumerate(places):
        memory.remember(owner, thread, [Turn("user", str(number))])
    for number, (owner, thread) in enumerate(places):
        assert said(memory, owner, thread) == [str(number)]


def test_groups_and_attributes_are_not_who_somebody_is(memory):
    memory.remember(Principal("alice", groups=["x"]), "t", [Turn("user", "one")])
    assert said(memory, Principal("alice", groups=["y"], attributes={"z": 1})) == ["one"]


def test_two_indexes_in_one_store_do_not_meet(store, clock, memory):
    other = SessionMemory(store, index_id="j", settings=MemorySettings(), clock=clock)
    memory.remember(ALICE, "t", [Turn("user", "mine")])
    assert said(other) == []
    assert other.forget(ALICE) == 0
    assert other.unlearn(["d"]) == 0
    assert said(memory) == ["mine"]


def test_no_name_is_readable_in_the_store(memory, store):
    memory.remember(Principal("alice.secret", tenant="acme"), "thread/7", [Turn("user", "hello")])
    (item,) = store.search(("lir",))
    assert all(name not in repr((item.namespace, item.key)) for name in ("alice", "secret", "acme", "thread"))


# ---------------------------------------------------------------- how it goes


def test_it_expires_by_the_clock(remembering, store, clock):
    memory = remembering(ttl_s=100)
    memory.remember(ALICE, "t", [Turn("user", "early")])
    clock.now += 60
    memory.remember(ALICE, "t", [Turn("user", "late")])
    clock.now += 39
    assert said(memory) == ["early", "late"]
    clock.now += 1
    assert said(memory) == ["late"]
    clock.now += 60
    assert said(memory) == []
    memory.remember(ALICE, "t", [Turn("user", "new")])
    assert len(store.search(("lir",))) == 1


def test_forgetting_a_thread_leaves_the_others(memory):
    for owner, thread in itertools.product((ALICE, BOB), ("t", "t2")):
        memory.remember(owner, thread, [Turn("user", f"{owner.id} {thread}")])
    assert memory.forget(ALICE, "t") == 1
    assert memory.forget(ALICE, "t") == 0
    assert said(memory) == []
    assert said(memory, ALICE, "t2") == ["alice t2"]
    assert said(memory, BOB) == ["bob t"]


def test_forgetting_a_principal_leaves_the_others(remembering):
    memory = remembering(max_turns=1000)
    for number in range(250):
        memory.remember(ALICE, f"t{number % 7}", [Turn("user", "x")])
    memory.remember(BOB, "t0", [Turn("user", "kept")])
    memory.remember(Principal("alice", tenant="other"), "t0", [Turn("user", "kept")])
    assert memory.forget(ALICE) == 250
    assert all(said(memory, ALICE, f"t{number}") == [] for number in range(7))
    assert said(memory, BOB, "t0") == said(memory, Principal("alice", tenant="other"), "t0") == ["kept"]


def test_what_was_learned_from_erased_documents_goes_for_everybody(remembering):
    memory = remembering(max_turns=100)
    owners = [Principal(f"p{number}") for number in range(30)]
    for owner in owners:
        memory.remember(
            owner,
            "t",
            [
                Turn("user", "what?", ["gone#1.0", "kept#1.0"]),
                Turn("assistant", "from gone", ["gone#1.0"]),
                Turn("assistant", "from kept", ["kept#1.0"]),
                Turn("assistant", "from nothing"),
            ],
        )
    assert memory.unlearn(["gone", "gone#1.0"]) == 60
    assert memory.unlearn(["gone", "gone#1.0"]) == 0
    for owner in owners:
        entries = memory.recall(owner, "t", everything)
        assert [entry.text for entry in entries] == ["what?", "from kept", "from nothing"]
        assert entries[0].passage_ids == ("kept#1.0",)


def test_what_may_not_be_read_now_is_not_recalled(memory):
    memory.remember(
        ALICE,
        "t",
        [
            Turn("user", "what?", ["a", "b"]),
            Turn("assistant", "from both", ["a", "b"]),
            Turn("assistant", "from a", ["a"]),
            Turn("assistant", "from nothing"),
        ],
    )
    entries = memory.recall(ALICE, "t", lambda names: {"a"} & set(names))
    assert [(entry.text, entry.passage_ids) for entry in entries] == [
        ("what?", ("a",)),
        ("from a", ("a",)),
        ("from nothing", ()),
    ]
    assert len(memory.recall(ALICE, "t", everything)) == 4


@pytest.mark.parametrize("shown", [None, 0, 1, 2, 9])
def test_what_older_turns_were_shown_is_asked_for_no_more_than_wanted(memory, shown):
    asked: list[str] = []

    def readable(names):
        asked.extend(names)
        return set(names)

    turns = [Turn("user", "one", ["a"]), Turn("assistant", "of x", ["x"]), Turn("user", "two", ["b"])]
    memory.remember(ALICE, "t", [*turns, Turn("user", "three", ["c"])])
    entries = memory.recall(ALICE, "t", readable, shown=shown)
    kept = ["a", "b", "c"][-min(3, 3 if shown is None else shown) :] if shown != 0 else []
    assert [entry.text for entry in entries] == ["one", "of x", "two", "three"]
    assert sorted(asked) == sorted([*kept, "x"])  # an answer's own sources are asked for always
    assert [name for entry in entries for name in entry.passage_ids if name != "x"] == kept


def test_an_index_remembers_in_it_and_after_it_was_closed(store, quick_path, encoder):
    def asked(query: str) -> list[dict[str, float]]:
        with LateInteractionIndex.open(quick_path / "i.lir", store=store, encoder=encoder) as index:
            index.add([Document("Bicycles stand behind the house.", id="b"), Document("Soup at noon.", id="s")])
            return [dict(hit.breakdown) for hit in index.search(query, thread_id="t")]

    assert all("context" not in parts for parts in asked("Where do bicycles stand?"))
    assert all("context" in parts for parts in asked("And at noon?"))


# ---------------------------------------------------------------- many at once


def at_once(*work: Callable[[], None]) -> None:
    failures: list[BaseException] = []

    def guarded(one: Callable[[], None]) -> None:
        try:
            one()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=[one]) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def test_concurrent_writers_to_one_thread_lose_nothing(remembering):
    memory = remembering(max_turns=200, timeout_s=20)

    def writer(name: str) -> Callable[[], None]:
        def write() -> None:
            for number in range(20):
                memory.remember(ALICE, "t", [Turn("user", f"{name} {number}")])
                memory.recall(ALICE, "t", everything)

        return write

    at_once(*(writer(name) for name in "abcdef"))
    assert sorted(said(memory)) == sorted(f"{name} {number}" for name in "abcdef" for number in range(20))


def test_two_stores_over_one_file_lose_nothing(quick_path):
    stores = [sqlite_store(quick_path / "memory.sqlite") for _ in range(2)]
    settings = MemorySettings(max_turns=100, timeout_s=20)
    memories = [SessionMemory(store, index_id="i", settings=settings) for store in stores]

    def writer(number: int) -> Callable[[], None]:
        def write() -> None:
            for turn in range(15):
                memories[number % 2].remember(ALICE, "t", [Turn("user", f"{number} {turn}")])

        return write

    at_once(*(writer(number) for number in range(4)))
    wanted = sorted(f"{number} {turn}" for number in range(4) for turn in range(15))
    for memory, store in zip(memories, stores, strict=True):
        assert sorted(said(memory)) == wanted
        store.conn.close()


def test_the_file_keeps_principals_apart_after_a_restart(quick_path):
    for turn in range(3):
        with closing(sqlite_store(quick_path / "memory.sqlite").conn) as connection:
            memory = SessionMemory(SqliteStore(connection), index_id="i", settings=MemorySettings())
            assert said(memory, ALICE) == [f"alice {number}" for number in range(turn)]
            assert said(memory, BOB) == [f"bob {number}" for number in range(turn)]
            assert said(memory, Principal("alice", tenant="bob")) == []
            for owner in (ALICE, BOB):
                memory.remember(owner, "t", [Turn("user", f"{owner.id} {turn}")])
