"""The searching half of an index: one question or several, on the caller's thread or beside an event loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from lir_agents.graph.build import asearch, asearch_batch, search, search_batch
from lir_agents.graph.context import RetrievalContext, standing
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
            k=k, filter=filter, history=history, tool_signals=tool_signals, as_of=as_of, remember=remember
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
    ) -> SearchResult:
        """`search`, without blocking the event loop. Cancelled, it frees its thread at the next step."""
        about = _given(
            k=k, filter=filter, history=history, tool_signals=tool_signals, as_of=as_of, remember=remember
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
        """Several questions of one principal at once, as an agent asks that takes a task apart, or an evaluation.

        Each is a search of its own, authorised and recorded as such, with the hits that `search` finds; together
        they read the encoder's weights and the vectors' codes once. They belong to no conversation, and nothing is
        remembered.

        Args:
            queries: The questions; each is checked before the first is asked.
            k: Hits wanted for each.
            principal: Who asks.
            history: What was said before all of them.
            tool_signals: What tools answered just now.
            filter: Metadata filter of every search.
            as_of: When every search reads the index.
            budget_ms: Time for each search, in milliseconds; None: the setting `search.budget_ms`. Searches with a
                budget are asked one by one: nothing is read together that would count as somebody else's time.

        Returns:
            One result per question, in their order.

        Raises as `search`; what was recorded before that stays recorded. InputError names the question's position.
        """
        about = _given(k=k, filter=filter, history=history, tool_signals=tool_signals, as_of=as_of)
        given = [{"query": query, **about} for query in checked_queries(queries, self.rooms.settings.search)]
        return search_batch(self, given, standing(RetrievalContext(principal, None, budget_ms)))

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
        """`search_batch`, without blocking the event loop."""
        about = _given(k=k, filter=filter, history=history, tool_signals=tool_signals, as_of=as_of)
        given = [{"query": query, **about} for query in checked_queries(queries, self.rooms.settings.search)]
        return await asearch_batch(self, given, standing(RetrievalContext(principal, None, budget_ms)))


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
