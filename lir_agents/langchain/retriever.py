"""`LateInteractionRetriever`: an index as a LangChain retriever."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever, LangSmithRetrieverParams
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config, patch_config, set_config_context
from langchain_core.runnables.utils import coro_with_context
from pydantic import ConfigDict, Field

from lir_agents.engine import LateInteractionIndex
from lir_agents.errors import LirError
from lir_agents.graph.nodes import as_documents
from lir_agents.langchain.caller import ambient_runtime, caller
from lir_agents.types import Filter, Principal, ToolSignal, Turn

__all__ = ["LateInteractionRetriever"]


class LateInteractionRetriever(BaseRetriever):
    """Passages of an index, best first, as LangChain documents.

    `id` is the passage id; ``metadata["lir"]`` holds score, rank, breakdown, document id, version and the id of
    the audit event. Everything but the index can also be given per call:
    ``retriever.invoke("how many days off?", k=3, filter={"region": "eu"})``.

    `batch` asks in several threads, each input under its own config and callbacks; where that is not needed,
    `index.search_batch` gets more questions answered in the same time.

    Example:
        >>> retriever = LateInteractionRetriever(index=index, k=5).as_principal(alice)
        >>> retriever.invoke("how many days off do I get?")
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    index: LateInteractionIndex = Field(exclude=True, repr=False)
    """The open index; shared, never closed by the retriever."""
    k: int | None = Field(default=None, ge=1)
    """Documents wanted; None: the index's default."""
    principal: Principal | None = None
    """Who asks. Every index that is not open refuses None."""
    thread_id: str | None = Field(default=None, min_length=1)
    """The conversation to recall, and to remember each query in; None: neither."""
    filter: dict[str, Any] | None = None
    """Metadata filter, see `lir_agents.types.Filter`."""
    budget_ms: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Time for each search in milliseconds; None: as the run's context or the settings say."""

    def as_principal(self, principal: Principal | None) -> LateInteractionRetriever:
        """The same retriever for somebody else; this one stays as it is."""
        return self.model_copy(update={"principal": principal})

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        about = LangSmithRetrieverParams(
            ls_retriever_name="lateinteraction",
            ls_vector_store_provider="lir-agents",
            ls_embedding_provider="sentence-transformers",
        )
        with suppress(LirError):  # of a closed index, which is told within the run, where tracers hear of it
            about["ls_embedding_model"] = self.index.rooms.encoder.name
        return about

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        principal: Principal | None = None,
        thread_id: str | None = None,
        filter: Filter | None = None,
        history: Sequence[Turn] = (),
        tool_signals: Sequence[ToolSignal] = (),
        budget_ms: float | None = None,
    ) -> list[Document]:
        asked = self._asked(k, principal, thread_id, filter, history, tool_signals, budget_ms)
        with set_config_context(_child(run_manager)) as context:
            return as_documents(context.run(self.index.search, query, **asked))

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        principal: Principal | None = None,
        thread_id: str | None = None,
        filter: Filter | None = None,
        history: Sequence[Turn] = (),
        tool_signals: Sequence[ToolSignal] = (),
        budget_ms: float | None = None,
    ) -> list[Document]:
        asked = self._asked(k, principal, thread_id, filter, history, tool_signals, budget_ms)
        with set_config_context(_child(run_manager)) as context:
            return as_documents(await coro_with_context(self.index.asearch(query, **asked), context))

    def _asked(
        self,
        k: int | None,
        principal: Principal | None,
        thread_id: str | None,
        filter: Filter | None,
        history: Sequence[Turn],
        tool_signals: Sequence[ToolSignal],
        budget_ms: float | None,
    ) -> dict[str, Any]:
        """What a call gives wins over what the retriever was made with; a graph around fills what both leave."""
        budget_ms = self.budget_ms if budget_ms is None else budget_ms
        who = caller(
            self.index,
            self.principal if principal is None else principal,
            self.thread_id if thread_id is None else thread_id,
            ambient_runtime(),
        )
        return {
            "k": self.k if k is None else k,
            "principal": who.principal,
            "thread_id": who.thread_id,
            "budget_ms": who.budget_ms if budget_ms is None else budget_ms,
            "filter": self.filter if filter is None else filter,
            "history": history,
            "tool_signals": tool_signals,
        }


def _child(run_manager: CallbackManagerForRetrieverRun | AsyncCallbackManagerForRetrieverRun) -> RunnableConfig:
    """The config under which the steps of the retrieval appear as children of the retriever's run."""
    return patch_config(ensure_config(), callbacks=run_manager.get_child())
