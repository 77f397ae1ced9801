"""Retrieval inside somebody's own graph: as a node, under a server, checkpointed; and who asks there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, MessagesState, StateGraph

from lir_agents import AccessDenied, InputError, LateInteractionIndex, Principal, ToolBinding, Turn
from lir_agents.graph import RetrievalContext, build_graph, retrieval_node
from lir_agents.langchain import LateInteractionRetriever, LateInteractionSearchTool
from tests.doors import ALICE, BOB, QUERIES, documents, readers
from tests.hashed_encoder import HashedEncoder

pytestmark = [
    pytest.mark.filterwarnings("error::DeprecationWarning:lir_agents"),
    pytest.mark.filterwarnings("error::DeprecationWarning:langgraph"),
]


class State(TypedDict, total=False):
    query: str
    documents: list[Document]


class Talk(MessagesState):
    documents: list[Document]


@dataclass
class Asked:
    question: str
    found: list[Document] = field(default_factory=list)


def around(node: Any, schema: Any = State, *, context: Any = RetrievalContext, saver: Any = None) -> Any:
    graph: Any = StateGraph(schema, context_schema=context)
    graph.add_node("retrieve", node)
    graph.add_edge(START, "retrieve")
    graph.add_edge("retrieve", END)
    return graph.compile(checkpointer=saver)


async def ask(graph: Any, mode: str, given: Any, **how: Any) -> Any:
    return graph.invoke(given, **how) if mode == "sync" else await graph.ainvoke(given, **how)


def names(found: list[Document]) -> list[str | None]:
    return [one.id for one in found]


def expected(index: LateInteractionIndex, query: str, **how: Any) -> list[str]:
    return [hit.passage_id for hit in index.search(query, **how)]


both = pytest.mark.parametrize("mode", ["sync", "async"])


@both
@pytest.mark.parametrize("schema", [RetrievalContext, None])
async def test_the_node_finds_what_a_search_finds(acl_index: LateInteractionIndex, mode: str, schema: Any) -> None:
    graph = around(retrieval_node(acl_index, k=5, filter={"parity": "even"}), context=schema)
    for who in (ALICE, BOB):
        context: Any = (
            RetrievalContext(who) if schema else {"principal": {"id": who.id, "groups": list(who.groups)}}
        )
        output = await ask(graph, mode, {"query": QUERIES[0]}, context=context)
        assert names(output["documents"]) == expected(
            acl_index, QUERIES[0], k=5, principal=who, filter={"parity": "even"}
        )
    with pytest.raises(AccessDenied):
        await ask(graph, mode, {"query": QUERIES[0]})


@both
async def test_states_of_other_shapes(open_index: LateInteractionIndex, mode: str) -> None:
    renamed = around(retrieval_node(open_index, k=3, query="question", output="found"), Asked)
    output = await ask(renamed, mode, Asked(QUERIES[1]))
    assert names(output["found"]) == expected(open_index, QUERIES[1], k=3)
    made = around(retrieval_node(open_index, k=3, query=lambda state: state["messages"][0].text + "!"), Talk)
    output = await ask(made, mode, {"messages": [HumanMessage(QUERIES[2])]})
    assert names(output["documents"]) == expected(open_index, QUERIES[2] + "!", k=3)
    with pytest.raises(InputError, match="query: is not in the state"):
        await ask(around(retrieval_node(open_index)), mode, {"documents": []})


@both
async def test_what_was_said_before_steers_the_search(quick_path: Path, encoder: HashedEncoder, mode: str) -> None:
    talk = [HumanMessage(QUERIES[3]), AIMessage("Which server, and which version?"), HumanMessage("of the table")]
    with LateInteractionIndex.open(quick_path / "i.lir", encoder=encoder) as index:
        index.add(documents())
        graph = around(retrieval_node(index, k=10), Talk)
        output = await ask(graph, mode, {"messages": talk})
        history = [Turn("user", QUERIES[3]), Turn("assistant", "Which server, and which version?")]
        told = index.search("of the table", k=10, history=history)
        assert [one.metadata["lir"]["score"] for one in output["documents"]] == [hit.score for hit in told]
        assert [hit.score for hit in told] != [hit.score for hit in index.search("of the table", k=10)]
        # with a conversation named, its memory is what was said, and nothing is told twice
        await ask(graph, mode, {"messages": talk}, context=RetrievalContext(thread_id="t1"))
        assert "of the table" in str(index.memory.recall(None, "t1", set))


TALK = [HumanMessage(QUERIES[3]), AIMessage("Which server, and which version?")]
TOLD = [Turn("user", QUERIES[3]), Turn("assistant", "Which server, and which version?")]
ASKING = AIMessage("Let me look.", tool_calls=[{"name": "clock", "args": {}, "id": "c", "type": "tool_call"}])
AS_DICTS = [{"role": "user", "content": TOLD[0].text}, {"role": "assistant", "content": TOLD[1].text}]


class Loose(TypedDict, total=False):
    """Messages as the caller wrote them: no reducer makes LangChain's of them."""

    query: str
    messages: Any
    documents: list[Document]


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        pytest.param(TALK, TOLD, id="earlier turns"),
        pytest.param([*TALK, HumanMessage("of the table")], TOLD, id="with the question"),
        pytest.param([*TALK, HumanMessage("And that one?")], TOLD, id="with the question in other words"),
        pytest.param([*TALK, HumanMessage("And that one?"), ASKING], TOLD, id="the question, and a call for tools"),
        pytest.param(
            [*TALK, HumanMessage("of the table"), AIMessage("22, I think.")], TOLD, id="the question, and a draft"
        ),
        pytest.param([HumanMessage(QUERIES[3]), ASKING], [], id="a call for tools is no answer"),
        pytest.param([HumanMessage(QUERIES[3])], [], id="nothing was answered"),
        pytest.param(
            [AIMessage("Ask me about servers.")], [Turn("assistant", "Ask me about servers.")], id="greeted"
        ),
        pytest.param([TALK[0], AIMessageChunk(TOLD[1].text)], TOLD, id="streamed"),
        pytest.param(AS_DICTS, TOLD, id="dicts"),
        pytest.param(
            [AS_DICTS[0], TALK[1], {"role": "user", "content": "of the table"}], TOLD, id="dicts among them"
        ),
        pytest.param([("user", TOLD[0].text), ("ai", TOLD[1].text)], TOLD, id="pairs"),
    ],
)
@pytest.mark.parametrize("asked_by", ["key", "callable"])
def test_a_question_of_its_own_stands_in_the_light_of_the_messages(
    open_index: LateInteractionIndex, messages: list[Any], told: list[Turn], asked_by: str
) -> None:
    query: Any = "query" if asked_by == "key" else lambda state: "of the table"
    graph = around(retrieval_node(open_index, k=10, query=query), Loose)
    found = graph.invoke({"query": "of the table", "messages": messages})["documents"]
    alike = open_index.search("of the table", k=10, history=told)
    assert [one.metadata["lir"]["breakdown"] for one in found] == [dict(hit.breakdown) for hit in alike]


def test_what_is_no_message_is_refused(open_index: LateInteractionIndex) -> None:
    graph = around(retrieval_node(open_index), Loose)
    fine = HumanMessage("of the table")
    for at, wrong in (
        (0, [{"text": "of the table"}]),
        (0, [7]),
        (0, 7),
        (1, [fine, {"role": "user"}]),
        (1, (fine, 7)),
    ):
        with pytest.raises(InputError, match=rf"messages\[{at}\]: is no message"):
            graph.invoke({"query": "of the table", "messages": wrong})
    for one in ("of the table", {"role": "user", "content": "of the table"}, HumanMessage("of the table")):
        assert names(graph.invoke({"messages": one})["documents"]) == expected(open_index, "of the table")


@both
async def test_tools_that_the_model_asked_for_run_in_the_node(
    quick_path: Path, encoder: HashedEncoder, mode: str
) -> None:
    @tool
    def parity() -> dict[str, str]:
        """Whether even or odd notes are meant."""
        return {"kind": "odd"}

    asked = AIMessage("", tool_calls=[{"name": "parity", "args": {}, "id": "c", "type": "tool_call"}])
    bindings = [ToolBinding("parity", "kind", "parity", "require")]
    with LateInteractionIndex.open(quick_path / "i.lir", encoder=encoder, bindings=bindings) as index:
        index.add(documents())
        graph = around(retrieval_node(index, k=10, tools=[parity]), Talk)
        output = await ask(graph, mode, {"messages": [HumanMessage(QUERIES[0]), asked]})
        assert {one.metadata["parity"] for one in output["documents"]} == {"odd"}


@both
async def test_checkpoints_hold_documents_and_no_principal(acl_index: LateInteractionIndex, mode: str) -> None:
    saver = InMemorySaver(serde=JsonPlusSerializer(pickle_fallback=False))
    graph = around(retrieval_node(acl_index, k=3), saver=saver)
    config = {"configurable": {"thread_id": "shared"}}
    for turn, query in enumerate(QUERIES[:3]):
        who = (ALICE, BOB)[turn % 2]
        output = await ask(graph, mode, {"query": query}, config=config, context=RetrievalContext(who))
        assert names(output["documents"]) == expected(acl_index, query, k=3, principal=who)
    held = str(list(saver.list(None)))
    assert QUERIES[0] in held
    assert "group:" not in held
    assert "SearchResult" not in held


# ---------------------------------------------------------------- who asks, on a server


@dataclass(frozen=True)
class User:
    """As LangGraph's server hands it over."""

    identity: str = "alice"
    is_authenticated: Any = True
    permissions: tuple[str, ...] = ("group:staff", "group:board")
    display_name: str = "Alice"


ALICES = {number for number in range(50) if "group:staff" in readers(number)}


def doors(index: LateInteractionIndex) -> Mapping[str, Any]:
    """Every way to ask from inside a graph, as a node."""
    retriever = LateInteractionRetriever(index=index, k=50)
    search = LateInteractionSearchTool(index=index, k=50)

    def through_retriever(state: State) -> dict[str, Any]:
        return {"documents": retriever.invoke(state["query"])}

    def through_tool(state: State) -> dict[str, Any]:
        call = {"name": search.name, "args": {"query": state["query"]}, "id": "c", "type": "tool_call"}
        return {"documents": search.invoke(call).artifact}

    def through_index(state: State) -> dict[str, Any]:
        return {
            "documents": [Document("", metadata=dict(hit.metadata)) for hit in index.search(state["query"], k=50)]
        }

    return {
        "node": retrieval_node(index, k=50),
        "retriever": through_retriever,
        "tool": through_tool,
        "index": through_index,
    }


def of_server(user: Any) -> Any:
    return {"configurable": {"langgraph_auth_user": user, "assistant_id": "a", "graph_id": "g"}}


ways = pytest.mark.parametrize("way", ["node", "retriever", "tool", "index"])


@ways
@both
async def test_the_authenticated_user_asks(acl_index: LateInteractionIndex, way: str, mode: str) -> None:
    graph = around(doors(acl_index)[way])
    output = await ask(graph, mode, {"query": QUERIES[0]}, config=of_server(User()))
    assert {one.metadata["number"] for one in output["documents"]} == ALICES


async def test_the_retrieval_graph_itself_asks_as_the_authenticated_user(acl_index: LateInteractionIndex) -> None:
    graph: Any = build_graph(acl_index).compile()
    for mode in ("sync", "async"):
        output = await ask(graph, mode, {"query": QUERIES[0], "k": 50}, config=of_server(User()))
        assert {one.metadata["number"] for one in output["documents"]} == ALICES
    assert graph.invoke({"query": QUERIES[0]}, config=of_server(User()))["result"].event_id


@ways
@pytest.mark.parametrize(
    "user",
    [
        User(is_authenticated=False),
        User(is_authenticated=None),
        User(is_authenticated="yes"),
        User(identity=""),
        User(identity=7),  # type: ignore[arg-type]
        None,
    ],
)
def test_whoever_is_not_authenticated_is_nobody(acl_index: LateInteractionIndex, way: str, user: Any) -> None:
    with pytest.raises(AccessDenied):
        around(doors(acl_index)[way]).invoke({"query": QUERIES[0]}, config=of_server(user))


@pytest.mark.parametrize(
    "claimed",
    [
        {"id": "bob", "groups": ["group:guests"]},
        {"id": "alice", "groups": ["group:staff", "group:guests"]},
        {"id": "alice", "tenant": "other"},
        {"id": "alice", "attributes": {"clearance": "all"}},
    ],
)
@pytest.mark.parametrize("way", ["node", "retriever", "tool"])
def test_a_client_of_a_server_names_nobody_but_itself(
    acl_index: LateInteractionIndex, way: str, claimed: dict[str, Any]
) -> None:
    """On a server, the context is what a client sent."""
    for schema in (RetrievalContext, None):
        graph = around(doors(acl_index)[way], context=schema)
        with pytest.raises(AccessDenied, match="other than the user"):
            graph.invoke({"query": QUERIES[0]}, config=of_server(User()), context={"principal": claimed})
        refusal = list(acl_index.audit.events(limit=1_000_000))[-1]
        assert (refusal.kind, refusal.principal_id) == ("decision", User().identity)
        assert repr(claimed["id"]) in refusal.payload["decision"]["reason"]


def test_a_client_may_ask_with_fewer_groups_than_it_has(acl_index: LateInteractionIndex) -> None:
    graph = around(retrieval_node(acl_index, k=50))
    alone = {"principal": {"id": "alice", "groups": ["group:board"]}}
    assert graph.invoke({"query": QUERIES[0]}, config=of_server(User()), context=alone)["documents"] == []
    less = {"principal": {"id": "alice", "groups": ["group:staff"]}}
    output = graph.invoke({"query": QUERIES[0]}, config=of_server(User()), context=less)
    assert {one.metadata["number"] for one in output["documents"]} == ALICES


def test_the_program_on_a_server_may_say_who_asks(acl_index: LateInteractionIndex) -> None:
    """For instance with the groups that a directory knows of the authenticated user."""
    known = RetrievalContext(Principal("alice", groups=["group:staff"], tenant="here"))
    output = around(retrieval_node(acl_index, k=50)).invoke(
        {"query": QUERIES[0]}, config=of_server(User(permissions=())), context=known
    )
    assert {one.metadata["number"] for one in output["documents"]} == ALICES


def test_a_principal_of_the_wrong_shape_is_refused(acl_index: LateInteractionIndex) -> None:
    for wrong in ("alice", 7, ["alice"], {"name": "alice"}):
        with pytest.raises(InputError, match="principal"):
            around(retrieval_node(acl_index)).invoke({"query": QUERIES[0]}, context={"principal": wrong})


def test_importing_the_graph_is_light() -> None:
    code = """
import sys, lir_agents.graph
assert not {"langgraph", "langchain_core", "torch", "llama_index"} & set(sys.modules)
from lir_agents.graph import RetrievalContext, build_graph, retrieval_node
assert set(dir(lir_agents.graph)) == set(lir_agents.graph.__all__)
assert not {"llama_index", "langchain", "lir_agents.langchain"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
