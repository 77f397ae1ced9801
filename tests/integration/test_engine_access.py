"""Access through the whole engine: revocation under way, callers side by side, failing audit, no side doors."""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lir_agents import Document, LateInteractionIndex, Principal
from lir_agents.errors import AccessDenied, InputError, LirError, StoreError
from lir_agents.ingest.adapters import to_document
from lir_agents.policy import AclPolicy
from lir_agents.types import SearchResult
from tests.conftest import office_documents
from tests.hashed_encoder import HashedEncoder

ALICE = Principal("alice", groups=["group:staff"])
BOB = Principal("bob", groups=["group:guests"])
NOBODY = Principal("nobody")


def told(result: SearchResult) -> list[Any]:
    return [(hit.rank, hit.passage_id, hit.score, hit.text) for hit in result]


def firm() -> list[Document]:
    """Thirty documents about the same thing: even ones are Alice's, every third is Bob's."""
    return [
        Document(
            id=f"d{i:02}",
            text=f"Rule {i} about leave and {'pay' if i % 2 else 'travel'}.",
            acl=[*(["group:staff"] if i % 2 == 0 else []), *(["group:guests"] if i % 3 == 0 else []), "root"],
        )
        for i in range(30)
    ]


@pytest.fixture
def policy() -> AclPolicy:
    return AclPolicy()


@pytest.fixture
def index(quick_path: Path, encoder: HashedEncoder, policy: AclPolicy) -> Iterator[LateInteractionIndex]:
    with LateInteractionIndex.open(quick_path / "i.lir", access=policy, encoder=encoder) as opened:
        opened.add(firm())
        yield opened


def names(result: Sequence[Any]) -> list[str]:
    return [hit.document_id for hit in result]


def test_neither_digests_nor_ids_made_of_content_tell_who_else_reads(quick_path, encoder):
    """With the text, which a reader has, and a guess at the list, a digest of both could be tried out."""
    anne = Principal("anne")
    texts = ["Rule of the board.", "Another rule of the board."]
    told: list[dict[str, Any]] = []
    for number, acl in enumerate((["anne", "board"], ["anne", "board"], ["anne"])):
        with LateInteractionIndex.open(quick_path / f"{number}", access="acl", encoder=encoder) as index:
            given = [Document(id="a", text=texts[0], acl=acl), Document(text=texts[1], acl=acl)]
            index.add(given)
            assert index.add(given).unchanged == 2
            told.append({hit.text: hit for hit in index.search("rule of the board", principal=anne)})
            assert index.add([Document(id="a", text=texts[0], acl=[*acl, "more"])]).updated == 1
    for text in texts:
        assert len({hits[text].content_sha256 for hits in told}) == 1  # of what is told, and of nothing else
    assert len({hits[texts[1]].document_id for hits in told}) == 3
    assert told[0][texts[1]].document_id != to_document(Document(text=texts[1], acl=["anne", "board"])).id


# ---------------------------------------------------------------- revocation while a search is under way


def between_stages(
    monkeypatch: pytest.MonkeyPatch, index: LateInteractionIndex, happens: Callable[[], object]
) -> None:
    """Makes something happen once, after the first stage has its candidates and before they are scored."""
    tokens = index.rooms.tokens
    lent, pending = tokens.lent, [happens]

    def interrupted(rows: Any) -> Any:
        if pending:
            pending.pop()()
        return lent(rows)

    monkeypatch.setattr(tokens, "lent", interrupted)


CHANGES: dict[str, Callable[[LateInteractionIndex, AclPolicy], object]] = {
    "the ACL changes": lambda index, _: index.add([dataclasses.replace(firm()[4], acl=["root"])]),
    "the ACL is emptied": lambda index, _: index.add([dataclasses.replace(firm()[4], acl=[])]),
    "the document is deleted": lambda index, _: index.delete(["d04"]),
    "the document is erased": lambda index, _: index.erase(["d04"]),
    "the text changes": lambda index, _: index.add([dataclasses.replace(firm()[4], text="Something else.")]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_taken_away_during_a_search_does_not_come_back(index, policy, monkeypatch, change):
    assert "d04" in names(index.search("rule 4 about leave", k=5, principal=ALICE))
    between_stages(monkeypatch, index, lambda: CHANGES[change](index, policy))
    result = index.search("rule 4 about leave", k=5, principal=ALICE)
    assert "d04" not in names(result)
    assert not any("Rule 4 " in hit.text for hit in result)
    assert [hit.rank for hit in result] == [1, 2, 3, 4, 5]  # the next best moved up
    recorded = index.audit.show(result.event_id)["surfaced"]
    assert [hit["passage_id"] for hit in recorded] == [hit.passage_id for hit in result]


def test_a_grant_revoked_during_a_search_counts(index, policy, monkeypatch):
    between_stages(monkeypatch, index, lambda: policy.revoke("group:staff"))
    both = Principal("carol", groups=["group:staff", "group:guests"])
    result = index.search("leave", k=30, principal=both)
    assert sorted(names(result)) == [f"d{i:02}" for i in range(0, 30, 3)]


def test_a_principal_revoked_during_a_search_is_refused_and_the_refusal_recorded(index, policy, monkeypatch):
    between_stages(monkeypatch, index, lambda: policy.revoke("alice"))
    with pytest.raises(AccessDenied):
        index.search("leave", principal=ALICE)
    (event,) = index.audit.events(kind="decision")
    assert (event.principal_id, event.payload["decision"]["allowed"]) == ("alice", False)
    assert index.audit.events(kind="retrieval") == []
    policy.restore("alice")
    assert len(index.search("leave", principal=ALICE)) == 10


def test_candidates_taken_away_meanwhile_are_not_listed(index, policy, monkeypatch):
    between_stages(monkeypatch, index, lambda: index.delete(["d04"]))
    table = index.candidates("rule 4 about leave", principal=ALICE)
    assert "d04" not in table.document_ids
    assert len(table.rows) == len(table.document_ids) == len(table.maxsim) == 14


def test_revoking_and_granting_count_from_the_next_search(index):
    for acl, seen in ((["root"], False), (["group:staff"], True), ([], False), (["alice"], True)):
        index.add([dataclasses.replace(firm()[4], acl=acl)])
        assert ("d04" in names(index.search("rule 4", k=30, principal=ALICE))) == seen
        for epoch in range(1, index.stats()["epoch"] + 1):  # history obeys the ACL of today
            assert ("d04" in names(index.search("rule 4", k=30, principal=ALICE, as_of=epoch))) == seen


# ---------------------------------------------------------------- many callers at once


ROUNDS = 1000


def callers(index: LateInteractionIndex) -> list[tuple[Principal, list[Any]]]:
    """Principals that are easily mixed up, with what each is to see."""
    people = [
        ALICE,
        BOB,
        Principal("alice", groups=["group:guests"]),
        Principal("alice", groups=["group:staff"], tenant="other"),
        Principal("group:staff"),
        Principal("bob"),
        NOBODY,
    ]
    return [(person, told(index.search("rule about leave", k=40, principal=person))) for person in people]


def test_callers_never_meet_in_threads_and_tasks(index):
    """A thousand rounds of the same question by people alike in id, group or tenant, over one shared index."""
    expected = callers(index)
    assert [len(seen) for _, seen in expected] == [15, 10, 10, 15, 15, 0, 0]
    crossed: list[object] = []

    def ask(start: int, rounds: int) -> None:
        for turn in range(start, start + rounds):
            person, wanted = expected[turn % len(expected)]
            if told(index.search("rule about leave", k=40, principal=person)) != wanted:
                crossed.append(person)

    async def ask_in_tasks(rounds: int) -> None:
        async def one(turn: int) -> None:
            person, wanted = expected[turn % len(expected)]
            if told(await index.asearch("rule about leave", k=40, principal=person)) != wanted:
                crossed.append(person)

        for start in range(0, rounds, 20):
            await asyncio.gather(*(one(turn) for turn in range(start, start + 20)))

    threads = [threading.Thread(target=ask, args=(start, ROUNDS // 4)) for start in (0, 3)]
    for thread in threads:
        thread.start()
    asyncio.run(ask_in_tasks(ROUNDS // 2))
    for thread in threads:
        thread.join()
    assert crossed == []
    recorded = index.audit.events(kind="retrieval", principal_id="nobody", limit=10_000)
    assert all(event.payload["hits"] == [] for event in recorded)


def test_what_one_caller_sees_does_not_warm_anything_for_another(index):
    for _ in range(5):
        assert len(index.search("rule about leave", principal=ALICE)) == 10
        assert len(index.search("rule about leave", principal=NOBODY)) == 0
        with pytest.raises(AccessDenied):
            index.search("rule about leave")


# ---------------------------------------------------------------- sizes and selectivity


def test_fifteen_hundred_groups_and_fifteen_hundred_grants(quick_path, encoder):
    many = [f"group:{i}" for i in range(1500)]
    with LateInteractionIndex.open(quick_path / "i.lir", access="acl", encoder=encoder) as index:
        index.add(
            [
                Document(id="many", text="Leave for all of them.", acl=many),
                Document(id="last", text="Leave for the last.", acl=["group:1499"]),
                Document(id="other", text="Leave for others.", acl=["group:1500"]),
                Document(id="prefix", text="Leave for group.", acl=["group:", "group:1", "1499"]),
            ]
        )
        member = Principal("member", groups=[*many[1:1], *many[2:], "extra"])
        assert sorted(names(index.search("leave", principal=member))) == ["last", "many"]
        assert names(index.search("leave", principal=Principal("one", groups=["group:7"]))) == ["many"]
        assert names(index.search("leave", principal=Principal("none", groups=["group:15000"]))) == []
        huge = Principal("huge", groups=[f"group:{i}" for i in range(20_000)])
        assert sorted(names(index.search("leave", principal=huge))) == ["last", "many", "other", "prefix"]


def test_k_hits_come_back_wherever_k_are_readable(quick_path, encoder):
    """The unreadable ones answer better each time; selectivities of a half, a tenth, a hundredth, a thousandth."""
    steps = (2, 10, 100, 1000)
    documents = [
        Document(
            id=f"d{i}",
            text="Something about leave."
            if any(i % step == 0 for step in steps)
            else "How many days of leave do I get",
            acl=["root", *(f"every:{step}" for step in steps if i % step == 0)],
        )
        for i in range(1000)
    ]
    with LateInteractionIndex.open(quick_path / "i.lir", access="acl", encoder=encoder) as index:
        assert index.add(documents).added == 1000
        for step in steps:
            principal = Principal("p", groups=[f"every:{step}"])
            for k in (1, 10, 150):
                hits = index.search("how many days of leave do I get", k=k, principal=principal)
                assert len(hits) == min(k, 1000 // step)
                assert all(int(hit.document_id[1:]) % step == 0 for hit in hits)


# ---------------------------------------------------------------- with the real model


def test_others_documents_change_nothing_with_the_bundled_model(quick_path, office_index):
    mine = [d for d in office_documents() if d.id.startswith("oslo/")]
    theirs = [dataclasses.replace(d, acl=["group:board"]) for d in office_documents() if d.id.startswith("lisbon/")]
    person = Principal("ola", groups=["place:oslo"])
    queries = ("days of leave", "bicycle Lisbon", "who pays the pension?")
    model = office_index.rooms.encoder
    with LateInteractionIndex.open(quick_path / "i.lir", access="acl", encoder=model) as index:
        index.add(mine)
        before = [told(index.search(query, k=20, principal=person)) for query in queries]
        index.add(theirs)
        assert [told(index.search(query, k=20, principal=person)) for query in queries] == before
        index.erase([str(document.id) for document in theirs])
        assert [told(index.search(query, k=20, principal=person)) for query in queries] == before


# ---------------------------------------------------------------- recorded or not returned


def test_what_cannot_be_recorded_is_not_returned(index):
    index.audit.close()
    for call in (
        lambda: index.search("leave", principal=ALICE),
        lambda: index.candidates("leave", principal=ALICE),
        lambda: index.get("d00", principal=ALICE),
        lambda: index.search("leave"),  # the refusal cannot be recorded either
        lambda: index.delete(["d00"]),
        lambda: index.add([Document(id="new", text="New leave.", acl=["alice"])]),
    ):
        with pytest.raises(StoreError) as caught:
            call()
        assert caught.value.store == "audit"
    with pytest.raises(StoreError):
        asyncio.run(index.asearch("leave", principal=ALICE))
    assert index.rooms.catalog.document("new") is None
    assert index.rooms.catalog.document("d00") is not None
    assert index.rooms.catalog.pending().tolist() == []


@pytest.mark.long
def test_an_audit_log_that_another_process_holds_refuses_the_search(quick_path, encoder):
    path = quick_path / "i.lir"
    with LateInteractionIndex.open(path, access="acl", encoder=encoder) as index:
        index.add(firm())
        events = index.audit.size
        holder = sqlite3.connect(path / "audit.sqlite", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError) as caught:
            index.search("leave", principal=ALICE)
        assert (caught.value.store, caught.value.retryable) == ("audit", True)
        holder.execute("ROLLBACK")
        holder.close()
        assert len(index.search("leave", principal=ALICE)) == 10
        assert index.audit.size == events + 1


def test_every_refusal_is_recorded_with_its_reason(index, policy):
    policy.revoke("mallory")
    for principal, who in ((None, ""), (Principal("mallory"), "mallory")):
        for call in (
            lambda who=principal: index.search("leave", principal=who),
            lambda who=principal: index.candidates("leave", principal=who),
            lambda who=principal: index.get("d00", principal=who),
        ):
            before = index.audit.size
            with pytest.raises(AccessDenied) as caught:
                call()
            assert index.audit.size == before + 1
            event = index.audit.events(kind="decision", limit=1000)[-1]
            assert event.principal_id == who
            assert event.payload["decision"]["allowed"] is False
            assert event.payload["decision"]["reason"] == caught.value.decision.reason
            assert "d00" not in str(caught.value)


def test_every_answer_is_recorded_with_who_and_what(index):
    result = index.search("leave", k=3, principal=ALICE)
    shown = index.audit.show(result.event_id)
    assert shown["who"]["principal"] == "alice"
    assert shown["asked"]["query"] == "leave"
    assert [hit["document_id"] for hit in shown["surfaced"]] == names(result)
    assert shown["policy"]["allowed"] is True
    assert index.get("d00", principal=ALICE).id == "d00"
    event = index.audit.events(kind="decision", limit=100)[-1]
    assert event.payload["detail"]["operation"] == "get"


# ---------------------------------------------------------------- policies that fail


class Failing:
    """A policy that is fine until asked about documents."""

    name = "failing"
    epoch = 0
    answer: Any = True

    def access_key(self, document: Document) -> str:
        return "key"

    def authorize(self, principal: Principal | None, action: str) -> Any:
        scope = AclPolicy().authorize(principal, action)
        return dataclasses.replace(scope, decide=self.decide)

    def decide(self, keys: Sequence[str]) -> tuple[list[bool], dict[str, str]]:
        if isinstance(self.answer, BaseException):
            raise self.answer
        if isinstance(self.answer, tuple):
            return self.answer
        return [self.answer for _ in keys], {}


CANNOT_SAY = [
    RuntimeError("down"),
    TimeoutError(),
    asyncio.CancelledError(),
    GeneratorExit(),
    "yes",
    1,
    None,
    ([True], None),
    ((True for _ in "a"), {}),
]


@pytest.mark.parametrize("answer", CANNOT_SAY, ids=repr)
def test_a_policy_that_cannot_say_denies_and_it_is_recorded(quick_path, encoder, answer):
    policy = Failing()
    with LateInteractionIndex.open(quick_path / "i.lir", access=policy, encoder=encoder) as index:
        index.add([Document(id="a", text="A rule."), Document(id="b", text="B rule.")])
        policy.answer = answer
        for call in (
            lambda: index.search("rule", principal=ALICE),
            lambda: index.get("a", principal=ALICE),
            lambda: index.candidates("rule", principal=ALICE),
        ):
            with pytest.raises(AccessDenied):
                call()
        assert len(index.audit.events(kind="decision")) == 3
        policy.answer = True
        assert len(index.search("rule", principal=Principal("later"))) == 2


# ---------------------------------------------------------------- no side doors


def test_get_follows_the_newest_acl_in_every_version(index):
    assert index.get("d04", principal=ALICE).text == firm()[4].text
    assert index.get("d04", principal=BOB) is None
    assert index.get("d04", 1, principal=BOB) is None
    assert index.get("unknown", principal=BOB) is None
    index.add([dataclasses.replace(firm()[4], text="New words.", acl=["group:guests"])])
    assert index.get("d04", 1, principal=ALICE) is None
    assert index.get("d04", 1, principal=BOB).text == firm()[4].text
    index.delete(["d04"])
    assert index.get("d04", 1, principal=ALICE) is None
    assert index.get("d04", 1, principal=BOB) is not None
    for wrong in ("alice", {"groups": ["group:staff"]}, 7):
        with pytest.raises((InputError, AccessDenied)):
            index.get("d04", principal=wrong)


def test_a_hit_explains_its_own_passage_only(index):
    mine = index.search("rule 4", k=1, principal=ALICE)[0]
    theirs = index.search("rule 3", k=1, principal=BOB)[0]
    assert mine.explain().text == mine.text
    forged = dataclasses.replace(mine, row=theirs.row, passage_id=theirs.passage_id)
    for hit in (forged, dataclasses.replace(theirs, text="guess"), dataclasses.replace(mine, row=theirs.row)):
        with pytest.raises(InputError):
            index.explain(hit)


def test_errors_of_one_caller_tell_nothing_of_others(index):
    """Asking for an unreadable document and for none at all look the same."""
    for principal in (BOB, NOBODY):
        assert index.get("d02", principal=principal) is index.get("no such", principal=principal) is None
        for filter in ({"x": 1}, {"acl": "group:staff"}, {"acl": {"$exists": True}}):
            assert len(index.search("rule 2", principal=principal, filter=filter)) == 0


def test_an_open_index_refuses_what_it_would_not_honour(quick_path, encoder):
    with LateInteractionIndex.open(quick_path / "i.lir", access="open", encoder=encoder) as index:
        report = index.add(
            [Document(id="a", text="A rule.", acl=["alice"]), Document(id="b", text="B rule.", acl=[])]
        )
        assert (report.added, len(report.failed)) == (0, 2)
        assert all("acl" in failure.reason for failure in report.failed)


def test_tenants_have_directories_of_their_own(tmp_path, encoder):
    """Two tenants are two indexes: no file, row, statistic or cache is shared."""
    texts = {"red": "The red plan is about leave.", "blue": "The blue plan is about leave."}
    opened = {
        name: LateInteractionIndex.open(tmp_path / f"{name}.lir", access="acl", encoder=encoder) for name in texts
    }
    try:
        for name, index in opened.items():
            index.add([Document(id="plan", text=texts[name], acl=["boss"])])
        boss = Principal("boss")
        for _ in range(3):
            for name, index in opened.items():
                assert [hit.text for hit in index.search("plan", principal=boss)] == [texts[name]]
                assert texts["blue" if name == "red" else "red"] not in str(index.get("plan", principal=boss))
    finally:
        for index in opened.values():
            index.close()
    for file in (tmp_path / "red.lir").rglob("*"):
        assert not file.is_file() or b"blue plan" not in file.read_bytes()


def test_a_closed_door_is_a_typed_error(quick_path, encoder):
    with LateInteractionIndex.open(quick_path / "i.lir", access="acl", encoder=encoder) as index:
        with pytest.raises(LirError):
            index.search("x", principal=None)
        with pytest.raises(InputError):
            Principal("")
        with pytest.raises(InputError):
            Principal("a", groups="group:staff")
        with pytest.raises(InputError):
            Principal("a", attributes=7)
        with pytest.raises(InputError):
            Principal("a", tenant=None)
