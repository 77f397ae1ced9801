"""`LateInteractionSearchTool`: an index as a tool that a model may call."""

from __future__ import annotations

from typing import Any, Literal

from langchain_core.documents import Document
from langchain_core.tools import ArgsSchema, BaseTool, ToolException
from langgraph.prebuilt import ToolRuntime
from pydantic import BaseModel, ConfigDict, Field

from lir_agents.engine import LateInteractionIndex
from lir_agents.errors import BudgetExceeded, InputError, LirError, Overloaded
from lir_agents.graph.nodes import as_documents
from lir_agents.graph.quote import quote
from lir_agents.langchain.caller import ambient_runtime, caller
from lir_agents.types import Principal, SearchResult

__all__ = ["LateInteractionSearchTool", "SearchArguments"]


class SearchArguments(BaseModel):
    """What a model may say. Who asks and where is searched are not among it."""

    model_config = ConfigDict(extra="ignore")

    query: str = Field(min_length=1, description="The question in full, as one would ask a person.")
    k: int | None = Field(default=None, ge=1, le=50, description="How many passages; leave it out as a rule.")


class LateInteractionSearchTool(BaseTool):
    """Searches an index for whoever the run belongs to.

    The model reads the passages quoted, with ids to cite and the sources; the `ToolMessage`'s artifact holds them
    as LangChain documents. The principal is the one bound here, or the one of the run's context
    (`ToolRuntime.context`, or the user whom a LangGraph server authenticated). Where both are named and differ
    the call is refused. The model cannot name one.

    Example:
        >>> agent = create_agent(model, [LateInteractionSearchTool(index=index)], context_schema=RetrievalContext)
        >>> agent.invoke({"messages": [...]}, context=RetrievalContext(principal=alice))
    """

    model_config = ConfigDict(extra="forbid")  # a filter under another name must not be lost

    name: str = "search_documents"
    description: str = (
        "Searches the documents that the user may read. Returns the passages that answer best, each with an id to "
        "cite. Ask one question at a time, in full sentences."
    )
    args_schema: ArgsSchema | None = SearchArguments
    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"
    handle_tool_error: Any = True

    index: LateInteractionIndex = Field(exclude=True, repr=False)
    """The open index; shared, never closed by the tool."""
    k: int | None = Field(default=None, ge=1)
    """Passages where the model names no number; None: the index's default."""
    principal: Principal | None = None
    """Who asks, where the run's context does not say."""
    thread_id: str | None = Field(default=None, min_length=1)
    """The conversation whose memory steers the ranking, where the run's context does not say."""
    filter: dict[str, Any] | None = None
    """Metadata filter that every call is held to."""
    budget_ms: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Time for each search in milliseconds, where the run's context does not say; None: as the settings say."""

    @property
    def _injected_args_keys(self) -> frozenset[str]:
        # Older releases of langchain-core drop a runtime that a program hands over unless it is named here.
        return frozenset({"runtime"})

    def as_principal(self, principal: Principal | None) -> LateInteractionSearchTool:
        """The same tool for somebody else; this one stays as it is."""
        return self.model_copy(update={"principal": principal})

    def _run(
        self,
        query: str,
        k: int | None = None,
        runtime: ToolRuntime = None,  # type: ignore[assignment]  # LangChain finds it by this very type
    ) -> tuple[str, list[Document]]:
        try:
            return _told(self.index.search(query, **self._asked(k, runtime)))
        except (InputError, BudgetExceeded, Overloaded) as error:
            raise _corrigible(error) from error

    async def _arun(
        self,
        query: str,
        k: int | None = None,
        runtime: ToolRuntime = None,  # type: ignore[assignment]
    ) -> tuple[str, list[Document]]:
        try:
            return _told(await self.index.asearch(query, **self._asked(k, runtime)))
        except (InputError, BudgetExceeded, Overloaded) as error:
            raise _corrigible(error) from error

    def _asked(self, k: int | None, runtime: Any) -> dict[str, Any]:
        # Only a runtime that a program handed over counts: what a model writes arrives as a dict or a string.
        run = runtime if isinstance(runtime, ToolRuntime) else ambient_runtime()
        who = caller(self.index, self.principal, None, run, otherwise=self.thread_id, checkpointed=True)
        return {
            "k": self.k if k is None else k,
            "principal": who.principal,
            "thread_id": who.thread_id,
            "budget_ms": self.budget_ms if who.budget_ms is None else who.budget_ms,
            "filter": self.filter,
            # The query is the model's wording. The conversation steers it, and is not told it as the user's turn.
            "remember": False,
        }


def _told(result: SearchResult) -> tuple[str, list[Document]]:
    return quote(result), as_documents(result)


def _corrigible(error: LirError) -> Exception:
    """What a model can put right, or try again, is told to it; everything else is the program's to handle."""
    if isinstance(error, InputError) and error.field not in ("query", "k"):
        return error
    return ToolException(str(error))
