"""The searching half of an index: one question or several, on the caller's thread or beside an event loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from lir_agents.graph.build import asearch, asearch_batch, search, search_batch
from lir_agents.graph.context import RetrievalContext, Standing, standing
from lir_agents.graph.request import checked_queries
from lir_agents.graph.rooms import Rooms
from lir_agents.types import Filter, Principal, SearchResult, ToolSignal, Turn

__all__ = ["SearchedIndex"]


class SearchedIndex(ABC):
    """What `LateInteractionIndex` inherits; see there."""

    @property
    @abstractmethod
    def rooms(self) -> Rooms:
        """The open rooms. Raises InputError once the index is closed."""

    def search(
        self,
        query: str,
        *,
        k: int | None = None,
        principal: Principal | None = None,
        thread_id: str | None = None,
        history: Sequence[Turn] = (),
        tool_signals: Sequence[ToolSignal] = (),
        filter: Filter | None = None,
        as_of: int | datetime | None = None,
        budget_ms: float | None = None,
        remember: bool = True,
        one_per_document: bool = False,
    ) -> SearchResult:
        """The k passages that answer best, ranked by late interaction and everything known at this moment.

        Args:
            query: The turn, as the user wrote it.
            k: Hits wanted; None: the settings' default. Fewer come back only where fewer may be read.
            principal: Who asks. Required by every index that is not open.
            thread_id: The conversation to recall, and to remember this turn in.
            history: The conversation so far, where the caller keeps it; joins what the thread remembers.
            tool_signals: What tools answered just now.
            filter: Metadata filter, see `lir_agents.types.Filter`.
            as_of: An epoch or an aware datetime: read the index as it was then (under today's access rules); what
                lies ahead means now.
            budget_ms: Time for the whole search, in milliseconds; None: the setting `search.budget_ms`. What has
                not answered by then is left out and named in `coverage`.
            remember: False leaves no trace in the thread's memory.
            one_per_document: Every document once, by its best passage, and as many documents as k.

        Returns:
            Hits with breakdowns, coverage, timings and the id of the audit event.

        Raises:
            InputError: A field is bad; the message names it and the remedy.
            AccessDenied: The policy refused the request; the refusal is recorded.
            BudgetExceeded: Nothing that is both authorised and recorded was ready in time.
            Overloaded: Too many searches are at work, or wait; nothing was begun.
            StoreError: A store that the answer needs failed, or it could not be recorded.
        """
        about = _given(
            k=k,
            filter=filter,
            history=history,
            tool_signals=tool_signals,
            as_of=as_of,
            remember=remember,
            one_per_document=one_per_document,
        )
        run = standing(RetrievalContext(principal, thread_id, budget_ms))
        return search(self, {"query": query, **about}, run)

    async def asearch(
        self,
        query: str,
        *,
        k: int | None = None,
        principal: Principal | None = None,
        thread_id: str | None = None,
        history: Sequence[Turn] = (),
        tool_signals: Sequence[ToolSignal] = (),
        filter: Filter | None = None,
        as_of: int | datetime | None = None,
        budget_ms: float | None = None,
        remember: bool = True,
        one_per_document: bool = False,
    ) -> SearchResult:
        """`search`, without blocking the event loop. Cancelled, it frees its thread at the next step."""
        about = _given(
            k=k,
            filter=filter,
            history=history,
            tool_signals=tool_signals,
            as_of=as_of,
            remember=remember,
            one_per_document=one_per_document,
        )
        run = standing(RetrievalContext(principal, thread_id, budget_ms))
        return await asearch(self, {"query": query, **about}, run)

    def search_batch(
        self,
        queries: Iterable[str],
        *,
        k: int | None = None,
        principal: Principal | None = None,
        history: Sequence[Turn] = (),
        tool_signals: Sequence[ToolSignal] = (),
        filter: Filter | None = None,
        as_of: int | datetime | None = None,
        budget_ms: float | None = None,
    ) -> list[SearchResult]:
        """Several questions of one principal at once, as an agent asks that takes a task apart.

        Each is a search of its own, authorised and recorded as such, with the hits that `search` finds. Sixteen at
        a time share a place among the searches at work, one encoding (where that changes no bit of a vector: in
        OpenVINO) and one scan of the vectors (not of questions that are read in the light of a history). The first
        of the sixteen tells the time of what is shared. The questions belong to no conversation: nothing is
        remembered.

        Args:
            queries: The questions, in an order; each is checked before the first is asked. None of them: nothing
                is asked, checked or recorded.
            k: Hits wanted for each; None: the settings' default. Fewer come back only where fewer may be read.
            principal: Who asks. Required by every index that is not open.
            history: The conversation before all of them.
            tool_signals: What tools answered just now.
            filter: Metadata filter, see `lir_agents.types.Filter`.
            as_of: An epoch or an aware datetime: read the index as it was then.
            budget_ms: Time for each search, in milliseconds; None: the setting `search.budget_ms`. Where there is a
                budget, also of a room or a stage (`limits.stage_budgets_ms`), questions are asked one by one and
                share nothing: it would be charged to the first.

        Returns:
            One result per question, in their order.

        Raises:
            InputError: A field is bad; of a question, its position is named.
            AccessDenied: The policy refused a search; the refusal is recorded.
            BudgetExceeded: A search had nothing that is both authorised and recorded in time.
            Overloaded: Too many searches are at work, or wait.
            StoreError: A store that an answer needs failed, or it could not be recorded.

        Searches before one that raises stand in the log, and their results are not returned.
        """
        given, run = self._batch(
            queries,
            RetrievalContext(principal, None, budget_ms),
            _given(k=k, filter=filter, history=history, tool_signals=tool_signals, as_of=as_of),
        )
        return search_batch(self, given, run)

    async def asearch_batch(
        self,
        queries: Iterable[str],
        *,
        k: int | None = None,
        principal: Principal | None = None,
        history: Sequence[Turn] = (),
        tool_signals: Sequence[ToolSignal] = (),
        filter: Filter | None = None,
        as_of: int | datetime | None = None,
        budget_ms: float | None = None,
    ) -> list[SearchResult]:
        """`search_batch`, without blocking the event loop. Cancelled, it frees its thread at the next step."""
        given, run = self._batch(
            queries,
            RetrievalContext(principal, None, budget_ms),
            _given(k=k, filter=filter, history=history, tool_signals=tool_signals, as_of=as_of),
        )
        return await asearch_batch(self, given, run)

    def _batch(
        self, queries: Iterable[str], context: RetrievalContext, about: Mapping[str, Any]
    ) -> tuple[list[dict[str, Any]], Standing]:
        questions = checked_queries(queries, self.rooms.settings.search)
        return [{"query": question, **about} for question in questions], standing(context)


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
