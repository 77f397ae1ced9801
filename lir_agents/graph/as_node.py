"""The whole retrieval as one node of somebody's own graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage, convert_to_messages
from langchain_core.runnables import RunnableLambda
from langgraph.runtime import get_runtime

from lir_agents.errors import InputError
from lir_agents.graph.build import build_graph
from lir_agents.graph.context import RetrievalContext
from lir_agents.graph.refusals import refusals_recorded
from lir_agents.graph.rooms import HasRooms
from lir_agents.types import Filter, Turn

__all__ = ["retrieval_node"]

_ROLES: Final[Sequence[tuple[type[BaseMessage], Any]]] = (
    (HumanMessage, "user"),
    (AIMessage, "assistant"),
    (ToolMessage, "tool"),
)


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
    no conversation, the messages of the state are what was said before: those before the user's last one, or all,
    where a model has answered that one and the question is another. Of a checkpoint only the documents become part.

    The node must not be cached (`cache_policy` of `add_node`, or of `set_node_defaults` for all nodes). LangGraph
    keeps a result by the state alone, of which who asks is no part, and gives it out again without calling the
    node: one principal's passages to another, neither authorised nor recorded.

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
        messages = _messages(state)
        question = _question(state, query, messages)
        asked: dict[str, Any] = {"query": question, "k": k, "filter": filter}
        if tools:
            asked["messages"] = messages
        if context.thread_id is None:
            asked["history"] = _said_before(messages, question)
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


def _messages(state: Any) -> list[BaseMessage]:
    """The messages of the state, in any form that LangChain takes for one."""
    given = _read(state, "messages") or []
    several = isinstance(given, Sequence) and not isinstance(given, str)
    return [_message(one, position) for position, one in enumerate(given if several else [given])]


def _message(given: Any, position: int) -> BaseMessage:
    try:
        return convert_to_messages([given])[0]
    except (TypeError, ValueError, NotImplementedError) as error:
        raise InputError(
            f"is no message but {type(given).__name__}",
            field=f"messages[{position}]",
            remedy='Write LangChain messages, or {"role": "user", "content": "..."}.',
        ) from error


def _question(state: Any, query: str | Callable[[Any], str], messages: Sequence[BaseMessage]) -> str:
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


def _said_before(messages: Sequence[BaseMessage], question: Any) -> list[Turn]:
    """What was said before the question: it is, or rewords, the user's last message, unless that was answered."""
    last = max((at for at, one in enumerate(messages) if isinstance(one, HumanMessage)), default=-1)
    asks = last >= 0 and messages[last].text.strip() == str(question).strip()
    answered = any(isinstance(one, AIMessage) and _answers(one) for one in messages[last + 1 :])
    before = messages if answered and not asks else messages[: max(last, 0)]
    turns = ((_role(one), one.text.strip()) for one in before)
    return [Turn(role, text) for role, text in turns if role and text]


def _answers(message: AIMessage) -> bool:
    """Whether a model was done; one that asks for tools is not."""
    return bool(message.text.strip()) and not message.tool_calls and not message.invalid_tool_calls


def _role(message: BaseMessage) -> Any:
    # A streamed chunk of a message is one, too.
    return next((role for kind, role in _ROLES if isinstance(message, kind)), None)
