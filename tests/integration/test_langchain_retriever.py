"""`LateInteractionRetriever` in LangChain: its standard tests, with access off and on, and what they leave out."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from pathlib import Path
from typing import Any, cast

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_tests.integration_tests import RetrieversIntegrationTests
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import ServerInfo
from pydantic import ValidationError
from typing_extensions import TypedDict

from lir_agents import AccessDenied, BudgetExceeded, InputError, LateInteractionIndex, Principal
from lir_agents.graph.build import build_graph
from lir_agents.graph.context import RetrievalContext
from lir_agents.langchain import LateInteractionRetriever, LateInteractionSearchTool
from lir_agents.langchain.caller import caller
from tests.doors import ALICE, BOB, QUERIES, readers
from tests.hashed_encoder import HashedEncoder

pytestmark = [
    pytest.mark.filterwarnings("error::DeprecationWarning"),
    pytest.mark.filterwarnings("error::PendingDeprecationWarning"),
]


class TestStandard(RetrieversIntegrationTests):
    """LangChain's own suite, nothing expected to fail."""

    @pytest.fixture(autouse=True)
    def _with_index(self, either_index: LateInteractionIndex) -> None:
        self.index = either_index

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return LateInteractionRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"index": self.index, "k": 2, "principal": ALICE}

    @property
    def retriever_query_example(self) -> str:
        return QUERIES[0]


def test_documents_carry_what_a_citation_needs(open_index: LateInteractionIndex) -> None:
    (document, *_) = LateInteractionRetriever(index=open_index, k=3).invoke(QUERIES[0])
    known = document.metadata["lir"]
    stored = open_index.get(known["document_id"])
    assert stored is not None
    assert document.id
    assert document.id.startswith(known["document_id"])
    assert document.page_content in stored.text
    assert sum(known["breakdown"].values()) == pytest.approx(known["score"])
    assert (known["rank"], known["version"]) == (1, 1)
    assert open_index.audit.get(known["event_id"])
    assert document.metadata["title"].startswith("Note")


def test_each_call_may_narrow_the_search(open_index: LateInteractionIndex) -> None:
    retriever = LateInteractionRetriever(index=open_index, k=20, filter={"parity": "odd"})
    assert {found.metadata["parity"] for found in retriever.invoke(QUERIES[1])} == {"odd"}
    assert {found.metadata["parity"] for found in retriever.invoke(QUERIES[1], filter={"parity": "even"})} == {
        "even"
    }


async def test_as_principal_binds_a_copy(acl_index: LateInteractionIndex) -> None:
    shared = LateInteractionRetriever(index=acl_index, k=50)
    alices, bobs = shared.as_principal(ALICE), shared.as_principal(BOB)
    assert shared.principal is None
    for retriever, grant in ((alices, "group:staff"), (bobs, "group:guests")):
        seen = {found.metadata["number"] for found in await retriever.ainvoke(QUERIES[0])}
        assert seen == {number for number in range(50) if grant in readers(number)}
    with pytest.raises(AccessDenied):
        shared.invoke(QUERIES[0])
    with pytest.raises(AccessDenied):
        await shared.ainvoke(QUERIES[0])


async def test_batches_keep_their_order(open_index: LateInteractionIndex) -> None:
    retriever = LateInteractionRetriever(index=open_index, k=3)
    one_by_one = [[found.id for found in retriever.invoke(query)] for query in QUERIES]
    assert [[found.id for found in batch] for batch in retriever.batch(list(QUERIES))] == one_by_one
    assert [[found.id for found in batch] for batch in await retriever.abatch(list(QUERIES))] == one_by_one


class Runs(BaseCallbackHandler):
    """Every run that LangChain reports: its name by id, and its parent."""

    def __init__(self) -> None:
        self.names: dict[Any, str] = {}
        self.parents: dict[Any, Any] = {}
        self.seen: dict[str, Any] = {}

    def on_chain_start(self, serialized: Any, inputs: Any, *, run_id: Any, parent_run_id: Any, **more: Any) -> None:
        self.names[run_id], self.parents[run_id] = more.get("name", ""), parent_run_id

    def on_retriever_start(
        self, serialized: Any, query: str, *, run_id: Any, parent_run_id: Any, **more: Any
    ) -> None:
        self.names[run_id], self.parents[run_id] = "retriever", parent_run_id
        self.seen = {"tags": more.get("tags"), "metadata": more.get("metadata")}

    def ancestors(self, name: str) -> list[str]:
        (run, *_) = [run for run, known in self.names.items() if known == name]
        names = []
        while (run := self.parents.get(run)) is not None:
            names.append(self.names[run])
        return names


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_the_steps_of_a_search_nest_under_the_retriever(open_index: LateInteractionIndex, mode: str) -> None:
    runs = Runs()
    retriever = LateInteractionRetriever(index=open_index, k=2, tags=["mine"], metadata={"team": "hr"})
    chain = RunnableLambda(lambda question: question).with_config(run_name="ask") | retriever
    config: Any = {"callbacks": [runs], "run_name": "chain"}
    if mode == "sync":
        chain.invoke(QUERIES[0], config)
    else:
        await chain.ainvoke(QUERIES[0], config)
    assert runs.ancestors("rerank")[-2:] == ["retriever", "chain"]
    assert "mine" in runs.seen["tags"]
    assert runs.seen["metadata"]["team"] == "hr"
    assert runs.seen["metadata"]["ls_retriever_name"] == "lateinteraction"
    assert runs.seen["metadata"]["ls_embedding_model"] == open_index.rooms.encoder.name


class Asked(TypedDict):
    found: list[str]


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_an_unbound_retriever_asks_as_the_principal_of_the_graph_around(
    acl_index: LateInteractionIndex, mode: str
) -> None:
    retriever = LateInteractionRetriever(index=acl_index, k=50)

    def node(state: Asked) -> Asked:
        return {"found": [found.metadata["lir"]["document_id"] for found in retriever.invoke(QUERIES[0])]}

    async def anode(state: Asked) -> Asked:
        return {"found": [found.metadata["lir"]["document_id"] for found in await retriever.ainvoke(QUERIES[0])]}

    builder = StateGraph(Asked, context_schema=RetrievalContext)
    builder.add_node("ask", node if mode == "sync" else anode)
    builder.add_edge(START, "ask")
    builder.add_edge("ask", END)
    graph = builder.compile()
    for principal, grant in ((ALICE, "group:staff"), (BOB, "group:guests")):
        context = RetrievalContext(principal)
        output = await graph.ainvoke({"found": []}, context=context)
        assert set(output["found"]) == {f"doc/{number}" for number in range(50) if grant in readers(number)}
    with pytest.raises(AccessDenied):
        await graph.ainvoke({"found": []})


def test_a_door_bound_to_another_principal_than_the_runs_is_refused_and_recorded(
    acl_index: LateInteractionIndex,
) -> None:
    @dataclasses.dataclass
    class Run:
        context: Any = None
        server_info: Any = None

    assert caller(acl_index, ALICE, None, Run(RetrievalContext(ALICE, "t1"))) == RetrievalContext(ALICE, "t1")
    assert caller(acl_index, ALICE, "mine", Run({"thread_id": "t1"})) == RetrievalContext(ALICE, "mine")
    assert caller(acl_index, ALICE, None, Run({"thread_id": "t1"}), otherwise="mine").thread_id == "t1"
    assert caller(acl_index, ALICE, None, Run(), otherwise="mine").thread_id == "mine"
    shuffled = dataclasses.replace(ALICE, groups=list(ALICE.groups)[::-1] * 2)
    assert caller(acl_index, ALICE, None, Run(RetrievalContext(shuffled))).principal == ALICE
    plain: Any = {"id": ALICE.id, "groups": list(ALICE.groups)}
    assert caller(acl_index, plain, None, Run(RetrievalContext(ALICE))).principal == ALICE
    with pytest.raises(InputError, match="principal"):
        caller(acl_index, cast("Any", {"groups": []}), None, Run(RetrievalContext(ALICE)))
    with pytest.raises(AccessDenied, match="another's"):
        caller(acl_index, ALICE, None, Run(RetrievalContext(BOB)))
    refusal = list(acl_index.audit.events(limit=1_000_000))[-1]
    assert (refusal.kind, refusal.principal_id) == ("decision", "bob")
    assert refusal.payload["decision"]["allowed"] is False
    assert "'alice' is bound" in refusal.payload["decision"]["reason"]

    @dataclasses.dataclass
    class User:
        identity: str = "alice"
        is_authenticated: bool = True
        permissions: tuple[str, ...] = ("group:staff",)

    server: Any = ServerInfo(assistant_id="a", graph_id="g", user=User())  # type: ignore[arg-type]
    assert caller(acl_index, None, None, Run(server_info=server)).principal == ALICE
    with pytest.raises(AccessDenied):
        caller(acl_index, BOB, None, Run(server_info=server))
    unknown: Any = ServerInfo(assistant_id="a", graph_id="g", user=User(is_authenticated=False))  # type: ignore[arg-type]
    assert caller(acl_index, None, None, Run(server_info=unknown)).principal is None


def test_tracers_hear_of_a_closed_index(tmp_path: Path) -> None:
    index = LateInteractionIndex.open(tmp_path / "i.lir", encoder=HashedEncoder())
    index.close()
    runs = Runs()
    with pytest.raises(InputError, match="closed"):
        LateInteractionRetriever(index=index).invoke("rule", {"callbacks": [runs]})
    assert list(runs.names.values()) == ["retriever"]


def test_a_copy_goes_on_through_the_same_index(open_index: LateInteractionIndex) -> None:
    for door in (LateInteractionRetriever(index=open_index, k=2), LateInteractionSearchTool(index=open_index)):
        twin = copy.deepcopy(door)
        assert twin is not door
        assert twin.index is open_index
        with pytest.raises(TypeError, match="open it in the process"):
            pickle.dumps(door)
    with pytest.raises(ValidationError, match="filters"):
        LateInteractionSearchTool(index=open_index, filters={"region": "eu"})  # type: ignore[call-arg]


def test_what_is_wrong_is_named(open_index: LateInteractionIndex) -> None:
    with pytest.raises(ValidationError, match="k"):
        LateInteractionRetriever(index=open_index, k=0)
    with pytest.raises(ValidationError, match="top_k"):
        LateInteractionRetriever(index=open_index, top_k=3)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="index"):
        LateInteractionRetriever(index="handbook.lir")  # type: ignore[arg-type]
    retriever = LateInteractionRetriever(index=open_index)
    with pytest.raises(InputError, match="query"):
        retriever.invoke("   ")
    with pytest.raises(InputError, match="k"):
        retriever.invoke(QUERIES[0], k=-1)
    with pytest.raises(TypeError, match="top_k"):
        retriever.invoke(QUERIES[0], top_k=3)


def test_a_budget_is_kept(open_index: LateInteractionIndex) -> None:
    with pytest.raises(BudgetExceeded):
        LateInteractionRetriever(index=open_index, budget_ms=0.001).invoke("leave")
    retriever = LateInteractionRetriever(index=open_index)
    with pytest.raises(BudgetExceeded):
        retriever.invoke("leave", budget_ms=0.001)
    with pytest.raises(ValidationError, match="budget_ms"):
        LateInteractionRetriever(index=open_index, budget_ms=0)
    assert retriever.invoke("leave", budget_ms=60_000)


def test_a_principal_may_be_plain_data(open_index: LateInteractionIndex) -> None:
    given: Any = {"id": "alice", "groups": ["group:staff"]}
    assert LateInteractionRetriever(index=open_index, principal=given).principal == Principal(
        "alice", groups=["group:staff"]
    )


class Talk(TypedDict):
    query: str
    found: list[str]
    documents: list[Document]


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_three_turns_under_a_checkpointer(acl_index: LateInteractionIndex, mode: str) -> None:
    """A retriever in a node, and the retrieval graph as a subgraph, in an agent that is checkpointed."""
    retriever = LateInteractionRetriever(index=acl_index, k=3)

    def node(state: Talk) -> dict[str, Any]:
        return {"found": [str(found.id) for found in retriever.invoke(state["query"])]}

    async def anode(state: Talk) -> dict[str, Any]:
        return {"found": [str(found.id) for found in await retriever.ainvoke(state["query"])]}

    builder = StateGraph(Talk, context_schema=RetrievalContext)
    builder.add_node("ask", node if mode == "sync" else anode)
    builder.add_node("retrieve", build_graph(acl_index).compile(checkpointer=False))
    builder.add_edge(START, "ask")
    builder.add_edge("ask", "retrieve")
    builder.add_edge("retrieve", END)
    saver = InMemorySaver(serde=JsonPlusSerializer(pickle_fallback=False))
    graph = builder.compile(checkpointer=saver)
    for turn, query in enumerate(QUERIES[:3]):
        who = (ALICE, BOB)[turn % 2]
        config: Any = {"configurable": {"thread_id": "shared"}}
        output = await graph.ainvoke({"query": query}, config, context=RetrievalContext(who))
        expected = [hit.passage_id for hit in acl_index.search(query, k=10, principal=who)]
        assert output["found"] == expected[:3]
        assert [document.id for document in output["documents"]] == expected
    checkpoints = list(saver.list(None))
    assert QUERIES[0] in str(checkpoints)
    assert "group:" not in str(checkpoints), "principals are in no checkpoint"
