"""More than the machine can do, callers that go away, calls that never return: bounded, refused, over soon."""

from __future__ import annotations

import asyncio
import contextvars
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableLambda

from lir_agents import Document, LateInteractionIndex, Principal, threads
from lir_agents.config import LimitSettings, SearchSettings, Settings
from lir_agents.deadline import SideCalls
from lir_agents.errors import BudgetExceeded, InputError, Overloaded
from lir_agents.graph import RetrievalContext, build_graph
from lir_agents.graph.limits import Limits
from lir_agents.types import SearchResult
from tests.faults.seam import Stall, troubled
from tests.hashed_encoder import HashedEncoder

ALICE = Principal("alice", groups=["group:staff"])
AT_WORK, WAITING, STUCK = 4, 8, 6


def opened(path: Path, **limits: Any) -> LateInteractionIndex:
    settings = Settings(limits=LimitSettings(**{"at_work": AT_WORK, "waiting": WAITING, "stuck": STUCK, **limits}))
    index = LateInteractionIndex.open(path / "i.lir", access="acl", encoder=HashedEncoder(), settings=settings)
    index.add(Document(id=f"d{n}", text=f"Rule {n} about leave.", acl=["group:staff"]) for n in range(40))
    return index


@pytest.fixture
def index(quick_path: Path) -> Iterator[LateInteractionIndex]:
    with opened(quick_path) as index:
        index.search("leave", principal=ALICE)
        yield index


class Ours:
    """Threads of searches that were begun since."""

    def __init__(self) -> None:
        self._before = set(threading.enumerate())

    def __len__(self) -> int:
        return sum(one.name == "lir-search" for one in set(threading.enumerate()) - self._before)


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def told(result: SearchResult) -> list[Any]:
    return [(hit.passage_id, hit.score, dict(hit.breakdown)) for hit in result]


# ---------------------------------------------------------------- what a budget costs where all is well


def test_without_a_budget_a_search_stays_on_its_callers_thread_and_with_one_it_is_one_hand_over(index):
    seen: list[int] = []
    ours = Ours()

    def watched(call: Callable[[], Any]) -> Any:
        seen.append(threading.get_ident())
        return call()

    for room in ("encoder", "lexical", "vectors", "tokens", "catalog", "policy", "audit"):
        with troubled(index, room, watched):
            index.search("leave", principal=ALICE)
            assert set(seen) == {threading.get_ident()}
            seen.clear()
            index.search("leave", principal=ALICE, budget_ms=10_000)
            assert len(set(seen)) == 1
            assert set(seen) != {threading.get_ident()}
            seen.clear()
    assert len(ours) == 1  # one thread, used again and again


async def test_a_budget_changes_nothing_of_the_answer(index):
    graph = build_graph(index).compile()
    for query in ("leave", "rule 7", "what about it?"):
        plain = told(index.search(query, principal=ALICE))
        assert told(index.search(query, principal=ALICE, budget_ms=10_000)) == plain
        assert told(await index.asearch(query, principal=ALICE, budget_ms=10_000)) == plain
        assert told(await index.asearch(query, principal=ALICE)) == plain
        context = RetrievalContext(ALICE, None, 10_000)
        assert told(graph.invoke({"query": query}, context=context)["result"]) == plain


@pytest.mark.parametrize(
    "budget_ms", [0, -1, True, "fast", float("nan"), float("inf"), pytest.param(10**400, id="huge")]
)
def test_a_budget_is_a_number_above_nothing(index, budget_ms):
    with pytest.raises(InputError, match="budget_ms"):
        index.search("leave", principal=ALICE, budget_ms=budget_ms)


@pytest.mark.parametrize(("processors", "at_work"), [(1, 2), (2, 2), (7, 7)])
def test_as_many_searches_work_as_this_process_may_use_processors(monkeypatch, tmp_path, processors, at_work):
    monkeypatch.setattr(threads, "_CGROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    admission = Limits.of(LimitSettings()).admission
    assert sum(admission.claim() for _ in range(100)) == at_work


@pytest.mark.parametrize("budget_ms", [1e16, 1e300])
def test_a_budget_may_be_longer_than_any_clock_waits(index, budget_ms):
    size = index.rooms.audit.size
    assert index.search("leave", principal=ALICE, budget_ms=budget_ms).coverage.full
    assert index.rooms.audit.size == size + 1


def test_a_budget_that_is_far_too_short_is_a_refusal_or_an_answer_and_harms_nobody(index):
    for _ in range(50):
        try:
            result = index.search("leave", principal=ALICE, budget_ms=0.05)
        except BudgetExceeded:
            continue
        assert not result.coverage.full
    time.sleep(0.3)
    assert index.search("leave", principal=ALICE, budget_ms=10_000).coverage.full


def test_the_settings_name_the_budget_where_the_caller_does_not(quick_path):
    with opened(quick_path) as index:
        pass
    settings = Settings(search=SearchSettings(budget_ms=300))
    with LateInteractionIndex.open(
        quick_path / "i.lir", encoder=HashedEncoder(), settings=settings, access="acl"
    ) as index:
        stall = Stall(10.0)
        with troubled(index, "encoder", stall):
            result = index.search("leave", principal=ALICE)
        stall.let_go.set()
        assert result.coverage.stages["first_stage"].status == "timed_out"


@pytest.mark.parametrize("named", ["vectors", "first_stage"])
def test_a_stage_has_a_time_of_its_own_with_and_without_a_budget(quick_path, named):
    with opened(quick_path, stage_budgets_ms={named: 150}) as index:
        for budget_ms in (None, 20_000):
            stall = Stall(10.0)
            began = time.monotonic()
            with troubled(index, "vectors", stall):
                result = index.search("leave", principal=ALICE, budget_ms=budget_ms)
            assert time.monotonic() - began < 3.0
            stall.let_go.set()
            assert "vectors: no answer within" in result.coverage.caveat


def test_little_time_takes_fewer_candidates_and_says_so(index):
    index.rooms.limits.admission._usual_s = 5.0
    result = index.search("leave", principal=ALICE, k=3, budget_ms=5_000)
    assert len(result) == 3
    assert "candidates: 25 of each list instead of 100" in result.coverage.caveat
    assert index.audit.get(result.event_id).payload["candidates"] < 40


# ---------------------------------------------------------------- callers that go away


async def test_a_task_that_is_cancelled_frees_its_place_and_records_nothing(index):
    stall = Stall(10.0)
    with troubled(index, "vectors", stall):
        tasks = [
            asyncio.create_task(index.asearch("leave", principal=ALICE, thread_id="x")) for _ in range(AT_WORK)
        ]
        await asyncio.to_thread(wait_until, lambda: stall.calls == AT_WORK)
        before = index.audit.size
        for task in tasks:
            task.cancel()
        assert all(
            isinstance(one, asyncio.CancelledError) for one in await asyncio.gather(*tasks, return_exceptions=True)
        )
    assert (await asyncio.wait_for(index.asearch("leave", principal=ALICE), 5)).coverage.full
    stall.let_go.set()
    await asyncio.sleep(0.3)
    assert index.audit.size == before + 1
    assert index.memory.recall(ALICE, "x", set) == []
    assert index.rooms.limits.admission._working == 0


async def test_one_that_is_cancelled_in_line_leaves_it(index):
    stall = Stall(10.0)
    with troubled(index, "vectors", stall):
        tasks = [asyncio.create_task(index.asearch("leave", principal=ALICE)) for _ in range(AT_WORK + WAITING)]
        await asyncio.to_thread(wait_until, lambda: stall.calls == AT_WORK)
        with pytest.raises(Overloaded) as refusal:
            await index.asearch("leave", principal=ALICE)
        assert refusal.value.retry_after_s > 0
        with pytest.raises(Overloaded):
            index.search("leave", principal=ALICE)
        for task in tasks[AT_WORK:]:
            task.cancel()
        await asyncio.sleep(0)
        stall.let_go.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(one, SearchResult) for one in results[:AT_WORK])
    assert all(isinstance(one, asyncio.CancelledError) for one in results[AT_WORK:])
    assert index.rooms.limits.admission._working == 0
    assert not index.rooms.limits.admission._line


async def test_who_waited_in_line_works_in_a_context_of_its_own(index):
    """What a program keeps in context variables (who is logged in, which trace) is never another caller's."""
    whose: contextvars.ContextVar[str] = contextvars.ContextVar("whose")
    seen: dict[str, str] = {}

    async def ask(name: str) -> None:
        whose.set(name)
        await index.asearch(f"leave {name}", principal=ALICE)

    def watched(queries: Any) -> Any:
        seen[queries[0].text] = whose.get()
        time.sleep(0.02)
        return encode(queries)

    encode = index.rooms.encoder.encode_queries
    index.rooms.encoder.encode_queries = watched
    names = [str(number) for number in range(AT_WORK + WAITING)]
    await asyncio.gather(*(ask(name) for name in names))
    assert seen == {f"leave {name}": name for name in names}


def test_calls_that_never_return_cost_a_bounded_number_of_threads(index):
    stall, ours = Stall(30.0), Ours()
    refused = 0
    with troubled(index, "catalog", stall):
        for _ in range(AT_WORK + STUCK + 5):
            with pytest.raises((BudgetExceeded, Overloaded)) as refusal:
                index.search("leave", principal=ALICE, budget_ms=50)
            refused += isinstance(refusal.value, Overloaded)
        assert refused == 5
        assert len(ours) == AT_WORK + STUCK
    stall.let_go.set()
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            assert index.search("leave", principal=ALICE, budget_ms=10_000).coverage.full
            break
        except Overloaded:
            time.sleep(0.05)
    assert index.rooms.limits.admission._working == 0


@pytest.mark.parametrize("budget_ms", [None, 10_000])
def test_a_search_within_a_search_needs_no_place_of_its_own(quick_path, budget_ms):
    found: list[SearchResult] = []

    class Nested(BaseCallbackHandler):
        def on_chain_start(self, serialized: Any, inputs: Any, *, name: str = "", **more: Any) -> None:
            if name == "rerank" and not found:
                found.append(None)
                found[0] = index.search("leave", principal=ALICE, budget_ms=budget_ms)

    def outer(query: str) -> SearchResult:
        return index.search(query, principal=ALICE, budget_ms=budget_ms)

    with opened(quick_path, at_work=1) as index:
        done = SideCalls("asking", at_most=1).start(
            lambda: RunnableLambda(outer).invoke("leave", {"callbacks": [Nested()]}), timeout_s=1
        )
        assert done.result(timeout=20).coverage.full
        assert found[0].coverage.full
        assert index.rooms.limits.admission._working == 0


@pytest.mark.parametrize("budget_ms", [None, 10_000])
def test_what_a_search_began_and_left_behind_needs_a_place_of_its_own_after_it(quick_path, budget_ms):
    kept: list[contextvars.Context] = []

    class Leaves(BaseCallbackHandler):
        def on_chain_start(self, serialized: Any, inputs: Any, *, name: str = "", **more: Any) -> None:
            if name == "rerank":
                kept.append(contextvars.copy_context())

    with opened(quick_path, at_work=1, waiting=0) as index:
        graph = RunnableLambda(lambda query: index.search(query, principal=ALICE, budget_ms=budget_ms))
        graph.invoke("leave", {"callbacks": [Leaves()]})
        assert index.rooms.limits.admission.claim()
        with pytest.raises(Overloaded):
            kept[0].run(index.search, "leave", principal=ALICE, budget_ms=budget_ms)


def test_a_system_without_threads_is_a_refusal_and_costs_no_place(index, monkeypatch):
    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        for _ in range(AT_WORK + STUCK + 1):
            with pytest.raises(Overloaded):
                index.search("leave", principal=ALICE, budget_ms=1000)
    assert index.search("leave", principal=ALICE, budget_ms=10_000).coverage.full
    assert (index.rooms.limits.threads.busy, index.rooms.limits.admission._working) == (0, 0)


_STUCK = """
import sys, time
from lir_agents import LateInteractionIndex, Principal
from tests.faults.seam import Stall, troubled
from tests.hashed_encoder import HashedEncoder

index = LateInteractionIndex.open(sys.argv[1], encoder=HashedEncoder())
with troubled(index, "encoder", Stall(120.0)):
    result = index.search("leave", principal=Principal("alice", groups=["group:staff"]), budget_ms=500)
print(result.coverage.caveat)
"""


def test_a_call_that_never_returns_does_not_keep_the_process_alive(index):
    path = index.path
    index.close()
    done = subprocess.run(
        [sys.executable, "-c", _STUCK, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert "encoder: no answer" in done.stdout


_CLOSED = """
import sys
from contextlib import suppress
from lir_agents import LateInteractionIndex, Principal
from lir_agents.errors import BudgetExceeded
from tests.faults.seam import Stall, troubled
from tests.hashed_encoder import HashedEncoder

alice = Principal("alice", groups=["group:staff"])
for number in range(30):
    index = LateInteractionIndex.open(sys.argv[1], encoder=HashedEncoder())
    for room in ("memory", "tokens"):
        stall = Stall(10.0)
        with troubled(index, room, stall):
            for _ in range(3):
                with suppress(BudgetExceeded):
                    index.search("leave", principal=alice, budget_ms=40, thread_id="t")
        stall.let_go.set()
    index.close()
print("closed")
"""


def test_closing_while_what_was_given_up_still_reads_harms_nothing(index):
    path = index.path
    for number in range(30):
        index.search(f"leave {number}", principal=ALICE, thread_id="t")
    index.close()
    done = subprocess.run([sys.executable, "-c", _CLOSED, str(path)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "closed"), done.stderr


# ---------------------------------------------------------------- ten times too many


@dataclass
class Load:
    """What came of a time of asking by many at once. Seconds."""

    answered: list[float]
    refused: list[float]
    late: int
    most_threads: int
    grown_bytes: int


def ask_without_end(index: LateInteractionIndex, ours: Ours, *, seconds: float, budget_ms: float) -> Load:
    clients = 10 * AT_WORK
    load, over = Load([], [], 0, 0, 0), time.monotonic() + seconds

    def client() -> None:
        while time.monotonic() < over:
            began = time.monotonic()
            try:
                index.search("a rule about leave", principal=ALICE, budget_ms=budget_ms)
                load.answered.append(time.monotonic() - began)
            except Overloaded as refusal:
                load.refused.append(time.monotonic() - began)
                time.sleep(min(0.02, refusal.retry_after_s))
            except BudgetExceeded:
                load.late += 1

    began_bytes = psutil.Process().memory_info().rss
    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(client) for _ in range(clients)]
        while time.monotonic() < over:
            load.most_threads = max(load.most_threads, len(ours))
            time.sleep(0.05)
        for one in asking:
            one.result()
    load.grown_bytes = psutil.Process().memory_info().rss - began_bytes
    return load


def overload(index: LateInteractionIndex, *, seconds: float, budget_ms: float) -> Load:
    """Ten times as many clients as there are places, each asking again at once; an answer takes 25 ms or more."""
    ours = Ours()
    with troubled(index, "encoder", Stall(0.025)):
        ask_without_end(index, ours, seconds=0.5, budget_ms=budget_ms)
        load = ask_without_end(index, ours, seconds=seconds, budget_ms=budget_ms)
    assert load.answered
    assert load.refused
    assert AT_WORK <= load.most_threads <= AT_WORK + STUCK
    assert load.grown_bytes < 100_000_000
    assert index.rooms.limits.admission._working == 0
    return load


def recovery_s(index: LateInteractionIndex) -> float:
    """Seconds until a search is whole again."""
    began = time.monotonic()
    while not index.search("leave", principal=ALICE, budget_ms=1000).coverage.full:
        time.sleep(0.01)
    return time.monotonic() - began


def test_ten_times_too_many_are_refused_and_the_others_answered_in_time(index):
    load = overload(index, seconds=2.0, budget_ms=500)
    assert np.percentile(load.answered, 99) < 2.0
    assert np.percentile(load.refused, 50) < 0.25
    assert recovery_s(index) < 2.0


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_minute_of_ten_times_too_many(index, capsys):
    budget_ms = 250.0
    load = overload(index, seconds=60.0, budget_ms=budget_ms)
    recovered_s = recovery_s(index)
    answered, refused = (np.percentile(one, [50, 99]) * 1000 for one in (load.answered, load.refused))
    with capsys.disabled():
        print(
            f"\nanswered {len(load.answered)}: p50 {answered[0]:.0f}, p99 {answered[1]:.0f} ms; "
            f"refused {len(load.refused)}: p50 {refused[0]:.1f}, p99 {refused[1]:.0f} ms; late {load.late}; "
            f"{load.most_threads} threads, {load.grown_bytes / 1e6:+.0f} MB; whole again after {recovered_s:.2f} s"
        )
    assert answered[1] <= 2 * budget_ms
    assert refused[1] <= budget_ms
    assert load.late <= len(load.answered) / 100
    assert recovered_s < 2.0
