"""`LateInteractionMiddleware` in `create_agent`: what is remembered, for whom, and what the model is shown."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import InjectedToolCallId, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.store.base import PutOp
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command

from lir_agents import Document, LateInteractionIndex, Principal, ToolBinding, Turn
from lir_agents.graph.context import RetrievalContext
from lir_agents.langchain import LateInteractionMiddleware, LateInteractionRetriever
from lir_agents.memory.records import Entry
from tests.doors import ALICE, BOB, QUERIES, documents, readers
from tests.hashed_encoder import HashedEncoder

pytestmark = [
    pytest.mark.filterwarnings("error::DeprecationWarning:lir_agents"),
    pytest.mark.filterwarnings("error::DeprecationWarning:langchain"),
    pytest.mark.filterwarnings("error::DeprecationWarning:langgraph"),
]


class Model(GenericFakeChatModel):
    """Says what the script says next, and keeps what it was shown."""

    shown: list[list[BaseMessage]] = []  # noqa: RUF012 - a pydantic field

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
        self.shown.append(messages)
        return super()._generate(messages, *args, **kwargs)


def scripted(*script: AIMessage | str) -> Model:
    return Model(messages=iter(script), shown=[])


def call(name: str, **arguments: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": f"c-{name}", "type": "tool_call"}])


@tool
def runtime_info() -> str:
    """The version that runs."""
    return "node 22"


@tool
def runtime_fields() -> dict[str, Any]:
    """The version that runs, in fields."""
    return {"name": "node", "number": 17, "confidence": 0.75}


@tool
def broken() -> str:
    """Fails."""
    raise ValueError("no connection")


@pytest.fixture
def index(quick_path: Path) -> Any:
    with LateInteractionIndex.open(quick_path / "i.lir", access="acl", encoder=HashedEncoder()) as index:
        assert index.add(documents(acl=True)).added == 50
        yield index


def recalled(index: LateInteractionIndex, who: Principal | None, thread_id: str) -> list[Entry]:
    return index.memory.recall(who, thread_id, readable=set)


async def ask(
    agent: Any,
    question: str,
    mode: str,
    *,
    thread: str = "t1",
    who: Principal = ALICE,
    context: RetrievalContext | None = None,
) -> dict[str, Any]:
    given = {"messages": [HumanMessage(question)]}
    config: Any = {"configurable": {"thread_id": thread}} if context is None else {}
    context = context or RetrievalContext(who)
    if mode == "sync":
        return await asyncio.to_thread(agent.invoke, given, config, context=context)
    return await agent.ainvoke(given, config, context=context)


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_turns_tools_and_answers_are_remembered_with_what_they_were_made_from(
    index: LateInteractionIndex, mode: str
) -> None:
    model = scripted(
        call("runtime_info"),
        call("search_documents", query=QUERIES[3], k=2),
        "Version 22.",
        "You are welcome.",
    )
    middleware = LateInteractionMiddleware(index)
    agent = create_agent(
        model,
        [runtime_info],
        middleware=[middleware],
        context_schema=RetrievalContext,
        checkpointer=InMemorySaver(),
    )
    state = await ask(agent, QUERIES[3], mode)
    (found,) = [message.artifact for message in state["messages"] if getattr(message, "artifact", None)]
    assert len(found) == 2
    kept = recalled(index, ALICE, "t1")
    assert [(entry.kind, entry.text, entry.tool) for entry in kept] == [
        ("user", QUERIES[3], ""),
        ("tool", "node 22", "runtime_info"),
        ("assistant", "Version 22.", ""),
    ]
    assert kept[-1].passage_ids == tuple(document.id for document in found)
    await ask(agent, "thanks", mode)
    assert [entry.text for entry in recalled(index, ALICE, "t1")][3:] == ["thanks", "You are welcome."]
    assert recalled(index, ALICE, "t1")[-1].passage_ids == ()
    assert recalled(index, BOB, "t1") == []
    assert recalled(index, ALICE, "t2") == []


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_passages_are_shown_and_not_kept(index: LateInteractionIndex, mode: str) -> None:
    model = scripted("First.", "Second.")
    agent = create_agent(
        model,
        [],
        system_prompt="Be brief.",
        middleware=[LateInteractionMiddleware(index, inject=True, offer_tool=False, k=3)],
        context_schema=RetrievalContext,
        checkpointer=InMemorySaver(),
    )
    await ask(agent, QUERIES[2], mode)
    state = await ask(agent, QUERIES[4], mode)
    assert [message.text for message in state["messages"]] == [QUERIES[2], "First.", QUERIES[4], "Second."]
    assert "lir_quoted" not in state
    for shown, question, answer in zip(model.shown, (QUERIES[2], QUERIES[4]), ("First.", "Second."), strict=True):
        best = index.search(question, k=3, principal=ALICE, thread_id="by hand", remember=False)
        index.memory.remember(ALICE, "by hand", [Turn("user", question), Turn("assistant", answer)])
        assert "passage" not in shown[0].text, "what documents say is never in the system prompt"
        assert shown[-1].text == question
        for hit in best:
            assert f'<passage id="{hit.passage_id}"' in shown[-2].text
        assert sum("<passages>" in message.text for message in shown) == 1
    answers = [entry for entry in recalled(index, ALICE, "t1") if entry.kind == "assistant"]
    assert [len(entry.passage_ids) for entry in answers] == [3, 3]


@pytest.mark.parametrize("inject", [False, True], ids=["searches", "is shown"])
async def test_an_answer_after_an_interruption_knows_what_it_was_made_from(
    index: LateInteractionIndex, inject: bool
) -> None:
    asks = call("runtime_info") if inject else call("search_documents", query=QUERIES[3], k=2)
    model = scripted(asks, "Version 22.")
    agent = create_agent(
        model,
        [runtime_info],
        middleware=[LateInteractionMiddleware(index, k=2, inject=inject, offer_tool=not inject)],
        context_schema=RetrievalContext,
        checkpointer=InMemorySaver(),
        interrupt_after=["tools"],
    )
    config: Any = {"configurable": {"thread_id": "t1"}}
    context = RetrievalContext(ALICE)
    await agent.ainvoke({"messages": [HumanMessage(QUERIES[3])]}, config, context=context)
    assert not [entry for entry in recalled(index, ALICE, "t1") if entry.kind == "assistant"]
    await agent.ainvoke(None, config, context=context)
    (answer,) = [entry for entry in recalled(index, ALICE, "t1") if entry.kind == "assistant"]
    assert len(answer.passage_ids) == 2
    assert any(answer.passage_ids[0] in message.text for message in model.shown[-1])


@pytest.mark.parametrize("at", ["interrupt_before", "interrupt_after"])
@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_an_answer_is_not_remembered_where_an_interruption_lost_what_it_was_made_from(
    index: LateInteractionIndex, quick_path: Path, mode: str, at: str, caplog: pytest.LogCaptureFixture
) -> None:
    other = LateInteractionIndex.open(quick_path / "other.lir", encoder=HashedEncoder(), access="acl")
    other.add(documents(acl=True))
    model = scripted("Version 22.", "Version 23.")
    checkpointer = InMemorySaver()

    def agent(**interrupt: Any) -> Any:
        shows = LateInteractionMiddleware(index, k=2, inject=True, offer_tool=False, name="shows")
        beside = LateInteractionMiddleware(other, name="beside")  # shows nothing, and was told nothing
        return create_agent(
            model,
            middleware=[shows, beside],
            context_schema=RetrievalContext,
            checkpointer=checkpointer,
            **interrupt,
        )

    async def ask(agent: Any, given: Any) -> None:
        config: Any = {"configurable": {"thread_id": "t1"}}
        if mode == "sync":
            agent.invoke(given, config, context=RetrievalContext(ALICE))
        else:
            await agent.ainvoke(given, config, context=RetrievalContext(ALICE))

    def answers(one: LateInteractionIndex) -> list[Entry]:
        return [entry for entry in recalled(one, ALICE, "t1") if entry.kind == "assistant"]

    interrupted = agent(**{at: ["model"]})
    await ask(interrupted, {"messages": [HumanMessage(QUERIES[3])]})
    await ask(interrupted, None)
    assert "<passages>" in model.shown[0][-2].text  # also where the run went on from the model
    assert not answers(index)
    assert not answers(other)
    assert "not be remembered" in caplog.text
    hit = index.search(QUERIES[3], k=2, principal=ALICE)[0]
    for checkpoint in checkpointer.list(None):
        assert hit.text not in repr(checkpoint)
        assert hit.passage_id not in repr(checkpoint)

    await ask(agent(), {"messages": [HumanMessage(QUERIES[3])]})
    assert [len(entry.passage_ids) for entry in answers(index)] == [2]
    assert not answers(other)
    other.close()


async def test_an_answer_is_not_remembered_where_its_search_was_summarised_away(
    index: LateInteractionIndex, caplog: pytest.LogCaptureFixture
) -> None:
    from langchain.agents.middleware import SummarizationMiddleware

    model = scripted(call("search_documents", query=QUERIES[3]), "Version 22.", "You are welcome.")
    shortens = SummarizationMiddleware(
        scripted("A summary.", "Another."), trigger=("messages", 3), keep=("messages", 1)
    )
    agent = create_agent(
        model,
        middleware=[shortens, LateInteractionMiddleware(index, k=2)],
        context_schema=RetrievalContext,
        checkpointer=InMemorySaver(),
    )
    state = await ask(agent, QUERIES[3], "async")
    assert QUERIES[3] not in [message.text for message in state["messages"]], "the question was summarised"
    assert [entry.kind for entry in recalled(index, ALICE, "t1")] == ["user"]
    assert "not be remembered" in caplog.text
    await ask(agent, "Thank you.", "async")
    assert [entry.text for entry in recalled(index, ALICE, "t1")][1:] == ["Thank you.", "You are welcome."]


async def test_passages_that_a_tool_of_ones_own_found_are_not_remembered(index: LateInteractionIndex) -> None:
    from langchain_core.tools import create_retriever_tool

    finds = create_retriever_tool(
        LateInteractionRetriever(index=index, k=2), "finds", "Finds.", response_format="content_and_artifact"
    )
    model = scripted(call("finds", query=QUERIES[3]), "Version 22.")
    middleware = [LateInteractionMiddleware(index, offer_tool=False)]
    agent = create_agent(model, [finds], middleware=middleware, context_schema=RetrievalContext)
    state = await ask(agent, QUERIES[3], "async", context=RetrievalContext(ALICE, "t1"))
    assert len(state["messages"][2].artifact) == 2
    assert {entry.kind for entry in recalled(index, ALICE, "t1")} == {"user"}


async def test_a_failed_tool_is_remembered_as_failed(index: LateInteractionIndex) -> None:
    from langchain.agents.middleware import wrap_tool_call

    @wrap_tool_call
    def forgiving(request: Any, handler: Any) -> Any:
        try:
            return handler(request)
        except ValueError as error:
            return ToolMessage(str(error), tool_call_id=request.tool_call["id"], status="error")

    agent = create_agent(
        scripted(call("broken"), "Sorry."),
        [broken],
        middleware=[LateInteractionMiddleware(index), forgiving],
        context_schema=RetrievalContext,
    )
    context = RetrievalContext(ALICE, "t1")
    await asyncio.to_thread(agent.invoke, {"messages": [HumanMessage("go")]}, context=context)
    (entry,) = [entry for entry in recalled(index, ALICE, "t1") if entry.kind == "tool"]
    assert (entry.tool, entry.text, entry.error) == ("broken", "", "no connection")


async def test_a_tool_that_answers_by_a_command_is_remembered(index: LateInteractionIndex) -> None:
    @tool
    def booking(tool_call_id: Annotated[str, InjectedToolCallId]) -> Any:
        """Books and says so."""
        return Command(update={"messages": [ToolMessage("booked", tool_call_id=tool_call_id)]})

    agent = create_agent(
        scripted(call("booking"), "Done."),
        [booking],
        middleware=[LateInteractionMiddleware(index)],
        context_schema=RetrievalContext,
    )
    await ask(agent, "book it", "async", context=RetrievalContext(ALICE, "t1"))
    (entry,) = [entry for entry in recalled(index, ALICE, "t1") if entry.kind == "tool"]
    assert (entry.tool, entry.text) == ("booking", "booked")


async def test_the_conversation_of_the_run_wins_over_the_one_bound(index: LateInteractionIndex) -> None:
    """One agent serves many runs: their conversations do not run together."""
    middleware = LateInteractionMiddleware(index, thread_id="bound")
    agent = create_agent(
        scripted("Hello.", "Hello again."), [], middleware=[middleware], context_schema=RetrievalContext
    )
    await ask(agent, "of the run", "async", context=RetrievalContext(ALICE, "run"))
    await ask(agent, "of none", "async", context=RetrievalContext(ALICE))
    assert [entry.text for entry in recalled(index, ALICE, "run")] == ["of the run", "Hello."]
    assert [entry.text for entry in recalled(index, ALICE, "bound")] == ["of none", "Hello again."]


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_one_agent_has_two_indexes(index: LateInteractionIndex, quick_path: Path, mode: str) -> None:
    with LateInteractionIndex.open(quick_path / "other.lir", access="acl", encoder=HashedEncoder()) as other:
        other.add([Document(id="menu", text="Soup and salad at noon.", acl=["group:staff"])])
        model = scripted(call("search_menu", query="soup at noon"), "There is soup.")
        agent = create_agent(
            model,
            [],
            middleware=[
                LateInteractionMiddleware(index, inject=True, k=2),
                LateInteractionMiddleware(other, inject=True, name="menu", description="What there is to eat."),
            ],
            context_schema=RetrievalContext,
        )
        offered = {one.name: one.description for one in agent.nodes["tools"].bound.tools_by_name.values()}
        assert set(offered) == {"search_documents", "search_menu"}
        assert offered["search_menu"] == "What there is to eat."
        state = await ask(agent, "soup at noon", mode, context=RetrievalContext(ALICE, "t1"))
        assert "menu#1.0" in state["messages"][2].text
        first = "\n".join(message.text for message in model.shown[0])
        assert first.count("<passages>") == 2
        assert 'id="menu#1.0"' in first
        for one in (index, other):  # what another index's passages went into is in neither's memory
            assert [entry.kind for entry in recalled(one, ALICE, "t1")] == ["user"]


def test_without_a_conversation_nothing_is_remembered(index: LateInteractionIndex) -> None:
    agent = create_agent(
        scripted("Hello."), [], middleware=[LateInteractionMiddleware(index)], context_schema=RetrievalContext
    )
    agent.invoke({"messages": [HumanMessage("hi")]}, context=RetrievalContext(ALICE))
    assert recalled(index, ALICE, "t1") == []


class Full(InMemoryStore):
    """A store whose disk is full: it can be read and not be written."""

    def batch(self, ops: Any) -> Any:
        operations = list(ops)
        if any(isinstance(operation, PutOp) for operation in operations):
            raise OSError("no space left on device")
        return super().batch(operations)


def test_an_agent_survives_the_loss_of_its_memory(quick_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = quick_path / "i.lir"
    with LateInteractionIndex.open(path, encoder=HashedEncoder(), store=Full()) as index:
        middleware = LateInteractionMiddleware(index)
        agent = create_agent(scripted("Hello."), [], middleware=[middleware], context_schema=RetrievalContext)
        with caplog.at_level(logging.WARNING):
            state = agent.invoke({"messages": [HumanMessage("a secret")]}, context=RetrievalContext(ALICE, "t1"))
    assert state["messages"][-1].text == "Hello."
    assert "could not be remembered" in caplog.text
    assert "a secret" not in caplog.text


async def test_what_a_tool_answers_steers_the_next_search(quick_path: Path) -> None:
    binding = ToolBinding("runtime_fields", "number", "number")
    path = quick_path / "i.lir"
    with LateInteractionIndex.open(path, encoder=HashedEncoder(), bindings=[binding]) as index:
        index.add(documents())
        model = scripted(call("runtime_fields"), call("search_documents", query="which version?", k=3), "22.")
        middleware = LateInteractionMiddleware(index)
        agent = create_agent(model, [runtime_fields], middleware=[middleware], context_schema=RetrievalContext)
        state = await ask(agent, "which version?", "async", thread="t1")
        (entry,) = [entry for entry in recalled(index, ALICE, "t1") if entry.kind == "tool"]
        assert entry.output == {"name": "node", "number": 17, "confidence": 0.75}
        assert entry.confidence == 0.75
        best = state["messages"][-2].artifact[0]
        assert best.metadata["number"] == 17
        assert best.metadata["lir"]["breakdown"]["tool:runtime_fields"] > 0


class Echo(BaseChatModel):
    """Searches for what the user said last, then says what the search said; holds no state of its own."""

    @property
    def _llm_type(self) -> str:
        return "echo"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        last = messages[-1]
        reply = AIMessage(last.text) if isinstance(last, ToolMessage) else call("search_documents", query=last.text)
        return ChatResult(generations=[ChatGeneration(message=reply)])


async def test_two_principals_share_one_agent_and_nothing_crosses(index: LateInteractionIndex) -> None:
    agent = create_agent(
        Echo(), [], middleware=[LateInteractionMiddleware(index, k=50)], context_schema=RetrievalContext
    )

    def given(number: int) -> tuple[Principal, dict[str, Any], RetrievalContext]:
        who = ALICE if number % 2 == 0 else BOB
        said = {"messages": [HumanMessage(QUERIES[number % len(QUERIES)])]}
        return who, said, RetrievalContext(who, "same-name")

    def run(number: int) -> tuple[Principal, Any]:
        who, said, context = given(number)
        return who, agent.invoke(said, context=context)

    async def arun(number: int) -> tuple[Principal, Any]:
        who, said, context = given(number)
        return who, await agent.ainvoke(said, context=context)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(run, range(20)))
    answers += await asyncio.gather(*(arun(number) for number in range(20)))
    for who, state in answers:
        artifact = state["messages"][-2].artifact
        may = {number for number in range(50) if set(readers(number)) & who.grants}
        assert {document.metadata["number"] for document in artifact} == may
    for who in (ALICE, BOB):
        kept = recalled(index, who, "same-name")
        named = {name.rpartition("#")[0] for entry in kept for name in entry.passage_ids}
        assert named <= {f"doc/{number}" for number in range(50) if set(readers(number)) & who.grants}
