"""A recorded search is asked again: over the same versions, with the grants and the conversation of then."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from lir_agents import Document, LateInteractionIndex, Principal, ToolBinding, ToolSignal, Turn
from lir_agents.errors import AccessDenied, InputError
from lir_agents.policy import AclPolicy
from tests.conftest import office_documents
from tests.hashed_encoder import HashedEncoder

AUDITOR = Principal("uma", groups=["group:audit", "group:staff"])
STRANGER = Principal("sam", groups=["group:audit"])
STAFF = Principal("alice", groups=["group:staff", "team:blue"], tenant="t1", attributes={"level": 3})
OSLO = Principal("bob", groups=["place:oslo"])
POLICY = {"replay": ["group:audit"]}
BINDINGS = (
    ToolBinding("locate", "place", "place"),
    ToolBinding("must", "place", "place", mode="require"),
)


@pytest.fixture
def index(quick_path: Path, encoder: HashedEncoder) -> Iterator[LateInteractionIndex]:
    with LateInteractionIndex.open(
        quick_path / "i.lir", access=AclPolicy(rights=POLICY), encoder=encoder, bindings=BINDINGS
    ) as opened:
        opened.add(office_documents())
        yield opened


def ranking(result):
    return [(hit.rank, hit.passage_id) for hit in result]


def replayed(report):
    return [(hit.rank, hit.passage_id) for hit in report.replayed]


def test_a_search_replays_to_the_same_ids_ranks_and_scores(index):
    result = index.search("when is leave paid in Oslo", principal=STAFF, filter={"number": {"$lt": 7}}, k=8)
    report = index.replay(result.event_id, principal=AUDITOR)
    assert report.same
    assert report.differences == report.notes == ()
    assert replayed(report) == ranking(result)
    assert [hit.score for hit in report.recorded] == [hit.score for hit in result]
    event = index.audit.get(report.replay_id)
    assert event.principal_id == "uma"
    assert event.payload["detail"] == {"operation": "replay", "event": result.event_id, "same": True}


def test_it_replays_after_the_index_has_moved_on(index):
    result = index.search("the canteen serves soup", principal=STAFF)
    changed = [
        Document(id=d.id, title=d.title, text="Soup and canteen, soup. " + d.text, acl=d.acl, metadata=d.metadata)
        for d in office_documents()[::2]
    ]
    index.add(changed)
    index.add([Document(id="new", text="The canteen serves soup.", acl=["group:staff"])])
    index.delete(["oslo/canteen"])
    assert ranking(index.search("the canteen serves soup", principal=STAFF)) != ranking(result)
    report = index.replay(result.event_id, principal=AUDITOR)
    assert report.same, report.differences
    assert report.epoch == 1
    assert replayed(report) == ranking(result)


def test_a_search_of_the_past_replays_as_of_that_past(index):
    index.add([Document(id="new", text="The canteen serves soup.", acl=["group:staff"])])
    asked = {"the canteen serves soup": 1, "canteen": index.versions("new", principal=STAFF)[0].added_at}
    past = {query: index.search(query, principal=STAFF, as_of=at) for query, at in asked.items()}
    assert "new" not in {hit.document_id for hit in past["the canteen serves soup"]}
    for result in past.values():
        assert replayed(index.replay(result.event_id, principal=AUDITOR)) == ranking(result)
    index.erase(["zurich/vpn"])
    # It stood among the candidates, whose spread is the unit of every score: near ties may fall the other way.
    for query, at in asked.items():
        again = index.search(query, principal=STAFF, as_of=at)
        assert replayed(index.replay(past[query].event_id, principal=AUDITOR)) == ranking(again)


def test_it_asks_with_the_grants_of_who_asked(index):
    result = index.search("visitors at reception", principal=OSLO)
    assert {hit.metadata["place"] for hit in result} == {"oslo"}
    assert index.replay(result.event_id, principal=AUDITOR).same


def test_what_was_remembered_counts_as_it_stood(index):
    for turn in ("how is a train journey booked", "and first class?"):
        index.search(turn, principal=STAFF, thread_id="trip")
    told = index.search(
        "when is it longer?",
        principal=STAFF,
        thread_id="trip",
        history=[Turn("assistant", "A journey by train is booked early in Lisbon.")],
        tool_signals=[
            ToolSignal("locate", {"place": "lisbon", "odd": {1: object()}, "nan": math.nan}, 0.9),
            ToolSignal("said", "Three hours is long.", 0.8),
            ToolSignal("must", {"place": ["lisbon", "oslo"]}),
            ToolSignal("broken", {}, error="timed out"),
        ],
    )
    assert any(name.startswith(("context", "tool")) for name in told[0].breakdown)
    index.memory.forget(STAFF)
    report = index.replay(told.event_id, principal=AUDITOR)
    assert report.same, report.differences
    plain = index.search("when is it longer?", principal=STAFF)
    assert ranking(plain) != ranking(told)


def test_erased_passages_are_named_as_erased(index):
    result = index.search("invoices are paid", principal=STAFF, k=5)
    index.erase([result[1].document_id])
    report = index.replay(result.event_id, principal=AUDITOR)
    assert not report.same
    assert report.recorded[1].passage_id is None
    (erased,) = [one for one in report.differences if one.kind == "erased"]
    assert (erased.recorded, erased.replayed, erased.passage_id) == (2, None, None)
    assert result[1].passage_id not in repr(report)


def test_todays_access_rules_hold(index):
    result = index.search("invoices are paid", principal=STAFF, k=5)
    first = index.get(result[0].document_id, principal=STAFF)
    index.add([Document(id=first.id, title=first.title, text=first.text, acl=["group:board"])])
    report = index.replay(result.event_id, principal=AUDITOR)
    assert report.differences[0].kind == "absent"
    assert report.differences[0].passage_id is None  # the auditor may not read it either
    index.rooms.policy.revoke("alice")
    refused = index.replay(result.event_id, principal=AUDITOR)
    assert not refused.same
    assert refused.replayed == ()
    assert any("may not ask any more" in note for note in refused.notes)


def test_the_right_to_replay_is_not_the_right_to_read(index):
    result = index.search("visitors at reception", principal=STAFF)
    for principal in (None, STAFF):
        with pytest.raises(AccessDenied, match="replay"):
            index.replay(result.event_id, principal=principal)
    refusals = index.audit.events(kind="decision")
    assert [event.payload["decision"]["allowed"] for event in refusals] == [False, False]
    report = index.replay(result.event_id, principal=STRANGER)
    assert report.same
    assert {hit.passage_id for hit in (*report.recorded, *report.replayed)} == {None}


def test_what_cannot_be_replayed_is_refused(index):
    result = index.search("visitors", principal=STAFF)
    with pytest.raises(InputError, match="event_id"):
        index.replay("00" * 16, principal=AUDITOR)
    (added,) = index.audit.events(kind="ingest")
    with pytest.raises(InputError, match="not a retrieval"):
        index.replay(added.event_id, principal=AUDITOR)
    index.audit.erase_sealed([result.event_id])
    with pytest.raises(InputError, match="erased"):
        index.replay(result.event_id, principal=AUDITOR)


def test_settings_that_changed_are_noted(quick_path, encoder):
    path = quick_path / "open.lir"
    with LateInteractionIndex.open(path, encoder=encoder) as index:
        index.add([{"id": str(i), "text": f"Text {i} of it."} for i in range(5)])
        event = index.search("text 3").event_id
    with LateInteractionIndex.open(path, encoder=encoder, bindings=BINDINGS) as index:
        report = index.replay(event)
        assert report.same
        assert any("settings" in note for note in report.notes)


def test_the_bundled_model_replays_what_it_ranked(office_index):
    history = [Turn("user", "how many days of leave do I get?"), Turn("assistant", "Thirty days a year.")]
    plain = office_index.search("when a child is ill", principal=STAFF)
    told = office_index.search("and when a child is ill?", principal=STAFF, history=history)
    exact = office_index.replay(plain.event_id, principal=AUDITOR)
    assert exact.same
    assert exact.replayed == exact.recorded  # to the last bit
    near = office_index.replay(told.event_id, principal=AUDITOR)
    assert near.same, near.differences
