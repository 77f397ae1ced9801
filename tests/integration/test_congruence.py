"""One search, five doors: the same passages in the same order, and nobody sees what is somebody else's."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from lir_agents import LateInteractionIndex, Principal
from lir_agents.graph.build import build_graph
from lir_agents.graph.context import RetrievalContext
from lir_agents.langchain import (
    LateInteractionCompressor,
    LateInteractionMiddleware,
    LateInteractionRetriever,
    LateInteractionSearchTool,
)
from lir_agents.llama_index import LateInteractionRetriever as NodeRetriever
from lir_agents.llama_index import LateInteractionToolSpec
from tests.doors import ALICE, BOB, QUERIES, readers

pytestmark = [
    pytest.mark.filterwarnings("error::DeprecationWarning:lir_agents"),
    pytest.mark.filterwarnings("error::DeprecationWarning:langchain"),
    pytest.mark.filterwarnings("error::DeprecationWarning:langgraph"),
    pytest.mark.filterwarnings("error::DeprecationWarning:llama_index"),
    pytest.mark.filterwarnings("error::PendingDeprecationWarning"),
]

K = 7
CAROL = Principal("carol", groups=["group:staff", "group:guests"])
Found = list[tuple[str, float]]
"""Passage ids and scores, best first."""


def of_documents(documents: Any) -> Found:
    return [(document.id, document.metadata["lir"]["score"]) for document in documents]


def of_nodes(nodes: Any) -> Found:
    return [(one.node_id, one.score) for one in nodes]


class Doors:
    """Every way to ask an index, each object shared by everybody who asks."""

    def __init__(self, index: LateInteractionIndex) -> None:
        self.index = index
        self.graph: Any = build_graph(index).compile()
        self.retriever = LateInteractionRetriever(index=index, k=K)
        self.tool = LateInteractionSearchTool(index=index, k=K)
        self.node_retriever = NodeRetriever(index, k=K)

    def engine(self, query: str, who: Principal | None) -> Found:
        return [(hit.passage_id, hit.score) for hit in self.index.search(query, k=K, principal=who)]

    async def engine_async(self, query: str, who: Principal | None) -> Found:
        return [(hit.passage_id, hit.score) for hit in await self.index.asearch(query, k=K, principal=who)]

    def through_graph(self, query: str, who: Principal | None) -> Found:
        output = self.graph.invoke({"query": query, "k": K}, context=RetrievalContext(who))
        assert of_documents(output["documents"]) == [(hit.passage_id, hit.score) for hit in output["result"]]
        return of_documents(output["documents"])

    async def through_graph_async(self, query: str, who: Principal | None) -> Found:
        output = await self.graph.ainvoke({"query": query, "k": K}, context=RetrievalContext(who))
        return of_documents(output["documents"])

    def retrieve(self, query: str, who: Principal | None) -> Found:
        return of_documents(self.retriever.as_principal(who).invoke(query))

    async def retrieve_async(self, query: str, who: Principal | None) -> Found:
        return of_documents(await self.retriever.as_principal(who).ainvoke(query))

    def retrieve_per_call(self, query: str, who: Principal | None) -> Found:
        return of_documents(self.retriever.invoke(query, principal=who))

    async def retrieve_per_call_async(self, query: str, who: Principal | None) -> Found:
        return of_documents(await self.retriever.ainvoke(query, principal=who))

    def call_tool(self, query: str, who: Principal | None) -> Found:
        return of_documents(self.tool.as_principal(who).invoke(_call(query)).artifact)

    async def call_tool_async(self, query: str, who: Principal | None) -> Found:
        message = await self.tool.as_principal(who).ainvoke(_call(query))
        assert re.findall(r'<passage id="([^"]+)"', message.content) == [found.id for found in message.artifact]
        return of_documents(message.artifact)

    def retrieve_nodes(self, query: str, who: Principal | None) -> Found:
        return of_nodes(self.node_retriever.as_principal(who).retrieve(query))

    async def retrieve_nodes_async(self, query: str, who: Principal | None) -> Found:
        return of_nodes(await self.node_retriever.as_principal(who).aretrieve(query))

    @property
    def sync(self) -> list[Callable[[str, Principal | None], Found]]:
        return [
            self.engine,
            self.through_graph,
            self.retrieve,
            self.retrieve_per_call,
            self.call_tool,
            self.retrieve_nodes,
        ]

    @property
    def asynchronous(self) -> list[Callable[[str, Principal | None], Awaitable[Found]]]:
        return [
            self.engine_async,
            self.through_graph_async,
            self.retrieve_async,
            self.retrieve_per_call_async,
            self.call_tool_async,
            self.retrieve_nodes_async,
        ]


def _call(query: str) -> dict[str, Any]:
    return {"name": "search_documents", "args": {"query": query}, "id": "c", "type": "tool_call"}


@pytest.mark.parametrize("query", QUERIES)
async def test_every_door_gives_the_same(either_index: LateInteractionIndex, query: str) -> None:
    doors = Doors(either_index)
    governed = either_index.rooms.policy.name == "acl"
    for who in (ALICE, BOB, CAROL) if governed else (None, ALICE):
        expected = doors.engine(query, who)
        assert len(expected) == K
        for ask in doors.sync:
            assert ask(query, who) == expected, ask
        for ask_async in doors.asynchronous:
            assert await ask_async(query, who) == expected, ask_async
        (tool,) = LateInteractionToolSpec(either_index, k=K, principal=who).to_tool_list()
        shown = re.findall(r'<passage id="([^"]+)"', tool.call(query=query).content)
        assert shown == [name for name, _ in expected]


def may_read(who: Principal) -> set[str]:
    return {f"doc/{number}" for number in range(50) if set(readers(number)) & who.grants}


def crossings(who: Principal, found: Found) -> set[str]:
    return {name.rpartition("#")[0] for name, _ in found} - may_read(who)


class Echo(BaseChatModel):
    """Searches for what the user said last, then says that it did; holds no state of its own."""

    @property
    def _llm_type(self) -> str:
        return "echo"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        last = messages[-1]
        reply = AIMessage("done") if isinstance(last, ToolMessage) else AIMessage("", tool_calls=[_call(last.text)])
        return ChatResult(generations=[ChatGeneration(message=reply)])


class SharedDoors(Doors):
    """What two principals share besides: a reranker's cache of token vectors, and an agent with its middleware."""

    def __init__(self, index: LateInteractionIndex) -> None:
        super().__init__(index)
        self.compressor = LateInteractionCompressor(encoder=index.rooms.encoder, top_n=K)
        self.agent: Any = create_agent(
            Echo(),
            [],
            middleware=[LateInteractionMiddleware(index, k=K, inject=True)],
            context_schema=RetrievalContext,
        )

    def rerank(self, query: str, who: Principal | None) -> Found:
        return of_documents(
            self.compressor.compress_documents(self.retriever.as_principal(who).invoke(query), query)
        )

    async def rerank_async(self, query: str, who: Principal | None) -> Found:
        found = await self.retriever.as_principal(who).ainvoke(query)
        return of_documents(await self.compressor.acompress_documents(found, query))

    def ask_agent(self, query: str, who: Principal | None) -> Found:
        return self._found(self.agent.invoke({"messages": [("user", query)]}, context=RetrievalContext(who)))

    async def ask_agent_async(self, query: str, who: Principal | None) -> Found:
        return self._found(await self.agent.ainvoke({"messages": [("user", query)]}, context=RetrievalContext(who)))

    @staticmethod
    def _found(state: dict[str, Any]) -> Found:
        (answer,) = [one for one in state["messages"] if isinstance(one, ToolMessage)]
        return of_documents(answer.artifact)

    @property
    def sync(self) -> list[Callable[[str, Principal | None], Found]]:
        return [*super().sync, self.rerank, self.ask_agent]

    @property
    def asynchronous(self) -> list[Callable[[str, Principal | None], Awaitable[Found]]]:
        return [*super().asynchronous, self.rerank_async, self.ask_agent_async]


CALLS = 1000


def questions(doors: int) -> list[tuple[Principal, str, int]]:
    """Who asks what through which door: principals alternate at random, and ask the very same queries."""
    chance = random.Random(11)
    return [(chance.choice((ALICE, BOB)), chance.choice(QUERIES), chance.randrange(doors)) for _ in range(CALLS)]


def alone(doors: SharedDoors) -> dict[tuple[str, str, int], Found]:
    """What each gets through each door when nobody else asks."""
    return {
        (who.id, query, at): door(query, who)
        for who in (ALICE, BOB)
        for query in QUERIES
        for at, door in enumerate(doors.sync)
    }


def test_threads_of_two_principals_never_cross(acl_index: LateInteractionIndex) -> None:
    doors = SharedDoors(acl_index)
    expected = alone(doors)

    def ask(question: tuple[Principal, str, int]) -> Found:
        who, query, door = question
        return doors.sync[door](query, who)

    asked = questions(len(doors.sync))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, asked))
    for (who, query, door), found in zip(asked, answers, strict=True):
        assert not crossings(who, found)
        assert found == expected[who.id, query, door]


async def test_tasks_of_two_principals_never_cross(acl_index: LateInteractionIndex) -> None:
    doors = SharedDoors(acl_index)
    expected = alone(doors)
    room = asyncio.Semaphore(16)

    async def ask(who: Principal, query: str, door: int) -> Found:
        async with room:
            return await doors.asynchronous[door](query, who)

    asked = questions(len(doors.asynchronous))
    answers = await asyncio.gather(*(ask(*question) for question in asked))
    for (who, query, door), found in zip(asked, answers, strict=True):
        assert not crossings(who, found)
        assert found == expected[who.id, query, door]
