"""Several questions at once: each gets what it gets alone, and is authorised, recorded and told of as such."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lir_agents import Document, LateInteractionIndex, MetadataSignal, Principal, ToolBinding, ToolSignal, Turn
from lir_agents.config import EncoderSettings, LimitSettings, SearchSettings, Settings
from lir_agents.encoding.open import open_encoder
from lir_agents.errors import AccessDenied, BudgetExceeded, InputError, LirError, Overloaded
from lir_agents.graph import build
from lir_agents.graph.batch import sharing
from lir_agents.policy import AclPolicy
from lir_agents.types import SearchResult
from tests.conftest import office_documents
from tests.faults.seam import Stall, raising, troubled
from tests.hashed_encoder import HashedEncoder

ALICE = Principal("alice", groups=["group:staff"])
BOB = Principal("bob", groups=["group:guests"])
STAFF = Principal("sam", groups=["group:staff"])
QUESTIONS = (
    "how many days of paid leave do I get?",
    "where do I park my bicycle in Lisbon",
    "soup at noon",
    "the alarm sounds, what now",
    "pension",
    "Wer bezahlt die Rechnung?",
    "what is said of a journey by train that takes longer than three hours, and by whom is it booked, in which "
    "class, and does it matter whether it ends in Warsaw or in Dublin or in some other place where we have people?",
)


def told(result: SearchResult) -> list[Any]:
    return [(hit.rank, hit.passage_id, hit.score, dict(hit.breakdown), hit.text) for hit in result]


def retrievals(index: LateInteractionIndex) -> list[Any]:
    return [event for event in index.audit.events() if event.kind == "retrieval"]


@pytest.fixture
def index(quick_path: Path, encoder: HashedEncoder) -> Iterator[LateInteractionIndex]:
    with LateInteractionIndex.open(
        quick_path / "i.lir",
        access=AclPolicy(),
        encoder=encoder,
        bindings=[ToolBinding("lookup", "place", metadata_key="place")],
        signals=[MetadataSignal("number", prefer=[1, 2], strength=0.5)],
    ) as opened:
        opened.add(
            Document(
                id=f"d{n}",
                text=f"Rule {n} about {'leave' if n % 3 else 'travel'} and pay.",
                acl=["group:staff" if n % 2 else "group:guests"],
                metadata={"number": n, "place": "oslo" if n % 5 else "riga"},
            )
            for n in range(120)
        )
        yield opened


# ---------------------------------------------------------------- the same as one by one


@settings(max_examples=12, deadline=None)
@given(asked=st.lists(st.sampled_from(QUESTIONS), max_size=20), k=st.integers(1, 12))
def test_each_gets_what_it_gets_alone_with_the_bundled_model(office_index, asked, k) -> None:
    together = office_index.search_batch(asked, k=k, principal=STAFF)
    assert [result.query for result in together] == asked
    assert [told(one) for one in together] == [told(office_index.search(q, k=k, principal=STAFF)) for q in asked]


@pytest.mark.parametrize(
    "about",
    [
        {},
        {"filter": {"place": "oslo"}},
        {"filter": {"place": "nowhere"}},
        {"as_of": 1},
        {"history": [Turn("user", "what about travel?"), Turn("assistant", "Rule 3 is about travel.")]},
        {"tool_signals": [ToolSignal("lookup", {"place": "riga"})]},
        {"tool_signals": [ToolSignal("lookup", "rule 30 is about travel", 0.9)]},
    ],
    ids=["plain", "filter", "nothing fits", "as of", "history", "evidence", "said"],
)
@pytest.mark.parametrize("principal", [ALICE, BOB], ids=["alice", "bob"])
def test_each_gets_what_it_gets_alone_whatever_is_told_besides(index, about, principal) -> None:
    asked = [f"rule {n} about leave" for n in range(19)]
    together = index.search_batch(asked, k=7, principal=principal, **about)
    alone = [index.search(query, k=7, principal=principal, **about) for query in asked]
    assert [told(one) for one in together] == [told(one) for one in alone]
    assert [one.coverage.caveat for one in together] == [one.coverage.caveat for one in alone]


def test_an_event_loop_gets_the_same(index) -> None:
    asked = ["leave", "travel", "pay"]
    found = asyncio.run(index.asearch_batch(asked, principal=ALICE))
    assert [told(one) for one in found] == [told(one) for one in index.search_batch(asked, principal=ALICE)]


def test_the_rooms_are_asked_once_for_sixteen(index, encoder) -> None:
    calls: list[str] = []

    def counted(room: str) -> Any:
        def call(work: Any) -> Any:
            calls.append(room)
            return work()

        return call

    asked = [f"rule {n}" for n in range(32)]
    with troubled(index, "encoder", counted("encoder"), only=["encode_queries"]):  # noqa: SIM117
        with troubled(index, "vectors", counted("vectors"), only=["search", "search_batch"]):
            index.search_batch(asked, principal=ALICE)
    assert calls == ["encoder", "vectors"] * 2
    assert sorted(encoder.queries) == sorted(asked)


def test_a_question_that_comes_again_is_looked_for_once(index) -> None:
    calls: list[int] = []

    def counted(work: Any) -> Any:
        calls.append(1)
        return work()

    with troubled(index, "vectors", counted, only=["search", "search_batch"]):
        results = index.search_batch(["leave", "pay", "leave", "leave", "pay"], principal=ALICE)
        index.search_batch(["leave"] * 5, principal=ALICE)
    assert len(calls) == 2
    assert told(results[0]) == told(results[2]) == told(results[3])


def test_no_questions_are_no_searches(index) -> None:
    before = len(retrievals(index))
    assert index.search_batch([], principal=ALICE) == []
    assert len(retrievals(index)) == before


# ---------------------------------------------------------------- governed


def test_each_is_recorded_as_a_search_of_its_own(index) -> None:
    asked = [f"rule {n}" for n in range(20)]
    results = index.search_batch(asked, k=3, principal=ALICE)
    events = {event.event_id: event for event in retrievals(index)}
    assert len({result.event_id for result in results}) == len(asked)
    for query, result in zip(asked, results, strict=True):
        event = events[result.event_id]
        assert (event.payload["query"], event.principal_id) == (query, "alice")
        assert [hit["passage"]["passage_id"] for hit in event.payload["hits"]] == [hit.passage_id for hit in result]
    assert index.audit.verify().ok


def test_nobody_reads_what_is_not_theirs(index) -> None:
    for principal, odd in ((ALICE, 1), (BOB, 0)):
        for result in index.search_batch(["leave", "travel", "pay"], k=100, principal=principal):
            assert len(result) == 60
            assert {int(hit.document_id[1:]) % 2 for hit in result} == {odd}
    with pytest.raises(AccessDenied):
        index.search_batch(["leave", "travel"])


def test_what_is_revoked_meanwhile_surfaces_no_more(index) -> None:
    (wanted,) = index.search("rule 7", k=1, principal=ALICE)
    searched: list[str] = []

    def revoking(work: Any) -> Any:
        searched.append("")
        if len(searched) == 3:  # the first two of the batch have been answered
            index.add([Document(id=wanted.document_id, text=wanted.text, acl=["group:guests"])])
        return work()

    with troubled(index, "tokens", revoking, only=["lent"]):
        results = index.search_batch(["rule 7"] * 5, k=60, principal=ALICE)
    seen = [wanted.document_id in {hit.document_id for hit in result} for result in results]
    assert seen == [True, True, False, False, False]


# ---------------------------------------------------------------- bad input, failures, time


@pytest.mark.parametrize(
    ("queries", "field"),
    [
        ("leave", "queries"),
        (7, "queries"),
        (None, "queries"),
        ({"leave": 1}, "queries"),
        ({"leave", "pay"}, "queries"),
        (["leave", ""], "queries[1]"),
        (["leave", "pay", None], "queries[2]"),
        (["x" * 3_000_000], "queries[0]"),
    ],
)
def test_bad_questions_are_named_before_any_is_asked(index, queries, field) -> None:
    before = len(list(index.audit.events()))
    with pytest.raises(InputError) as caught:
        index.search_batch(queries, principal=ALICE)
    assert caught.value.field == field
    assert caught.value.remedy
    assert len(list(index.audit.events())) == before


def test_questions_may_come_from_an_iterator(index) -> None:
    assert len(index.search_batch((f"rule {n}" for n in range(3)), principal=ALICE)) == 3


@pytest.mark.parametrize("room", ["encoder", "vectors", "lexical", "tokens"])
def test_a_room_that_raises_is_left_out_of_each_and_named(index, room) -> None:
    with troubled(index, room, raising(OSError(5, "Input/output error"))):
        results = index.search_batch(["leave", "travel", "pay"], principal=ALICE)
    for result in results:
        assert room in result.coverage.caveat
        assert {int(hit.document_id[1:]) % 2 for hit in result} == {1}


@pytest.mark.parametrize("room", ["encoder", "vectors"])
def test_a_failure_of_all_together_is_nobodys(index, room) -> None:
    asked = ["leave", "travel", "pay"]
    failed: list[str] = []

    def once(work: Any) -> Any:
        if not failed:
            failed.append("")
            raise OSError(5, "Input/output error")
        return work()

    with troubled(index, room, once, only=["encode_queries", "search", "search_batch"]):
        results = index.search_batch(asked, principal=ALICE)
    assert failed
    assert all(result.coverage.full for result in results)
    assert [told(one) for one in results] == [told(index.search(query, principal=ALICE)) for query in asked]


def test_a_question_that_the_encoder_cannot_read_costs_the_others_nothing(index, encoder, monkeypatch) -> None:
    encode = encoder.encode_queries

    def reading(queries: Any) -> Any:
        if any("poison" in query.text for query in queries):
            raise ValueError("cannot read this")
        return encode(queries)

    monkeypatch.setattr(encoder, "encode_queries", reading)
    results = index.search_batch(["leave", "poison", "pay"], principal=ALICE)
    assert [result.coverage.full for result in results] == [True, False, True]
    assert "encoder" in results[1].coverage.caveat


def test_a_budget_is_each_searchs_own(index) -> None:
    stall = Stall(0.4)
    try:
        with troubled(index, "vectors", stall, only=["search", "search_batch"]):
            results = index.search_batch(["leave", "travel"], principal=ALICE, budget_ms=100)
    finally:
        stall.let_go.set()
    for result in results:
        assert result.coverage.stages["first_stage"].status == "timed_out"
        assert "vectors" in result.coverage.caveat
    with pytest.raises(BudgetExceeded):
        index.search_batch(["leave", "travel"], principal=ALICE, budget_ms=1e-6)


@pytest.mark.parametrize(
    ("limits", "search", "calls"),
    [
        (LimitSettings(), SearchSettings(), 2),
        (LimitSettings(stage_budgets_ms={"encoder": 5000.0}), SearchSettings(), 20),
        (LimitSettings(), SearchSettings(budget_ms=60_000), 20),
    ],
    ids=["none", "of a room", "of each"],
)
def test_only_searches_without_a_budget_share(quick_path: Path, encoder, limits, search, calls) -> None:
    with LateInteractionIndex.open(
        quick_path / "b.lir", encoder=encoder, settings=Settings(limits=limits, search=search)
    ) as index:
        index.add([Document(id=f"d{n}", text=f"Rule {n}.") for n in range(9)])
        made: list[int] = []

        def counted(work: Any) -> Any:
            made.append(1)
            return work()

        with troubled(index, "encoder", counted, only=["encode_queries"]):
            results = index.search_batch([f"rule {n}" for n in range(20)])
        assert all(result.coverage.full for result in results)
        assert len(made) == calls


def test_sixteen_at_a_time_take_one_place(quick_path: Path, encoder: HashedEncoder) -> None:
    limits = LimitSettings(at_work=1, waiting=0)
    with LateInteractionIndex.open(
        quick_path / "one.lir", encoder=encoder, settings=Settings(limits=limits, search=SearchSettings(k=3))
    ) as index:
        index.add([Document(id=f"d{n}", text=f"Rule {n}.") for n in range(9)])
        admission = index.rooms.limits.admission
        with patch.object(admission, "claim", wraps=admission.claim) as claim:
            assert [len(result) for result in index.search_batch(["rule"] * 40)] == [3] * 40
        assert claim.call_count == 3


def test_where_there_is_no_place_for_the_rest_it_says_so(quick_path: Path, encoder: HashedEncoder) -> None:
    limits = Settings(limits=LimitSettings(at_work=1, waiting=0))
    with LateInteractionIndex.open(quick_path / "one.lir", encoder=encoder, settings=limits) as index:
        index.add([Document(id=f"d{n}", text=f"Rule {n}.") for n in range(9)])
        ranked: list[int] = []

        def somebody_comes(work: Any) -> Any:
            ranked.append(1)
            if len(ranked) == 16:
                index.rooms.limits.admission._working += 1
            return work()

        with troubled(index, "tokens", somebody_comes, only=["lent"]), pytest.raises(Overloaded):
            index.search_batch(["rule"] * 40)
        assert len(retrievals(index)) == 16, "what came before stands in the log"
        index.rooms.limits.admission.leave(None)
        assert len(index.search_batch(["rule"] * 2)) == 2


def test_what_is_shared_is_no_measure_of_what_a_search_takes(index, encoder, monkeypatch) -> None:
    """Sixteen questions take longer than one, and fifteen of them nothing: neither may move when a room hangs."""
    breaker = index.rooms.limits.breakers["encoder"]
    index.search("leave", principal=ALICE)
    usual_s = breaker._usual_s
    assert usual_s > 0
    index.search_batch([f"rule {n}" for n in range(16)], principal=ALICE)
    assert breaker._usual_s == usual_s


def test_a_failure_of_all_together_opens_no_breaker(quick_path: Path, encoder: HashedEncoder) -> None:
    limits = Settings(limits=LimitSettings(breaker_failures=1))
    with LateInteractionIndex.open(quick_path / "b.lir", encoder=encoder, settings=limits) as index:
        index.add([Document(id=f"d{n}", text=f"Rule {n}.") for n in range(9)])
        encode = encoder.encode_queries

        def few(work: Any) -> Any:
            raise OSError(5, "Input/output error")

        with troubled(index, "vectors", few, only=["search_batch"]):
            assert all(result.coverage.full for result in index.search_batch(["rule", "leave"]))
        with patch.object(encoder, "encode_queries", lambda texts: encode(texts) if len(texts) == 1 else few(None)):
            assert all(result.coverage.full for result in index.search_batch(["rule", "leave"]))


def test_what_is_remembered_is_no_answer_of_a_room(index, encoder) -> None:
    """Somebody else finds the encoder dead after each search of a batch, which goes on with what it knows."""
    breaker = index.rooms.limits.breakers["encoder"]
    counts: list[int] = []

    def dying(work: Any) -> Any:
        breaker.failed("failed")
        counts.append(breaker._failures)
        return work()

    with troubled(index, "tokens", dying, only=["lent"]):
        index.search_batch(["leave", "travel", "pay"], principal=ALICE)
    assert counts == [1, 2, 3]
    index.search_batch(["leave", "travel"], principal=ALICE)
    assert breaker._failures == 0, "the room did answer"


@pytest.mark.parametrize("nonsense", [[], None, [None]], ids=repr)
def test_nonsense_for_one_question_costs_the_others_nothing(index, encoder, monkeypatch, nonsense) -> None:
    encode = encoder.encode_queries
    monkeypatch.setattr(encoder, "steady", False, raising=False)
    monkeypatch.setattr(
        encoder, "encode_queries", lambda texts: nonsense if texts[0].text == "poison" else encode(texts)
    )
    results = index.search_batch(["leave", "poison", "pay"], principal=ALICE)
    assert [result.coverage.full for result in results] == [True, False, True]


def test_a_store_that_answers_for_fewer_is_asked_for_each(index) -> None:
    asked = ["leave", "travel", "pay"]
    with troubled(index, "vectors", lambda work: work()[:-1], only=["search_batch"]):
        results = index.search_batch(asked, principal=ALICE)
    assert [told(one) for one in results] == [told(index.search(query, principal=ALICE)) for query in asked]


def test_where_company_would_change_a_bit_each_is_encoded_alone(index, encoder, monkeypatch) -> None:
    asked = [f"rule {n}" for n in range(5)]
    alone = [told(index.search(query, principal=ALICE)) for query in asked]
    sizes: list[int] = []
    encode = encoder.encode_queries

    def unsteady(queries: Any) -> Any:
        sizes.append(len(queries))
        return encode(queries)

    monkeypatch.setattr(encoder, "encode_queries", unsteady)
    monkeypatch.setattr(encoder, "steady", False, raising=False)
    assert [told(one) for one in index.search_batch(asked, principal=ALICE)] == alone
    assert sizes == [1] * 5


def test_in_torch_each_gets_what_it_gets_alone(quick_path: Path) -> None:
    encoder = open_encoder(settings=EncoderSettings(backend="torch"))
    with LateInteractionIndex.open(quick_path / "t.lir", encoder=encoder) as index:
        index.add([replace(document, acl=None) for document in office_documents()[:12]])
        together = index.search_batch(QUESTIONS, k=5)
        assert [told(one) for one in together] == [told(index.search(query, k=5)) for query in QUESTIONS]


def test_closed_meanwhile_it_says_so(index) -> None:
    def closing(work: Any) -> Any:
        found = work()
        index.close()
        return found

    with troubled(index, "lexical", closing, only=["scores"]), pytest.raises(LirError):
        index.search_batch(["leave", "pay"], principal=ALICE)


def test_cancelled_before_the_first_it_needs_no_place_again(
    quick_path: Path, encoder: HashedEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Settings(limits=LimitSettings(at_work=1))
    with LateInteractionIndex.open(quick_path / "c.lir", encoder=encoder, settings=limits) as index:
        index.add([Document(id=f"d{n}", text=f"Rule {n}.") for n in range(9)])
        admission, stall = index.rooms.limits.admission, Stall(10)
        monkeypatch.setattr(build, "sharing", lambda *given: stall(lambda: sharing(*given)))

        async def cancelled() -> None:
            task = asyncio.create_task(index.asearch_batch(["rule", "leave"]))
            while not stall.calls:  # noqa: ASYNC110 - it is called in a thread
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(cancelled())
        assert admission.claim(), "the place is free, and somebody else takes it"
        stall.let_go.set()
        until = time.monotonic() + 5
        while index.rooms.limits.threads.busy and time.monotonic() < until:
            time.sleep(0.01)
        assert index.rooms.limits.threads.busy == 0
        admission.leave(None)
        assert retrievals(index) == []
        assert len(index.search_batch(["rule", "leave"])) == 2


def test_cancelled_it_records_nothing_more(index) -> None:
    stall = Stall(5)

    async def cancelled() -> None:
        task = asyncio.create_task(index.asearch_batch([f"rule {n}" for n in range(8)], principal=ALICE))
        while not stall.calls:  # noqa: ASYNC110 - it is called in a thread
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with troubled(index, "tokens", stall, only=["lent"]):
        asyncio.run(cancelled())
        stall.let_go.set()
        while index.rooms.limits.threads.busy:
            time.sleep(0.01)
    assert retrievals(index) == []
    assert len(index.search_batch(["rule"] * 2, principal=ALICE)) == 2
