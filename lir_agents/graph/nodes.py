"""The nodes of the graph: each does one step, times it, and says what became of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from langchain_core.documents import Document as LangChainDocument
from langchain_core.runnables import RunnableConfig
from langgraph.runtime import Runtime

from lir_agents.audit import payloads
from lir_agents.errors import StoreError
from lir_agents.graph.context import RetrievalContext
from lir_agents.graph.conversation import conversation_of
from lir_agents.graph.find import find
from lir_agents.graph.recall import Recalled, readable_names
from lir_agents.graph.refusals import refusals_recorded
from lir_agents.graph.request import checked_request
from lir_agents.graph.rerank import rank
from lir_agents.graph.rooms import HasRooms, Rooms
from lir_agents.graph.state import Admitted, Found, SearchState, Staged
from lir_agents.graph.surface import record_event, surface
from lir_agents.graph.tool_runs import ToolRun, run_tools
from lir_agents.memory.session import SessionMemory
from lir_agents.types import Coverage, Hit, SearchResult, StageCoverage, ToolSignal, Turn

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
            with refusals_recorded(self.rooms, None):
                principal = RetrievalContext.of_run(runtime).principal
            with refusals_recorded(self.rooms, principal):
                return Admitted(request, self.rooms.policy.authorize(principal, "search"))

        return _staged("authorize", runtime, work)

    def memory(self, state: SearchState, runtime: Runtime[RetrievalContext]) -> dict[str, Any]:
        """Recalls what the conversation said, as far as it may still be read. Its failure costs the memory only."""
        admitted = _value(state["admitted"])
        thread_id = RetrievalContext.of_run(runtime).thread_id
        request = admitted.request
        if thread_id is None:
            status = StageCoverage("ok") if request.history else StageCoverage("skipped", "no conversation")
            return {"recalled": Staged(Recalled(request.history, ()), status)}

        def work() -> Recalled:
            entries = self._memory.recall(
                admitted.scope.principal, thread_id, lambda names: readable_names(self.rooms, admitted.scope, names)
            )
            return Recalled.of(entries, request.history)

        return _staged("memory", runtime, work, otherwise=Recalled(request.history, ()))

    def tools(
        self, state: SearchState, config: RunnableConfig, runtime: Runtime[RetrievalContext]
    ) -> dict[str, Any]:
        """Runs the tools that were asked for and joins their answers to those that the caller brought."""
        request = _value(state["admitted"]).request
        calls = request.tool_calls or _asked_by_model(state)
        if not calls or not self._tools:
            reason = "tools were asked for, and the graph has none" if calls else "no tools were asked for"
            status = StageCoverage("ok") if request.tool_signals else StageCoverage("skipped", reason)
            return {"signals": Staged(tuple(request.tool_signals), status)}
        started = time.perf_counter()
        runs = run_tools(
            self._tools,
            calls,
            config,
            timeout_s=self.rooms.settings.search.tool_timeout_s,
            max_chars=self.rooms.settings.memory.max_chars,
        )
        self._record_tools(runs, RetrievalContext.of_run(runtime))
        failed = [f"{run.signal.tool}: {run.signal.error}" for run in runs if run.signal.error]
        elapsed_ms = (time.perf_counter() - started) * 1000
        status = StageCoverage("failed" if failed else "ok", "; ".join(failed), elapsed_ms)
        runtime.stream_writer({"stage": "tools", "status": status.status, "elapsed_ms": elapsed_ms})
        return {"signals": Staged((*request.tool_signals, *(run.signal for run in runs)), status)}

    def first_stage(self, state: SearchState, runtime: Runtime[RetrievalContext]) -> dict[str, Any]:
        """Encodes the turn once, alone and in context, and takes candidates within the scope."""
        admitted = _value(state["admitted"])
        recalled = state["recalled"].value or Recalled(admitted.request.history, ())
        signals = state["signals"].value or ()

        def work() -> Found:
            conversation = conversation_of(recalled.turns, recalled.signals, signals)
            return find(self.rooms, admitted.request, admitted.scope, conversation)

        return _staged("first_stage", runtime, work)

    def rerank(self, state: SearchState, runtime: Runtime[RetrievalContext]) -> dict[str, Any]:
        """Scores MaxSim and fuses the signals."""
        found = _value(state["found"])
        return _staged(
            "rerank",
            runtime,
            lambda: rank(
                self.rooms, found.turn, found.candidates, context=found.context, boosts=found.evidence.boosts
            ),
        )

    def record(self, state: SearchState, runtime: Runtime[RetrievalContext]) -> dict[str, Any]:
        """Checks once more, records, and only then lets anything out; then remembers the turn."""
        started = time.perf_counter()
        context = RetrievalContext.of_run(runtime)
        admitted, found, ranked = _value(state["admitted"]), _value(state["found"]), _value(state["ranked"])
        with refusals_recorded(self.rooms, context.principal):
            hits = surface(self.rooms, admitted.request, admitted.scope, found.view, ranked)
        coverage = _coverage(state)
        said: tuple[Turn | ToolSignal, ...] = ()
        if context.thread_id is not None and admitted.request.remember:
            turn = Turn("user", admitted.request.query, [hit.passage_id for hit in hits])
            said = (*(state["signals"].value or ()), turn)
        event_id = record_event(
            self.rooms, admitted.request, context, admitted.scope, found, hits, coverage, len(ranked.rows), said
        )
        coverage = self._remember(context, said, coverage)
        coverage, timings = _with_record(coverage, started)
        result = SearchResult(
            hits=hits, query=admitted.request.query, coverage=coverage, timings_ms=timings, event_id=event_id
        )
        runtime.stream_writer({"stage": "record", "status": "ok", "elapsed_ms": timings["record"]})
        return {"result": result, "documents": as_documents(result)}

    @property
    def _memory(self) -> SessionMemory:
        return self.rooms.memory if self._store is None else self.rooms.memory.over(self._store)

    def _remember(
        self,
        context: RetrievalContext,
        said: Sequence[Turn | ToolSignal],
        coverage: Coverage,
    ) -> Coverage:
        """Keeps the turn; that it could not be kept is said in the coverage and costs nothing else."""
        if context.thread_id is None or not said:
            return coverage
        try:
            self._memory.keep(context.principal, context.thread_id, said)  # recorded with the search
        except StoreError as error:
            return Coverage({**coverage.stages, "memory": StageCoverage("failed", f"not remembered: {error}")})
        return coverage

    def _record_tools(self, runs: Sequence[ToolRun], context: RetrievalContext) -> None:
        self.rooms.audit.append_many(
            payloads.tool_call(
                context.principal,
                tool=run.signal.tool,
                arguments=run.arguments,
                output=run.signal.output if isinstance(run.signal.output, str) else dict(run.signal.output),
                confidence=run.signal.confidence,
                error=run.signal.error,
                elapsed_ms=run.elapsed_ms,
                thread_id=context.thread_id,
            )
            for run in runs
        )


def _asked_by_model(state: SearchState) -> Sequence[Mapping[str, Any]]:
    """Tool calls of the last message, where a model wrote it."""
    messages = state.get("messages") or []
    return list(getattr(messages[-1], "tool_calls", None) or ()) if messages else ()


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


def _staged(
    name: str, runtime: Runtime[RetrievalContext], work: Callable[[], Any], *, otherwise: Any = None
) -> dict[str, Any]:
    """Runs a stage. With `otherwise`, a store that fails leaves the stage out instead of ending the search."""
    started = time.perf_counter()
    value, status, reason = otherwise, "ok", ""
    try:
        value = work()
    except StoreError as error:
        if otherwise is None:
            raise
        status, reason = "failed", str(error)
    elapsed_ms = (time.perf_counter() - started) * 1000
    runtime.stream_writer({"stage": name, "status": status, "elapsed_ms": elapsed_ms})
    return {_CHANNELS[name]: Staged(value, StageCoverage(status, reason, elapsed_ms))}  # type: ignore[arg-type]


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
