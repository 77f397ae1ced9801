"""The whole retrieval as one node of somebody's own graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langgraph.runtime import get_runtime

from lir_agents.errors import InputError
from lir_agents.graph.build import build_graph
from lir_agents.graph.context import RetrievalContext
from lir_agents.graph.refusals import refusals_recorded
from lir_agents.graph.rooms import HasRooms
from lir_agents.types import Filter, Turn

__all__ = ["retrieval_node"]

_ROLES: Final[Mapping[type[BaseMessage], Any]] = {HumanMessage: "user", AIMessage: "assistant", ToolMessage: "tool"}


def retrieval_node(
    index: HasRooms,
    *,
    k: int | None = None,
    filter: Filter | None = None,
    query: str | Callable[[Any], str] = "query",
    output: str = "documents",
    tools: Sequence[Any] = (),
    store: Any = None,
) -> RunnableLambda[Any, dict[str, Any]]:
    """A node that reads the question off the state and writes the passages found into it.

    Who asks, in which conversation and with how much time comes from the run: its context (a `RetrievalContext`, or
    any object or mapping with these fields), or the user whom a LangGraph server authenticated. Where the run names
    no conversation, the messages of the state are what was said before. Of a checkpoint only the documents become
    part.

    Args:
        index: An open `LateInteractionIndex`; shared, never closed by the node.
        k: Passages wanted; None: the index's default.
        filter: Metadata filter that every search is held to.
        query: The key of the state that holds the question, or what makes the question of the state. Where the
            state has no such key, the last thing that the user said is the question.
        output: The key of the state that the documents are written to.
        tools: LangChain tools; those that the last message, by a model, asks for are run and steer the ranking.
        store: A LangGraph `BaseStore` for session memory; the index's own by default.

    Returns:
        A runnable for `StateGraph.add_node`, native in sync and in async. It raises InputError where the state
        holds no question, and whatever `LateInteractionIndex.search` raises.

    Example:
        >>> graph = StateGraph(State, context_schema=RetrievalContext)
        >>> graph.add_node("retrieve", retrieval_node(index, k=5))
    """
    graph: Any = build_graph(index, tools=tools, store=store).compile(checkpointer=False)

    def given(state: Any) -> tuple[dict[str, Any], RetrievalContext]:
        with refusals_recorded(index.rooms, None):
            context = RetrievalContext.of_run(get_runtime())
        messages = _read(state, "messages") or []
        asked: dict[str, Any] = {"query": _question(state, query, messages), "k": k, "filter": filter}
        if tools:
            asked["messages"] = list(messages)
        if context.thread_id is None:
            asked["history"] = _said_before(messages)
        return {name: value for name, value in asked.items() if value is not None}, context

    def retrieve(state: Any) -> dict[str, Any]:
        asked, context = given(state)
        return {output: graph.invoke(asked, context=context)["documents"]}

    async def aretrieve(state: Any) -> dict[str, Any]:
        asked, context = given(state)
        return {output: (await graph.ainvoke(asked, context=context))["documents"]}

    return RunnableLambda(retrieve, aretrieve, name="retrieve")


def _read(state: Any, name: str) -> Any:
    return state.get(name) if isinstance(state, Mapping) else getattr(state, name, None)


def _question(state: Any, query: str | Callable[[Any], str], messages: Sequence[AnyMessage]) -> str:
    if callable(query):
        return query(state)
    asked = _read(state, query)
    if asked is None:
        asked = next((one.text for one in reversed(messages) if isinstance(one, HumanMessage)), None)
    if asked is None:
        raise InputError(
            f"is not in the state: it has neither {query!r} nor a message of the user",
            field="query",
            remedy="Name the key that holds it: retrieval_node(index, query=...).",
        )
    return str(asked)


def _said_before(messages: Sequence[AnyMessage]) -> list[Turn]:
    """What was said before the user's last message; after it, a model has at most asked for tools."""
    last = max((at for at, one in enumerate(messages) if isinstance(one, HumanMessage)), default=0)
    turns = ((_ROLES.get(type(one)), one.text.strip()) for one in messages[:last])
    return [Turn(role, text) for role, text in turns if role and text]
