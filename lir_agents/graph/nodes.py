"""The steps of a search: each does its part of the work, and says what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from langchain_core.documents import Document as LangChainDocument

from lir_agents.audit import payloads
from lir_agents.errors import StoreError
from lir_agents.graph.context import RetrievalContext
from lir_agents.graph.conversation import conversation_of
from lir_agents.graph.find import find
from lir_agents.graph.recall import Recalled, readable_names
from lir_agents.graph.refusals import refusals_recorded
from lir_agents.graph.request import checked_request
from lir_agents.graph.rerank import Ranked, rank
from lir_agents.graph.rooms import HasRooms, Rooms
from lir_agents.graph.stages import CHANNELS, Run, run_stage
from lir_agents.graph.state import Admitted, Found, SearchState, Staged
from lir_agents.graph.surface import record_event, surface
from lir_agents.graph.tool_runs import ToolRun, run_tools
from lir_agents.memory.session import SessionMemory
from lir_agents.types import Coverage, Hit, SearchResult, StageCoverage, ToolSignal, Turn

__all__ = ["Nodes", "as_documents"]

T = TypeVar("T")


class Nodes:
    """The steps, bound to an index; each is named in `STEPS`. Holds no state of any run."""

    def __init__(self, index: HasRooms, *, tools: Sequence[Any] = (), store: Any = None) -> None:
        self._index = index
        self._tools = tuple(tools)
        self._store = store

    @property
    def rooms(self) -> Rooms:
        return self._index.rooms

    def step(self, name: str, state: SearchState, run: Run) -> dict[str, Any]:
        """Takes one step: what it adds to the state."""
        taken: Staged[Any] = getattr(self, name)(state, run)
        if name == "record":
            return {"result": _with_record(taken)}
        return {CHANNELS[name]: taken}

    def authorize(self, state: SearchState, run: Run) -> Staged[Admitted]:
        """Checks the request and asks the policy once. A refusal is recorded, then raised."""

        def work() -> Admitted:
            request = checked_request(state, self.rooms.settings.search)
            with refusals_recorded(self.rooms, None):
                principal = run.context.principal
            with refusals_recorded(self.rooms, principal):
                return Admitted(request, self.rooms.policy.authorize(principal, "search"))

        return run_stage("authorize", run, work)

    def memory(self, state: SearchState, run: Run) -> Staged[Recalled]:
        """Recalls what the conversation said, as far as it may still be read. Its failure costs the memory only."""
        admitted = _value(state["admitted"])
        thread_id, request = run.context.thread_id, admitted.request
        told = Recalled(request.history, ())
        if thread_id is None:
            status = StageCoverage("ok") if request.history else StageCoverage("skipped", "no conversation")
            return Staged(told, status)

        def work() -> Recalled:
            entries = self._memory.recall(
                admitted.scope.principal, thread_id, lambda names: readable_names(self.rooms, admitted.scope, names)
            )
            return Recalled.of(entries, request.history)

        return run_stage("memory", run, work, otherwise=told)

    def tools(self, state: SearchState, run: Run) -> Staged[tuple[ToolSignal, ...]]:
        """Runs the tools that were asked for and joins their answers to those that the caller brought."""
        request = _value(state["admitted"]).request
        calls = request.tool_calls or _asked_by_model(state)
        if not calls or not self._tools:
            reason = "tools were asked for, and the graph has none" if calls else "no tools were asked for"
            status = StageCoverage("ok") if request.tool_signals else StageCoverage("skipped", reason)
            return Staged(tuple(request.tool_signals), status)
        runs: list[ToolRun] = []

        def work() -> tuple[ToolSignal, ...]:
            settings = self.rooms.settings
            runs[:] = run_tools(
                self._tools,
                calls,
                run.config,
                timeout_s=settings.search.tool_timeout_s,
                max_chars=settings.memory.max_chars,
            )
            self._record_tools(runs, run.context)
            return (*request.tool_signals, *(run.signal for run in runs))

        return run_stage("tools", run, work, judge=lambda _: _judged(runs))

    def first_stage(self, state: SearchState, run: Run) -> Staged[Found]:
        """Encodes the turn once, alone and in context, and takes candidates within the scope."""
        admitted = _value(state["admitted"])
        recalled = state["recalled"].value or Recalled(admitted.request.history, ())
        signals = state["signals"].value or ()

        def work() -> Found:
            conversation = conversation_of(recalled.turns, recalled.signals, signals)
            return find(self.rooms, admitted.request, admitted.scope, conversation)

        return run_stage("first_stage", run, work)

    def rerank(self, state: SearchState, run: Run) -> Staged[Ranked]:
        """Scores MaxSim and fuses the signals."""
        found = _value(state["found"])
        boosts = found.evidence.boosts
        return run_stage(
            "rerank",
            run,
            lambda: rank(self.rooms, found.turn, found.candidates, context=found.context, boosts=boosts),
        )

    def record(self, state: SearchState, run: Run) -> Staged[SearchResult]:
        """Checks once more, records, and only then lets anything out; then remembers the turn."""
        return run_stage("record", run, lambda: self._recorded(state, run.context))

    def _recorded(self, state: SearchState, context: RetrievalContext) -> SearchResult:
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
        return SearchResult(hits, admitted.request.query, coverage, {}, event_id)

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


def _value(staged: Staged[T]) -> T:
    if staged.value is None:
        raise RuntimeError("a stage that others depend on left nothing behind")
    return staged.value


def _judged(runs: Sequence[ToolRun]) -> StageCoverage:
    failed = [f"{run.signal.tool}: {run.signal.error}" for run in runs if run.signal.error]
    return StageCoverage("failed" if failed else "ok", "; ".join(failed))


def _coverage(state: SearchState) -> Coverage:
    stages: dict[str, Any] = {name: state.get(channel) for name, channel in CHANNELS.items()}
    return Coverage({name: staged.coverage for name, staged in stages.items() if isinstance(staged, Staged)})


def _with_record(staged: Staged[SearchResult]) -> SearchResult:
    """The result with the coverage and the time of its last step."""
    result = _value(staged)
    stages = {**result.coverage.stages, "record": staged.coverage}
    timings = {name: stage.elapsed_ms for name, stage in stages.items()}
    # In a graph, memory and tools run side by side: the slower of the two is what the caller waited for.
    total = sum(timings.values()) - min(timings["memory"], timings["tools"])
    return replace(result, coverage=Coverage(stages), timings_ms={**timings, "total": total})
