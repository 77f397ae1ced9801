"""What comes out: sums, explanations, order; the same by every way of running the graph; nothing left behind."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pytest
from langchain_core.documents import Document as LangChainDocument
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, StateGraph

from lir_agents import Document, LateInteractionIndex, Principal
from lir_agents.errors import AccessDenied, InputError
from lir_agents.graph.build import build_graph
from lir_agents.graph.context import RetrievalContext
from lir_agents.types import SearchResult
from tests.hashed_encoder import HashedEncoder

STAFF = Principal("sam", groups=["group:staff"])
OSLO = Principal("ola", groups=["place:oslo"])
QUERIES = (
    "how many days of paid leave do I get?",
    "where do I park my bicycle in Lisbon",
    "soup at noon",
    "the alarm sounds, what now",
    "pension",
    "Wer bezahlt die Rechnung?",
)


def told(result: SearchResult) -> list[Any]:
    return [(hit.rank, hit.passage_id, hit.score, dict(hit.breakdown), hit.text) for hit in result]


# ---------------------------------------------------------------- scores and explanations


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("principal", [STAFF, OSLO], ids=["staff", "oslo"])
def test_a_score_is_the_sum_of_its_parts_and_orders_the_hits(office_index, query, principal):
    result = office_index.search(query, k=12, principal=principal)
    assert len(result) == (12 if principal is STAFF else 10)
    for rank, hit in enumerate(result, 1):
        assert hit.rank == rank
        assert {"maxsim", "dense", "lexical"} <= set(hit.breakdown)
        assert sum(hit.breakdown.values()) == pytest.approx(hit.score, abs=1e-9)
        assert np.isfinite(hit.score)
    scores = [hit.score for hit in result]
    assert scores == sorted(scores, reverse=True)


def test_the_right_rule_of_the_right_place_is_first(office_index):
    assert office_index.search("parking my bike in Lisbon", principal=STAFF)[0].document_id == "lisbon/bicycles"
    assert office_index.search("days of holiday in Oslo", principal=STAFF)[0].document_id == "oslo/leave"
    assert office_index.search("lunch in Warsaw", principal=STAFF)[0].document_id == "warsaw/canteen"


@pytest.mark.parametrize("query", QUERIES[:3])
def test_an_explanation_points_at_the_words_it_names(office_index, query):
    for hit in office_index.search(query, k=3, principal=STAFF):
        explanation = hit.explain()
        assert explanation.text == hit.text
        assert len(explanation) > 0
        for match in explanation:
            start, end = match.query_span
            assert query[start:end] == match.query_token
            assert match.word
            if match.in_title:
                assert match.word in hit.title
            else:
                assert hit.text[slice(*match.span)] == match.word
                assert re.fullmatch(r"\w+|[^\w\s]+", match.word)
            assert -1.01 <= match.similarity <= 1.01
        document = office_index.get(hit.document_id, hit.version, principal=STAFF)
        assert document.text[hit.start : hit.end] == hit.text


def test_a_word_meets_itself(office_index):
    hit = office_index.search("bicycle parking in Lisbon", k=1, principal=STAFF)[0]
    met = {match.query_token: match for match in hit.explain()}
    assert met["bicycle"].word.lower() in ("bicycle", "bicycles")
    assert met["Lisbon"].word == "Lisbon"
    assert met["Lisbon"].similarity > met["in"].similarity - 0.5


def test_an_explanation_under_a_heading_keeps_its_offsets(quick_path, encoder):
    text = (
        "# Travel\n\n## By train\n\nFirst class is for journeys of three hours.\n\n## By plane\n\nAsk the board.\n"
    )
    with LateInteractionIndex.open(quick_path / "i.lir", encoder=encoder) as index:
        index.add([Document(id="t", title="Rules", text=text * 9)])
        for hit in index.search("three hours in first class by train", k=30):
            for match in hit.explain():
                if not match.in_title:
                    assert hit.text[slice(*match.span)] == match.word
                    assert text.count(match.word)


def test_the_order_is_the_same_after_reopening(tmp_path, encoder):
    path = tmp_path / "i.lir"
    with LateInteractionIndex.open(path, encoder=encoder) as index:
        # Equal texts tie in every signal; only the row decides, and it must always decide alike.
        index.add([Document(id=f"d{i:02}", text=f"A rule about leave {i % 3}.") for i in range(30)])
        index.add([Document(id="d05", text="Another rule about leave.")])
        before = [told(index.search(query, k=30)) for query in ("leave rule", "rule 2", "a")]
        assert told(index.search("leave rule", k=30)) == before[0]
    for _ in range(2):
        with LateInteractionIndex.open(path, encoder=HashedEncoder()) as index:
            assert [told(index.search(query, k=30)) for query in ("leave rule", "rule 2", "a")] == before


def test_fewer_hits_are_the_head_of_more(office_index):
    for query in QUERIES[:2]:
        many = told(office_index.search(query, k=10, principal=STAFF))
        for k in (1, 3, 7):
            assert told(office_index.search(query, k=k, principal=STAFF)) == many[:k]


def test_candidates_are_what_a_search_ranks(office_index):
    table = office_index.candidates("leave in Oslo", principal=OSLO)
    hits = office_index.search("leave in Oslo", k=100, principal=OSLO)
    assert sorted(table.document_ids) == sorted(hit.document_id for hit in hits)
    assert len(table.rows) == len(table.dense) == len(table.lexical) == len(table.maxsim) == 10
    assert all(name.startswith("oslo/") for name in table.document_ids)


def test_results_are_plain_data_for_whoever_sends_them(office_index):
    result = office_index.search("soup", k=2, principal=STAFF)
    assert json.loads(json.dumps(result.to_dict()))["hits"][0]["rank"] == 1
    assert set(result.timings_ms) >= {"authorize", "first_stage", "rerank", "record", "total"}
    event = office_index.audit.show(result.event_id)
    assert [hit["passage_id"] for hit in event["surfaced"]] == [hit.passage_id for hit in result]
    assert event["who"]["principal"] == "sam"
    assert event["proof"]["holds"]


# ---------------------------------------------------------------- every way of running the graph


async def test_every_way_of_running_gives_the_same(office_index):
    graph = build_graph(office_index).compile()
    for query in QUERIES:
        given: dict[str, Any] = {"query": query, "k": 5, "filter": {"number": {"$lt": 9}}}
        context = RetrievalContext(principal=STAFF)
        wanted = told(office_index.search(query, k=5, filter=given["filter"], principal=STAFF))
        assert len(wanted) == 5
        outcomes = [graph.invoke(given, context=context), await graph.ainvoke(given, context=context)]
        outcomes += [list(graph.stream(given, context=context, stream_mode="values"))[-1]]
        outcomes += [[part async for part in graph.astream(given, context=context, stream_mode="values")][-1]]
        for outcome in outcomes:
            assert told(outcome["result"]) == wanted
            assert [document.id for document in outcome["documents"]] == [passage for _, passage, *_ in wanted]
        assert told(await office_index.asearch(query, k=5, filter=given["filter"], principal=STAFF)) == wanted


def test_the_steps_are_streamed_without_text(office_index):
    graph = build_graph(office_index).compile()
    context = RetrievalContext(principal=STAFF)
    parts = list(graph.stream({"query": "soup"}, context=context, stream_mode="custom"))
    stages = [part["stage"] for part in parts]
    assert stages[0] == "authorize"
    assert stages[-3:] == ["first_stage", "rerank", "record"]
    assert "canteen" not in repr(parts).lower()


@pytest.mark.parametrize("context", [None, {}, {"principal": None}, object()], ids=repr)
def test_a_graph_without_a_principal_is_refused(office_index, context):
    graph = build_graph(office_index).compile()
    with pytest.raises(AccessDenied):
        graph.invoke({"query": "soup"}, context=context)


def test_a_principal_in_the_state_or_the_configuration_counts_for_nothing(office_index):
    graph = build_graph(office_index).compile()
    smuggled = {"query": "soup", "principal": STAFF, "admitted": "yes", "context": {"principal": STAFF}}
    configuration = {"configurable": {"principal": STAFF, "thread_id": "t"}}
    with pytest.raises(AccessDenied):
        graph.invoke(smuggled, configuration)
    result = graph.invoke(smuggled, configuration, context=RetrievalContext(principal=OSLO))["result"]
    assert {hit.document_id.split("/")[0] for hit in result} == {"oslo"}


def test_what_the_stages_hand_on_cannot_be_given(office_index):
    """A caller who puts a scope, candidates or a result into the input changes nothing."""
    graph = build_graph(office_index).compile()
    leaked: list[Any] = []

    class Spy:
        @property
        def rooms(self) -> Any:
            return office_index.rooms

    spying = build_graph(Spy()).compile()
    stolen = spying.invoke({"query": "soup"}, context=RetrievalContext(principal=STAFF))
    leaked += stolen["documents"]
    given = {
        "query": "soup",
        "documents": leaked,
        "result": stolen["result"],
        "found": 1,
        "ranked": 1,
        "recalled": 1,
    }
    outcome = graph.invoke(given, context=RetrievalContext(principal=OSLO))
    assert {document.id.split("/")[0] for document in outcome["documents"]} == {"oslo"}


# ---------------------------------------------------------------- checkpoints


class Parent(TypedDict, total=False):
    question: str
    filter: dict[str, Any]
    answer: str
    documents: list[LangChainDocument]


@pytest.fixture
def index(quick_path: Path, encoder: HashedEncoder) -> Iterator[LateInteractionIndex]:
    with LateInteractionIndex.open(quick_path / "i.lir", access="acl", encoder=encoder) as opened:
        opened.add(
            [
                Document(id=f"d{i}", text=f"Rule {i} about leave.", acl=["group:staff"], metadata={"n": i})
                for i in range(6)
            ]
        )
        yield opened


def stored(saver: InMemorySaver) -> list[Any]:
    """Everything in a saver as Python objects: channel values and pending writes of every checkpoint."""
    found: list[Any] = []
    for item in saver.list(None):
        found += [item.checkpoint["channel_values"], dict(item.metadata), list(item.pending_writes or ())]
    return found


def raw(saver: InMemorySaver) -> bytes:
    return repr((dict(saver.storage), dict(saver.writes), dict(saver.blobs))).encode()


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list | tuple | set):  # a set: which steps a join has seen
        for item in value:
            yield from leaves(item)
    else:
        yield value


def assert_plain(saver: InMemorySaver) -> None:
    for leaf in leaves(stored(saver)):
        assert leaf is None or isinstance(leaf, str | int | float | bool | LangChainDocument), type(leaf)
        assert not isinstance(leaf, np.ndarray | np.generic)


def test_three_turns_with_a_checkpointer_forget_the_filter_of_the_first(index):
    saver = InMemorySaver()
    graph = build_graph(index).compile(checkpointer=saver)
    thread = {"configurable": {"thread_id": "t"}}
    context = RetrievalContext(principal=STAFF)
    first = graph.invoke({"query": "leave", "filter": {"n": 3}, "k": 2, "as_of": 1}, thread, context=context)
    assert [hit.document_id for hit in first["result"]] == ["d3"]
    second = graph.invoke({"query": "rule 5"}, thread, context=context)
    assert len(second["result"]) == 6
    assert told(second["result"]) == told(index.search("rule 5", principal=STAFF))
    third = graph.invoke({"query": "rule 1", "filter": {"n": {"$gte": 4}}}, thread, context=context)
    assert sorted(hit.document_id for hit in third["result"]) == ["d4", "d5"]
    assert [document.id for document in third["documents"]] == [hit.passage_id for hit in third["result"]]
    with pytest.raises(InputError, match="query"):
        graph.invoke({"k": 3}, thread, context=context)


def test_nobody_inherits_a_thread(index):
    """A second principal on the same thread of the same saver gets nothing of the first one's turn."""
    graph = build_graph(index).compile(checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "shared"}}
    assert len(graph.invoke({"query": "leave"}, thread, context=RetrievalContext(STAFF))["documents"]) == 6
    stranger = graph.invoke({"query": "leave"}, thread, context=RetrievalContext(Principal("stranger")))
    assert stranger["documents"] == []
    assert len(stranger["result"]) == 0
    with pytest.raises(AccessDenied):
        graph.invoke({"query": "leave"}, thread)


def test_no_array_no_scope_and_no_principal_reaches_a_checkpoint(index):
    saver = InMemorySaver()
    graph = build_graph(index).compile(checkpointer=saver)
    context = RetrievalContext(Principal("sam-the-secret-agent", groups=["group:staff", "group:zirconium"]))
    for query in ("leave", "rule 2"):
        graph.invoke(
            {"query": query, "filter": {"n": {"$lt": 5}}}, {"configurable": {"thread_id": "t"}}, context=context
        )
    assert stored(saver)
    assert_plain(saver)
    for secret in (b"secret-agent", b"zirconium", b"numpy", b"AccessScope", b"Candidates"):
        assert secret not in raw(saver)


def test_checkpoints_are_safe_under_strict_msgpack(index, monkeypatch):
    monkeypatch.setenv("LANGGRAPH_STRICT_MSGPACK", "true")
    saver = InMemorySaver(serde=JsonPlusSerializer(pickle_fallback=False, allowed_msgpack_modules=None))
    graph = build_graph(index).compile(checkpointer=saver)
    thread = {"configurable": {"thread_id": "t"}}
    for query in ("leave", "rule 2", "rule 3"):
        outcome = graph.invoke({"query": query}, thread, context=RetrievalContext(STAFF))
    kept = graph.get_state(thread).values
    assert [document.id for document in kept["documents"]] == [hit.passage_id for hit in outcome["result"]]
    assert all(isinstance(document, LangChainDocument) for document in kept["documents"])
    assert_plain(saver)


@pytest.mark.parametrize("as_node", [True, False], ids=["as a node", "called within a node"])
async def test_as_part_of_somebodys_graph_nothing_leaks_between_turns(index, as_node):
    saver = InMemorySaver()
    inner = build_graph(index).compile() if as_node else None

    class State(TypedDict, total=False):
        query: str
        filter: dict[str, Any]
        documents: list[LangChainDocument]

    def look(state: State) -> dict[str, Any]:
        result = index.search(state["query"], filter=state.get("filter"), principal=STAFF)
        return {"documents": [LangChainDocument(id=hit.passage_id, page_content=hit.text) for hit in result]}

    outer = StateGraph(State, context_schema=RetrievalContext)
    outer.add_node("search", inner or look)
    outer.add_edge(START, "search")
    outer.add_edge("search", END)
    agent = outer.compile(checkpointer=saver)
    thread = {"configurable": {"thread_id": "t"}}
    context = RetrievalContext(STAFF)
    first = agent.invoke({"query": "leave", "filter": {"n": 3}}, thread, context=context)
    assert [document.id for document in first["documents"]] == ["d3#1.0"]
    # The filter is the outer graph's own state: it stays until the outer graph changes it, and only there.
    second = await agent.ainvoke({"query": "rule 5", "filter": {}}, thread, context=context)
    assert len(second["documents"]) == 6
    third = agent.invoke({"query": "rule 1", "filter": {"n": 1}}, thread, context=context)
    assert [document.id for document in third["documents"]] == ["d1#1.0"]
    assert_plain(saver)
    for secret in (b"numpy", b"AccessScope", b"group:staff"):
        assert secret not in raw(saver)


def test_a_parent_without_a_context_is_refused(index):
    outer = StateGraph(Parent)
    inner = build_graph(index).compile()
    outer.add_node("ask", lambda state: {"documents": inner.invoke({"query": state["question"]})["documents"]})
    outer.add_edge(START, "ask")
    outer.add_edge("ask", END)
    agent = outer.compile(checkpointer=InMemorySaver())
    with pytest.raises(AccessDenied):
        agent.invoke({"question": "leave"}, {"configurable": {"thread_id": "t"}})


def test_a_document_cannot_pose_as_the_ranking(quick_path, encoder):
    """Metadata named like ours does not replace what the ranking says of a hit."""
    with LateInteractionIndex.open(quick_path / "i.lir", encoder=encoder) as index:
        fake = {"lir.score": 99.0, "lir": "forged", "score": 99.0, "document_id": "other", "source": "elsewhere"}
        index.add([Document(id="d", text="A rule.", metadata=fake), Document(id="e", text="B rule.")])
        graph = build_graph(index).compile()
        documents = graph.invoke({"query": "rule"})["documents"]
        about = next(document.metadata["lir"] for document in documents if document.id == "d#1.0")
        assert about["document_id"] == "d"
        assert about["score"] < 99
