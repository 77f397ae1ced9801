"""`LateInteractionMiddleware`: gives an agent of `langchain.agents.create_agent` the index and its memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, NotRequired, cast

from langchain.agents.middleware.types import (
    AgentMiddleware,
    AgentState,
    ModelRequest,
    ModelResponse,
    PrivateStateAttr,
    ToolCallRequest,
)
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolMessage
from langgraph.channels import UntrackedValue
from langgraph.runtime import Runtime
from langgraph.types import Command

from lir_agents.engine import LateInteractionIndex
from lir_agents.errors import StoreError
from lir_agents.graph.context import RetrievalContext
from lir_agents.graph.quote import quote
from lir_agents.graph.tool_runs import signal_of
from lir_agents.langchain.caller import caller
from lir_agents.langchain.tool import LateInteractionSearchTool
from lir_agents.types import Principal, SearchResult, ToolSignal, Turn

__all__ = ["LateInteractionMiddleware"]

_log = logging.getLogger(__name__)

ToolResult = ToolMessage | Command[Any]


class RetrievalState(AgentState[Any]):
    """What one run of the agent keeps to itself, by the middleware's name.

    Passages are in no checkpoint. What is written to one says after an interruption, or where messages were taken
    out, that some are missing: `lir_asked`, the id of the message that is answered, and `lir_shows`, whose passages
    the model is shown.
    """

    lir_quoted: NotRequired[Annotated[dict[str, str], UntrackedValue, PrivateStateAttr]]
    lir_shown: NotRequired[Annotated[dict[str, list[str]], UntrackedValue, PrivateStateAttr]]
    lir_shows: NotRequired[Annotated[list[str], PrivateStateAttr]]
    lir_asked: NotRequired[Annotated[str | None, PrivateStateAttr]]


class LateInteractionMiddleware(AgentMiddleware[RetrievalState, Any, Any]):
    """Remembers what is said and what tools answer, so that the next search is ranked in its light.

    What it does in one run of an agent:

    * before: remembers what the user said and, with ``inject=True``, retrieves for it;
    * at each model call, with ``inject=True``: shows the passages, quoted, before the user's last message; they
      are in no checkpoint and are not kept in the conversation;
    * at each tool call: remembers what the tool answered (not passages of an index, which its artifact holds);
    * after: remembers the answer, and which passages it was made from.

    Everything lies under the principal and the conversation of the run. These come from the run's context (a
    `RetrievalContext`, or any object or mapping with these fields), from the authenticated user of a LangGraph
    server, or were bound here; without a `thread_id`, the `thread_id` of the agent's checkpointer is the
    conversation. Without either, nothing is remembered. Where remembering fails, the agent goes on, and the loss is
    logged as a warning. An answer is remembered only with what it was made from: not where a run was interrupted
    after it, with passages injected, nor where messages of the run were taken out of the conversation (summarised).

    Args:
        index: The open index; shared, never closed by the middleware.
        principal: Who asks, where the run does not say.
        thread_id: The conversation, where the run does not say.
        k: Passages per search; None: the index's default.
        filter: Metadata filter that every search is held to.
        offer_tool: Whether the agent may search by itself, with `LateInteractionSearchTool`.
        inject: Whether every turn of the user is searched for before the model is asked.
        name: Tells several indexes of one agent apart, and their tools: "search_documents" becomes "search_<name>".
            An answer that was made from another index's passages is not remembered: this one cannot tell who may
            read those.
        description: What the tool tells the model of this index; None: that of `LateInteractionSearchTool`.

    Example:
        >>> agent = create_agent(
        ...     model, tools, middleware=[LateInteractionMiddleware(index)], context_schema=RetrievalContext
        ... )
        >>> agent.invoke({"messages": [...]}, context=RetrievalContext(principal=alice, thread_id="t1"))
    """

    state_schema = RetrievalState

    def __init__(
        self,
        index: LateInteractionIndex,
        *,
        principal: Principal | None = None,
        thread_id: str | None = None,
        k: int | None = None,
        filter: dict[str, Any] | None = None,
        offer_tool: bool = True,
        inject: bool = False,
        name: str | None = None,
        description: str | None = None,
    ) -> None:
        super().__init__()
        self._name = type(self).__name__ if name is None else name
        self.index = index
        self.principal = principal
        self.thread_id = thread_id
        self.k = k
        self.filter = filter
        self.inject = inject
        called = {"name": f"search_{name}"} if name else {}
        told = {"description": description} if description else {}
        offered = LateInteractionSearchTool(
            index=index, k=k, principal=principal, thread_id=thread_id, filter=filter, **called, **told
        )
        self.tools = [offered] if offer_tool else []
        self._own = {one.name for one in self.tools}  # names of tools that search this index

    @property
    def name(self) -> str:
        """What tells this middleware from others of the agent."""
        return self._name

    # ------------------------------------------------------------ before the agent

    def before_agent(self, state: RetrievalState, runtime: Runtime[Any]) -> dict[str, Any]:
        """Retrieves for the user's turn, then remembers it."""
        who, said = self._who(runtime), _new_turns(state["messages"])
        result = self.index.search(**self._asked(said[-1], who)) if self.inject and said else None
        self._remember(who, [Turn("user", text) for text in said])
        return self._begun(state, result)

    async def abefore_agent(self, state: RetrievalState, runtime: Runtime[Any]) -> dict[str, Any]:
        """`before_agent`, without blocking the event loop."""
        who, said = self._who(runtime), _new_turns(state["messages"])
        result = await self.index.asearch(**self._asked(said[-1], who)) if self.inject and said else None
        await asyncio.to_thread(self._remember, who, [Turn("user", text) for text in said])
        return self._begun(state, result)

    def before_model(self, state: RetrievalState, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Retrieves once more where the run was interrupted since: what was retrieved is in no checkpoint."""
        said = self._lost(state)
        if said is None:
            return None
        return self._kept(state, self.index.search(**self._asked(said, self._who(runtime))))

    async def abefore_model(self, state: RetrievalState, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """`before_model`, without blocking the event loop."""
        said = self._lost(state)
        if said is None:
            return None
        return self._kept(state, await self.index.asearch(**self._asked(said, self._who(runtime))))

    # ------------------------------------------------------------ around the model and its tools

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Shows the retrieved passages to the model, retrieved once more where a run goes on from here."""
        quoted, said = self._passages_of(request)
        if said is not None:
            quoted = quote(self.index.search(**self._asked(said, self._who(request.runtime))))
        return handler(_with_passages(request, quoted))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """`wrap_model_call`, asynchronously."""
        quoted, said = self._passages_of(request)
        if said is not None:
            quoted = quote(await self.index.asearch(**self._asked(said, self._who(request.runtime))))
        return await handler(_with_passages(request, quoted))

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolResult]
    ) -> ToolResult:
        """Runs the tool, then remembers what it answered."""
        result = handler(request)
        self._remember(self._who(request.runtime), self._signals(request, result))
        return result

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[ToolResult]]
    ) -> ToolResult:
        """`wrap_tool_call`, without blocking the event loop."""
        result = await handler(request)
        signals = self._signals(request, result)
        await asyncio.to_thread(self._remember, self._who(request.runtime), signals)
        return result

    # ------------------------------------------------------------ after the agent

    def after_agent(self, state: RetrievalState, runtime: Runtime[Any]) -> None:
        """Remembers the answer and what it was made from."""
        self._remember(self._who(runtime), self._answers(state))

    async def aafter_agent(self, state: RetrievalState, runtime: Runtime[Any]) -> None:
        """`after_agent`, without blocking the event loop."""
        await asyncio.to_thread(self._remember, self._who(runtime), self._answers(state))

    # ------------------------------------------------------------ translation

    def _who(self, runtime: Any) -> RetrievalContext:
        return caller(self.index, self.principal, None, runtime, otherwise=self.thread_id, checkpointed=True)

    def _lost(self, state: RetrievalState) -> str | None:
        """The user's last words, where passages for them should be in the state and are not."""
        if not self.inject or self.name in state.get("lir_quoted", {}):
            return None
        words = (_text(one) for one in reversed(state["messages"]) if isinstance(one, HumanMessage))
        return next((text for text in words if text), None)

    def _asked(self, query: str, who: RetrievalContext) -> dict[str, Any]:
        return {
            "query": query,
            "k": self.k,
            "principal": who.principal,
            "thread_id": who.thread_id,
            "budget_ms": who.budget_ms,
            "filter": self.filter,
            "remember": False,  # the turn is remembered by this middleware, once
        }

    def _remember(self, who: RetrievalContext, said: Sequence[Turn | ToolSignal]) -> None:
        if who.thread_id is None or not said:
            return
        try:
            self.index.memory.remember(who.principal, who.thread_id, said)
        except StoreError as error:
            _log.warning("The conversation could not be remembered: %s", error)

    def _signals(self, request: ToolCallRequest, result: ToolResult) -> list[ToolSignal]:
        if isinstance(request.tool, LateInteractionSearchTool):
            if request.tool.index is self.index:
                self._own.add(request.tool.name)
            return []
        longest = self.index.rooms.settings.memory.max_chars
        said = [one for one in _said(result, request.tool_call["id"]) if not _passage_ids(one.artifact)]
        return [signal_of(request.tool_call["name"], message, max_chars=longest) for message in said]

    def _answers(self, state: RetrievalState) -> list[Turn]:
        """The agent's last words, with the passages that this run retrieved; none where others' are among them."""
        messages = state["messages"]
        last = messages[-1] if messages else None
        if not isinstance(last, AIMessage) or not (text := _text(last)):
            return []
        shown, called = state.get("lir_shown", {}), _since(messages, state.get("lir_asked"))
        if called is None or not set(state.get("lir_shows", ())) <= set(shown):
            _log.warning("The answer could not be remembered: what it was made from is not known any more.")
            return []
        made_from = dict.fromkeys(shown.get(self.name, ()))
        foreign = any(name != self.name and ids for name, ids in shown.items())
        for message in called:
            if isinstance(message, ToolMessage):
                found = _passage_ids(message.artifact)
                made_from.update(dict.fromkeys(found))
                foreign = foreign or bool(found and message.name not in self._own)
        return [] if foreign else [Turn("assistant", text, tuple(made_from))]

    def _begun(self, state: RetrievalState, result: SearchResult | None) -> dict[str, Any]:
        """The state at the begin of a run."""
        # What a checkpoint says of showing is of an earlier run, unless another middleware has begun this one.
        shown = state.get("lir_shown")
        begun = state if shown is not None else {**state, "lir_shown": {}, "lir_shows": []}
        asked = next((one.id for one in reversed(state["messages"]) if isinstance(one, HumanMessage)), None)
        kept = {} if result is None else self._kept(begun, result)
        return {
            "lir_shown": begun["lir_shown"],
            "lir_shows": begun.get("lir_shows", []),
            "lir_asked": asked,
            **kept,
        }

    def _kept(self, state: RetrievalState, result: SearchResult) -> dict[str, Any]:
        """What was retrieved, beside what others retrieved for the same turn."""
        return {
            "lir_quoted": {**state.get("lir_quoted", {}), self.name: quote(result)},
            "lir_shown": {**state.get("lir_shown", {}), self.name: [hit.passage_id for hit in result]},
            "lir_shows": sorted({*state.get("lir_shows", ()), self.name}),
        }

    def _passages_of(self, request: ModelRequest[Any]) -> tuple[str | None, str | None]:
        """The passages to show, quoted; or the words to find them for once more."""
        state = cast("RetrievalState", request.state)
        return state.get("lir_quoted", {}).get(self.name), self._lost(state)


def _with_passages(request: ModelRequest[Any], quoted: str | None) -> ModelRequest[Any]:
    messages = request.messages
    last = max((at for at, message in enumerate(messages) if isinstance(message, HumanMessage)), default=None)
    if quoted is None or last is None:
        return request
    # As a message of its own beside the user's, never in the system prompt: what documents say is not an order.
    passages = HumanMessage(f"Passages retrieved for the next message:\n{quoted}")
    return request.override(messages=[*messages[:last], passages, *messages[last:]])


def _said(result: ToolResult, call_id: str | None) -> list[ToolMessage]:
    """The answers to a call, also where the tool answers by a command."""
    if isinstance(result, ToolMessage):
        return [result]
    messages = result.update.get("messages", ()) if isinstance(result.update, Mapping) else ()
    found = messages if isinstance(messages, Sequence) else (messages,)
    return [one for one in found if isinstance(one, ToolMessage) and one.tool_call_id == call_id]


def _new_turns(messages: Sequence[AnyMessage]) -> list[str]:
    """What the user said since the agent last did anything."""
    said: list[str] = []
    for message in reversed(messages):
        if isinstance(message, AIMessage | ToolMessage):
            break
        if isinstance(message, HumanMessage) and (text := _text(message)):
            said.append(text)
    return said[::-1]


def _since(messages: Sequence[AnyMessage], asked: str | None) -> Sequence[AnyMessage] | None:
    """What came after the message that is answered; None where that is not there any more."""
    if asked is None:
        return messages
    at = next((at for at, message in enumerate(messages) if message.id == asked), None)
    return None if at is None else messages[at + 1 :]


def _passage_ids(artifact: Any) -> list[str]:
    """Of the documents that came out of an index; mappings where they have been through a checkpoint."""
    if not isinstance(artifact, list):
        return []
    found = [one.model_dump() if isinstance(one, Document) else one for one in artifact]
    return [
        one["id"]
        for one in found
        if isinstance(one, Mapping) and one.get("id") and "lir" in one.get("metadata", ())
    ]


def _text(message: BaseMessage) -> str:
    return message.text.strip()
