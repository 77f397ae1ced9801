"""Whatever the ACLs, whoever asks, however hostile the filter: a search is the search of an index that holds only
what its caller may read. Same hits, same order, same scores to the last bit, same counts, same errors."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lir_agents import Document, LateInteractionIndex, Principal
from lir_agents.errors import InputError
from lir_agents.ingest.adapters import to_document
from lir_agents.types import SearchResult
from tests.hashed_encoder import HashedEncoder
from tests.property.test_filters import FILTERS, METADATA, matches

GRANTS = ["alice", "bob", "group:a", "group:b", "group:c", "Group:A", "group:a ", '["group:a"]', "*", "null"]
WORDS = (
    *("leave", "days", "year", "canteen", "soup", "noon", "bicycle", "house"),
    *("train", "hours", "invoice", "pension", "lawn", "badge", "visitor"),
)
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
ENCODER = HashedEncoder()
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)  # shrinking would open thousands of indexes

texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join)
long_texts = st.lists(st.sampled_from(WORDS), min_size=80, max_size=200).map(" ".join)
acls = st.one_of(st.none(), st.lists(st.sampled_from(GRANTS), max_size=4))
documents = st.builds(
    Document,
    text=st.one_of(texts, texts, texts, long_texts),
    id=st.one_of(st.none(), st.sampled_from([f"d{i}" for i in range(9)])),
    title=st.sampled_from(["", "Rules", "leave"]),
    acl=acls,
    metadata=METADATA,
)
principals = st.builds(
    Principal,
    id=st.sampled_from(["alice", "bob", "carol", "*", "null"]),
    groups=st.lists(st.sampled_from(GRANTS[2:]), max_size=3),
    tenant=st.sampled_from(["", "t1"]),
)
WIDENING: list[Any] = [
    {},
    {"$or": [{"acl": {"$exists": False}}, {"a": 1}]},
    {"$not": {"acl": "nobody"}},
    {"$or": [{}, {"a": 1}]},
    {"acl": {"$contains": "bob"}},
    {"acl": ["bob"]},
    {"access_class": {"$gte": 0}},
    {"document_id": {"$ne": ""}},
    {"id": {"$in": [f"d{i}" for i in range(9)]}},
    {"$and": [{"$not": {"$not": {}}}, {"$or": [{"x": {"$exists": False}}, {"x": {"$exists": True}}]}]},
    {"missing": {"$ne": 1}},
    {"missing": {"$nin": [1]}},
]
MALFORMED: list[Any] = [
    {"$or": []},
    {"$or": [{"a": 1}], "$where": "true"},
    {"a": {"$regex": ".*"}},
    {"a": None},
    {"a": {"$in": "alice"}},
    {"$or": {"a": 1}},
    {"acl": {"$any": True}},
    [{"a": 1}],
]
cases = st.tuples(
    principals,
    st.one_of(st.none(), FILTERS, st.sampled_from(WIDENING), st.sampled_from(MALFORMED)),
    texts,
    st.one_of(st.integers(1, 4), st.just(100)),
)
Case = tuple[Principal, Any, str, int]


@contextmanager
def index_of(given_documents: Sequence[Document]) -> Iterator[LateInteractionIndex]:
    with (
        tempfile.TemporaryDirectory(dir=MEMORY, prefix="lir-test-") as folder,
        LateInteractionIndex.open(Path(folder) / "i.lir", access="acl", encoder=ENCODER) as index,
    ):
        report = index.add(given_documents)
        assert report.failed == ()
        yield index


def current(index: LateInteractionIndex, given_documents: Sequence[Document]) -> list[Document]:
    """What is current after adding these in order: the last of each id, in the order in which it came last."""
    latest: dict[str, Document] = {}
    key = index.rooms.catalog.id_key()
    for document in (to_document(one, id_key=key) for one in given_documents):
        if document.id in latest and latest[document.id] == document:
            continue  # unchanged: it stays where it is
        latest.pop(document.id or "", None)
        latest[document.id or ""] = document
    return list(latest.values())


def may_read(principal: Principal, document: Document) -> bool:
    return document.acl is not None and bool({principal.id, *principal.groups} & set(document.acl))


def told(index: LateInteractionIndex, result: SearchResult) -> Any:
    """All that a caller can see of a result but times and event; versions count what came before, so not them."""
    hits = [
        (h.rank, h.document_id, h.start, h.end, h.text, h.title, h.score, dict(h.breakdown), dict(h.metadata))
        for h in result
    ]
    stages = {name: (stage.status, stage.reason) for name, stage in result.coverage.stages.items()}
    return hits, stages, index.audit.get(result.event_id).payload["candidates"]


def outcome(index: LateInteractionIndex, case: Case) -> Any:
    principal, filter, query, k = case
    try:
        return told(index, index.search(query, k=k, principal=principal, filter=filter))
    except InputError as error:
        return type(error), str(error)


def outcomes(corpus: Sequence[Document], asked: Sequence[Case]) -> tuple[list[Any], list[Any]]:
    """What each search gives over the corpus, and over an index of what its caller may read of it. On the way,
    what is found, got and offered as candidates is held against the documents themselves."""
    over_all: list[Any] = []
    over_readable: list[Any] = []
    with ExitStack() as opened:
        everything = opened.enter_context(index_of(corpus))
        live = current(everything, corpus)
        only: dict[frozenset[str | None], LateInteractionIndex] = {}
        for case in asked:
            principal, filter, _, k = case
            readable = [document for document in live if may_read(principal, document)]
            key = frozenset(document.id for document in readable)
            if key not in only:
                only[key] = opened.enter_context(index_of(readable))
            seen = outcome(everything, case)
            over_all.append(seen)
            over_readable.append(outcome(only[key], case))
            if isinstance(seen[0], type):
                continue
            wanted = [d for d in readable if not filter or matches(filter, d.metadata)]
            names = {hit[1] for hit in seen[0]}
            assert names <= {document.id for document in wanted}
            if k == 100:
                assert names == {document.id for document in wanted}
            assert len(seen[0]) >= min(k, len(wanted))
            for document in live:
                stored = everything.get(str(document.id), principal=principal)
                assert (stored is not None) == (document in readable)
            table = everything.candidates("leave days", principal=principal)
            assert set(table.document_ids) == {document.id for document in readable}
    return over_all, over_readable


corpora = st.lists(documents, min_size=1, max_size=9)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), phases=PHASES)
@given(corpora, st.lists(cases, min_size=5, max_size=5))
def test_a_search_sees_what_its_caller_may_read_and_nothing_else(corpus, asked):
    over_all, over_readable = outcomes(corpus, asked)
    assert over_all == over_readable


@pytest.mark.long
@pytest.mark.timeout(7200)
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck), phases=PHASES)
@given(corpora, st.lists(cases, min_size=10, max_size=10))
def test_ten_thousand_searches_see_what_their_callers_may_read_and_nothing_else(corpus, asked):
    over_all, over_readable = outcomes(corpus, asked)
    assert over_all == over_readable


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), phases=PHASES)
@given(corpora, corpora, st.lists(cases, min_size=4, max_size=4))
def test_what_others_do_to_documents_one_may_not_read_changes_nothing(mine, theirs, asked):
    """Adding, changing, deleting and erasing others' documents moves no hit, score, rank, count or error."""
    mine = [Document(id=f"mine/{i}", text=d.text, acl=d.acl, metadata=d.metadata) for i, d in enumerate(mine)]
    theirs = [
        Document(id=f"theirs/{i}", text=d.text, acl=["zoe"], metadata=d.metadata) for i, d in enumerate(theirs)
    ]
    changed = [Document(id=d.id, text=d.text + " leave soup", acl=d.acl) for d in theirs[::2]]
    names = [str(document.id) for document in theirs]
    with index_of(mine) as index:
        before = [outcome(index, case) for case in asked]
        for step in (
            lambda: index.add(theirs),
            lambda: index.add(changed),
            lambda: index.delete(names[:2]),
            lambda: index.erase(names[1:]),
        ):
            step()
            assert [outcome(index, case) for case in asked] == before
