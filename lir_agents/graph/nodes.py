"""The nodes of the graph: each does one step, times it, and says what became of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from langchain_core.documents import Document as LangChainDocument
from langgraph.runtime import Runtime

from lir_agents.graph.candidates import find_candidates, look_at, read_query
from lir_agents.graph.context import RetrievalContext
from lir_agents.graph.refusals import refusals_recorded
from lir_agents.graph.request import checked_request
from lir_agents.graph.rerank import rank
from lir_agents.graph.rooms import HasRooms, Rooms
from lir_agents.graph.state import Admitted, Found, SearchState, Staged
from lir_agents.graph.surface import record_event, surface
from lir_agents.types import Coverage, Hit, SearchResult, StageCoverage

__all__ = ["Nodes", "as_documents"]

T = TypeVar("T")

_CHANNELS = {
    "authorize": "admitted",
    "memory": "recalled",
    "tools": "signals",
    "first_stage": "found",
    "rerank": "ranked",
}


class Nodes:
    """The graph's nodes, bound to an index. Holds no state of any run."""

    def __init__(self, index: HasRooms, *, tools: Sequence[Any] = (), store: Any = None) -> None:
        self._index = index
        self._tools = tuple(tools)
        self._store = store

    @property
    def rooms(self) -> Rooms:
        return self._index.rooms

    def authorize(self, state: SearchState, runtime: Runtime[RetrievalContext]) -> dict[str, Any]:
        """Checks the request and asks the policy once. A refusal is recorded, then raised."""

        def work() -> Admitted:
            request = checked_request(state, self.rooms.settings.search)
            context = RetrievalContext.of(runtime.context)
            with refusals_recorded(self.rooms, context.principal):
                return Admitted(request, self.rooms.policy.authorize(context.principal, "search"))

        return _staged("authorize", runtime, work)

    def memory(self, state: SearchState, runtime: Runtime[RetrievalContext]) -> dict[str, Any]:
        """Recalls what the conversation said."""
        return {"recalled": Staged(None, StageCoverage("skipped", "no conversation"))}

    def tools(self, state: SearchState, runtime: Runtime[RetrievalContext]) -> dict[str, Any]:
        """Runs the tools that were asked for and turns their answers into signals."""
        return {"signals": Staged(None, StageCoverage("skipped", "no tools"))}

    def first_stage(self, state: SearchState, runtime: Runtime[RetrievalContext]) -> dict[str, Any]:
        """Encodes the turn once and takes candidates from both lists, within the scope."""
        admitted = _value(state["admitted"])

        def work() -> Found:
            with refusals_recorded(self.rooms, admitted.scope.principal):
                view = look_at(self.rooms, admitted.request, admitted.scope)
            turn = read_query(self.rooms, admitted.request.query, view)
            depth = max(self.rooms.settings.search.first_stage_k, admitted.request.k)
            return Found(view, turn, find_candidates(self.rooms, [turn], view, depth))

        return _staged("first_stage", runtime, work)

    def rerank(self, state: SearchState, runtime: Runtime[RetrievalContext]) -> dict[str, Any]:
        """Scores MaxSim and fuses the signals."""
        found = _value(state["found"])
        return _staged("rerank", runtime, lambda: rank(self.rooms, found.turn, found.candidates))

    def record(self, state: SearchState, runtime: Runtime[RetrievalContext]) -> dict[str, Any]:
        """Checks once more, records, and only then lets anything out."""
        started = time.perf_counter()
        context = RetrievalContext.of(runtime.context)
        admitted, found, ranked = _value(state["admitted"]), _value(state["found"]), _value(state["ranked"])
        with refusals_recorded(self.rooms, context.principal):
            hits = surface(self.rooms, admitted.request, admitted.scope, found.view, ranked)
        coverage = _coverage(state)
        event_id = record_event(
            self.rooms,
            admitted.request,
            context,
            admitted.scope,
            found.view,
            hits,
            coverage,
            candidates=len(ranked.rows),
        )
        coverage, timings = _with_record(coverage, started)
        result = SearchResult(
            hits=hits, query=admitted.request.query, coverage=coverage, timings_ms=timings, event_id=event_id
        )
        runtime.stream_writer({"stage": "record", "status": "ok", "elapsed_ms": timings["record"]})
        return {"result": result, "documents": as_documents(result)}


def as_documents(result: SearchResult) -> list[LangChainDocument]:
    """Hits as LangChain documents: `id` is the passage id, `metadata["lir"]` what the ranking knows."""
    return [
        LangChainDocument(id=hit.passage_id, page_content=hit.text, metadata=_metadata(hit, result))
        for hit in result
    ]


def _metadata(hit: Hit, result: SearchResult) -> dict[str, Any]:
    about = {"title": hit.title, "source": hit.source_uri or hit.source or hit.document_id}
    return {
        **{key: value for key, value in about.items() if value},
        **hit.metadata,
        "lir": {
            "score": hit.score,
            "rank": hit.rank,
            "breakdown": dict(hit.breakdown),
            "document_id": hit.document_id,
            "version": hit.version,
            "event_id": result.event_id,
        },
    }


def _staged(name: str, runtime: Runtime[RetrievalContext], work: Callable[[], Any]) -> dict[str, Any]:
    started = time.perf_counter()
    value = work()
    elapsed_ms = (time.perf_counter() - started) * 1000
    runtime.stream_writer({"stage": name, "status": "ok", "elapsed_ms": elapsed_ms})
    return {_CHANNELS[name]: Staged(value, StageCoverage("ok", elapsed_ms=elapsed_ms))}


def _value(staged: Staged[T]) -> T:
    if staged.value is None:
        raise RuntimeError("a stage that others depend on left nothing behind")
    return staged.value


def _coverage(state: SearchState) -> Coverage:
    return Coverage({name: state[channel].coverage for name, channel in _CHANNELS.items() if channel in state})  # type: ignore[literal-required]


def _with_record(coverage: Coverage, started: float) -> tuple[Coverage, dict[str, float]]:
    elapsed_ms = (time.perf_counter() - started) * 1000
    stages = {**coverage.stages, "record": StageCoverage("ok", elapsed_ms=elapsed_ms)}
    timings = {name: stage.elapsed_ms for name, stage in stages.items()}
    # Memory and tools run side by side: the slower of the two is what the caller waited for.
    total = sum(timings.values()) - min(timings["memory"], timings["tools"])
    return Coverage(stages), {**timings, "total": total}
