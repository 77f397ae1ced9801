"""The graph at run time: contexts, every way of running it with memory and tools, and life inside an agent."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypedDict
from unittest.mock import Mock

import pytest
from langchain_core.documents import Document as LangChainDocument
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph

from lir_agents import Document, LateInteractionIndex, Principal, ToolBinding, ToolSignal, Turn
from lir_agents.errors import AccessDenied, InputError, StoreError
from lir_agents.graph.build import build_graph
from lir_agents.graph.context import RetrievalContext
from lir_agents.types import SearchResult
from tests.hashed_encoder import HashedEncoder

STAFF = Principal("sam", groups=["group:staff"], tenant="acme")
OTHER = Principal("eve", groups=["group:staff"], tenant="acme")
SUBJECTS = ("leave", "pension", "bicycles", "visitors", "canteen", "laptops")
CALLS = [{"name": "where", "args": {"asked": "office"}, "id": "1"}]


@tool
def where(asked: str) -> dict[str, Any]:
    """Which office somebody sits in."""
    return {asked: "oslo"}


@pytest.fixture
def index(quick_path: Path, encoder: HashedEncoder) -> Iterator[LateInteractionIndex]:
    with LateInteractionIndex.open(
        quick_path / "i.lir", access="acl", encoder=encoder, bindings=[ToolBinding("where", "office", "office")]
    ) as opened:
        opened.add(
            Document(
                id=f"{office}/{subject}",
                text=f"The rule about {subject}, as the office decided.",
                acl=["group:staff", f"office:{office}"],
                metadata={"office": office},
            )
            for office in ("oslo", "lisbon", "zurich")
            for subject in SUBJECTS
        )
        yield opened


def told(result: SearchResult) -> list[Any]:
    return [(hit.passage_id, hit.score, dict(hit.breakdown)) for hit in result]


# ---------------------------------------------------------------- who asks

GIVEN = {"id": "sam", "groups": ["group:staff"], "tenant": "acme", "attributes": {"level": 3}, "unknown": "ignored"}


@pytest.mark.parametrize(
    "context",
    [
        RetrievalContext(STAFF, "t"),
        {"principal": STAFF, "thread_id": "t"},
        {"principal": GIVEN, "thread_id": "t"},
        SimpleNamespace(principal=STAFF, thread_id="t", db="foreign"),
        SimpleNamespace(principal=GIVEN, thread_id="t"),
    ],
    ids=["own", "dict", "plain dict", "foreign object", "foreign object, plain principal"],
)
def test_a_context_is_read_from_whatever_carries_it(index, context):
    graph = build_graph(index).compile()
    result = graph.invoke({"query": "leave"}, context=context)["result"]
    assert told(result) == told(index.search("leave", principal=STAFF))
    assert [entry.text for entry in index.memory.recall(STAFF, "t", set)] == ["leave"]


@pytest.mark.parametrize(
    "context", [None, {}, {"thread_id": "t"}, SimpleNamespace(user=STAFF), "sam", 7, [STAFF], STAFF]
)
def test_a_context_without_a_principal_is_refused_and_remembers_nothing(index, context):
    with pytest.raises(AccessDenied):
        build_graph(index).compile().invoke({"query": "leave"}, context=context)
    assert index.audit.events(kind="decision")[-1].payload["decision"]["allowed"] is False


@pytest.mark.parametrize(
    ("context", "field"),
    [
        ({"principal": "sam"}, "principal"),
        ({"principal": {"id": 7}}, "principal"),
        ({"principal": {"id": ""}}, "principal"),
        ({"principal": {"id": "sam", "groups": "staff"}}, "groups"),
        ({"principal": STAFF, "thread_id": ""}, "thread_id"),
        ({"principal": STAFF, "thread_id": 7}, "thread_id"),
        ({"principal": STAFF, "budget_ms": -1}, "budget_ms"),
        ({"principal": STAFF, "budget_ms": True}, "budget_ms"),
    ],
)
def test_a_context_of_the_wrong_type_is_refused_by_its_field(index, context, field):
    with pytest.raises(InputError, match=field):
        build_graph(index).compile().invoke({"query": "leave"}, context=context)


def test_schemas_show_what_goes_in_and_what_comes_out(index):
    graph = build_graph(index).compile()
    inner = {"admitted", "recalled", "signals", "found", "ranked"}
    assert inner.isdisjoint(graph.get_input_jsonschema()["properties"])
    assert set(graph.get_output_jsonschema()["properties"]) == {"documents", "result"}
    assert set(graph.invoke({"query": "leave"}, context={"principal": STAFF})) == {"documents", "result"}


# ---------------------------------------------------------------- every way of running it


async def test_every_way_gives_the_same_with_memory_and_tools(index):
    graph = build_graph(index, tools=[where]).compile()
    said = [Turn("user", "rules about bicycles?"), Turn("assistant", "they stand behind the house")]

    def run(name: str) -> tuple[dict[str, Any], RetrievalContext]:
        index.memory.remember(STAFF, name, said)
        return {"query": "and visitors?", "tool_calls": CALLS, "k": 6}, RetrievalContext(STAFF, name)

    outcomes = []
    given, context = run("invoke")
    outcomes.append(graph.invoke(given, context=context))
    given, context = run("ainvoke")
    outcomes.append(await graph.ainvoke(given, context=context))
    given, context = run("stream")
    outcomes.append(list(graph.stream(given, context=context, stream_mode="values"))[-1])
    given, context = run("astream")
    outcomes.append([part async for part in graph.astream(given, context=context, stream_mode="values")][-1])
    first = told(outcomes[0]["result"])
    assert {"context", "tool:where"} <= set(first[0][2])
    assert first[0][0].startswith("oslo/")
    for outcome in outcomes:
        assert told(outcome["result"]) == first
        assert [document.id for document in outcome["documents"]] == [name for name, *_ in first]
    for name in ("invoke", "ainvoke", "stream", "astream"):
        kinds = [entry.kind for entry in index.memory.recall(STAFF, name, set)]
        assert kinds == ["user", "assistant", "tool", "user"]


async def test_every_stage_tells_when_it_is_done_and_nothing_of_what_it_read(index):
    graph = build_graph(index, tools=[where]).compile()
    given: dict[str, Any] = {"query": "visitors", "tool_calls": CALLS}
    context = RetrievalContext(STAFF, "t")
    parts = list(graph.stream(given, context=context, stream_mode="custom"))
    later = [part async for part in graph.astream(given, context=context, stream_mode="custom")]
    for events in (parts, later):
        stages = [event["stage"] for event in events]
        assert sorted(stages) == ["authorize", "first_stage", "memory", "record", "rerank", "tools"]
        assert stages[0] == "authorize"
        assert stages[3:] == ["first_stage", "rerank", "record"]
        assert all(event["status"] == "ok" and event["elapsed_ms"] >= 0 for event in events)
        assert all(word not in repr(events) for word in ("visitors", "oslo", "sam", "rule"))


def test_timings_and_coverage_name_every_stage(index):
    result = index.search("visitors", principal=STAFF)
    assert set(result.coverage.stages) == {"authorize", "memory", "tools", "first_stage", "rerank", "record"}
    assert set(result.timings_ms) == {*result.coverage.stages, "total"}
    assert result.coverage.stages["memory"].status == "skipped"
    assert result.coverage.full


# ---------------------------------------------------------------- inside an agent


class Agent(TypedDict, total=False):
    query: str
    tool_calls: list[dict[str, Any]]
    documents: list[LangChainDocument]


def agent_of(index: LateInteractionIndex, saver: InMemorySaver | None, inner: Any = None) -> Any:
    outer = StateGraph(Agent, context_schema=RetrievalContext)
    outer.add_node("search", build_graph(index, tools=[where]).compile(checkpointer=inner))
    outer.add_edge(START, "search")
    outer.add_edge("search", END)
    return outer.compile(checkpointer=saver)


@pytest.mark.parametrize("inner", [None, False, True], ids=["inherits", "none", "own"])
@pytest.mark.parametrize("kept", [False, True], ids=["without a checkpointer", "with a checkpointer"])
def test_the_second_turn_of_an_agent_is_that_of_the_index(index, kept, inner):
    saver = InMemorySaver() if kept else None
    agent = agent_of(index, saver, inner if kept or inner is not True else None)
    config = {"configurable": {"thread_id": "c"}}
    alone = build_graph(index, tools=[where]).compile()
    # The agent's own state keeps the calls of the turn before; a turn that asks for none says so.
    turns = [("rules about bicycles?", []), ("and visitors?", CALLS), ("in Zurich?", [])]
    for query, calls in turns:
        given = {"query": query, "tool_calls": calls}
        wanted = alone.invoke(given, context=RetrievalContext(STAFF, "index"))["result"]
        found = agent.invoke(given, config, context=RetrievalContext(STAFF, "agent"))["documents"]
        assert [(one.id, one.metadata["lir"]["score"]) for one in found] == [
            (hit.passage_id, hit.score) for hit in wanted
        ]
        if calls:
            assert found[0].id.startswith("oslo/")


@pytest.mark.parametrize(
    "context", [{"principal": STAFF, "thread_id": "t", "db": 1}, {"user": STAFF}, None], ids=repr
)
def test_a_parent_without_a_schema_hands_over_what_it_was_given(index, context):
    outer = StateGraph(Agent)
    outer.add_node("search", build_graph(index).compile())
    outer.add_edge(START, "search")
    outer.add_edge("search", END)
    agent = outer.compile()
    if context is None or "principal" not in context:
        with pytest.raises(AccessDenied):
            agent.invoke({"query": "leave"}, context=context)
    else:
        documents = agent.invoke({"query": "leave"}, context=context)["documents"]
        assert [one.id for one in documents] == [hit.passage_id for hit in index.search("leave", principal=STAFF)]


_STRICT = """
import sys
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, StateGraph
from pathlib import Path
from lir_agents import Document, LateInteractionIndex, Principal, ToolBinding
from lir_agents.graph.build import build_graph
from lir_agents.graph.context import RetrievalContext
from tests.hashed_encoder import HashedEncoder
from tests.integration.test_graph_runtime import CALLS, Agent, where

saver = InMemorySaver(serde=JsonPlusSerializer(pickle_fallback=False))
sam = Principal("sam-the-secret-agent", groups=["group:zirconium"], tenant="quartz")
bindings = [ToolBinding("where", "office", "office")]
path = Path(sys.argv[1])
with LateInteractionIndex.open(path, access="acl", encoder=HashedEncoder(), bindings=bindings) as index:
    about = {"acl": ["group:zirconium"], "metadata": {"office": "oslo"}}
    index.add([Document(id=f"d{n}", text=f"Rule {n}.", **about) for n in range(5)])
    alone = build_graph(index, tools=[where]).compile(checkpointer=saver)
    outer = StateGraph(Agent, context_schema=RetrievalContext)
    outer.add_node("search", build_graph(index, tools=[where]).compile(checkpointer=True))
    outer.add_edge(START, "search")
    outer.add_edge("search", END)
    agent = outer.compile(checkpointer=saver)
    for name, graph in (("alone", alone), ("agent", agent)):
        for query in ("first", "second", "third"):
            config = {"configurable": {"thread_id": name}}
            context = RetrievalContext(sam, "conversation-of-beryllium")
            graph.invoke({"query": query, "tool_calls": CALLS}, config, context=context)
        documents = graph.get_state(config).values["documents"]
        assert [type(one).__name__ for one in documents] == ["Document"] * 5, documents
kept = repr((dict(saver.storage), dict(saver.writes), dict(saver.blobs)))
assert "documents" in kept
for secret in ("secret-agent", "zirconium", "quartz", "beryllium", "numpy", "lir_agents", "SearchResult", "Staged"):
    assert secret not in kept, secret
print("plain")
"""


def test_nothing_inner_reaches_a_checkpoint_under_strict_msgpack(quick_path):
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:langgraph", "-c", _STRICT, str(quick_path / "i.lir")],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=root,
        env={**os.environ, "LANGGRAPH_STRICT_MSGPACK": "true", "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "plain"
    assert "unregistered" not in done.stderr.lower()
    assert "blocked" not in done.stderr.lower()


@pytest.mark.parametrize("step", ["memory", "tools", "first_stage", "rerank", "record"])
async def test_an_interrupted_search_is_asked_again_and_not_resumed(index, step):
    graph = build_graph(index).compile(checkpointer=InMemorySaver(), interrupt_before=[step])
    config: Any = {"configurable": {"thread_id": "1"}}
    alice = RetrievalContext(Principal("alice", groups=["group:staff"]))
    assert not graph.invoke({"query": "vpn"}, config, context=alice)
    for context in (alice, RetrievalContext()):
        with pytest.raises(InputError, match="invoke it again with the query"):
            graph.invoke(None, config, context=context)
        with pytest.raises(InputError, match="invoke it again with the query"):
            await graph.ainvoke(None, config, context=context)


def test_a_failed_search_is_asked_again_and_not_resumed(index, monkeypatch):
    graph = build_graph(index).compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    alice = RetrievalContext(Principal("alice", groups=["group:staff"]))
    failure = StoreError("no space left", store="audit", operation="append")
    with monkeypatch.context() as patch:
        patch.setattr(type(index.audit), "append_many", Mock(side_effect=failure))
        with pytest.raises(StoreError):
            graph.invoke({"query": "vpn"}, config, context=alice)
    with pytest.raises(InputError, match="nothing of one is kept"):
        graph.invoke(None, config, context=alice)
    assert graph.invoke({"query": "vpn"}, config, context=alice)["result"].event_id


def test_a_store_of_the_graphs_own_is_used_and_kept_apart(index):
    from langgraph.store.memory import InMemoryStore

    store = InMemoryStore()
    graph = build_graph(index, store=store).compile()
    graph.invoke({"query": "leave"}, context=RetrievalContext(STAFF, "t"))
    assert len(store.search(("lir",))) == 1
    assert index.memory.recall(STAFF, "t", set) == []
    assert [entry.text for entry in index.memory.over(store).recall(STAFF, "t", set)] == ["leave"]


def test_two_runs_of_one_graph_share_nothing(index):
    """A tool signal, a history and a filter of one run are not there in the next."""
    graph = build_graph(index).compile()
    context = RetrievalContext(STAFF)
    plain = told(graph.invoke({"query": "visitors"}, context=context)["result"])
    graph.invoke(
        {
            "query": "visitors",
            "history": [Turn("user", "bicycles")],
            "tool_signals": [ToolSignal("where", {"office": "oslo"})],
            "filter": {"office": "oslo"},
        },
        context=context,
    )
    assert told(graph.invoke({"query": "visitors"}, context=context)["result"]) == plain
