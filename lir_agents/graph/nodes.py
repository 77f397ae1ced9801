"""The steps of a search: each does its part of the work, and says what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from langchain_core.documents import Document as LangChainDocument

from lir_agents.audit import payloads
from lir_agents.graph.attempt import Attempt, Budget, Underway
from lir_agents.graph.context import RetrievalContext
from lir_agents.graph.conversation import conversation_of
from lir_agents.graph.find import find
from lir_agents.graph.recall import Recalled, readable_names
from lir_agents.graph.refusals import refusals_recorded
from lir_agents.graph.request import checked_request
from lir_agents.graph.rerank import Ranked, rank
from lir_agents.graph.rooms import HasRooms, Rooms
from lir_agents.graph.shown import TURNS_BACK, shown_instead, shown_last
from lir_agents.graph.stages import CHANNELS, Run, run_stage
from lir_agents.graph.state import Admitted, Found, SearchState, Staged
from lir_agents.graph.surface import metadata_of, record_event, surface
from lir_agents.graph.tool_runs import ToolRun, run_tools
from lir_agents.memory.session import SessionMemory
from lir_agents.types import Coverage, SearchResult, StageCoverage, ToolSignal, Turn

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

    def underway(self, run: Run) -> Underway:
        """A search that begins at this moment."""
        with refusals_recorded(self.rooms, None):
            asked = run.context.budget_ms
        settings, limits = self.rooms.settings, self.rooms.limits
        ms = settings.search.budget_ms if asked is None else asked
        return Underway(Budget.of(ms, settings.limits, limits.clock()))

    def step(self, name: str, state: SearchState, run: Run, attempt: Attempt) -> dict[str, Any]:
        """Takes one step: what it adds to the state."""
        taken: Staged[Any] = getattr(self, name)(state, run, attempt)
        if name == "record":
            return {"result": _with_record(taken)}
        return {CHANNELS[name]: taken}

    def authorize(self, state: SearchState, run: Run, attempt: Attempt) -> Staged[Admitted]:
        """Checks the request and asks the policy once. A refusal is recorded, then raised."""

        def work() -> Admitted:
            request = checked_request(state, self.rooms.settings.search)
            with refusals_recorded(self.rooms, None):
                principal = run.context.principal
            with refusals_recorded(self.rooms, principal):
                return Admitted(request, self.rooms.policy.authorize(principal, "search"))

        return run_stage("authorize", run, attempt, work)

    def memory(self, state: SearchState, run: Run, attempt: Attempt) -> Staged[Recalled]:
        """Recalls what the conversation said, as far as it may still be read. Its failure costs the memory only."""
        admitted = _value(state["admitted"])
        thread_id, request = run.context.thread_id, admitted.request
        told = Recalled(request.history, ())
        if thread_id is None:
            status = StageCoverage("ok") if request.history else StageCoverage("skipped", "no conversation")
            return Staged(told, status)

        def readable(names: Sequence[str]) -> set[str]:
            return readable_names(self.rooms, admitted.scope, names)

        def work() -> Recalled:
            entries = self._memory.recall(admitted.scope.principal, thread_id, readable, shown=TURNS_BACK)
            return Recalled.of(entries, request.history)

        return run_stage("memory", run, attempt, lambda: attempt.ask("memory", work) or told)

    def tools(self, state: SearchState, run: Run, attempt: Attempt) -> Staged[tuple[ToolSignal, ...]]:
        """Runs the tools that were asked for and joins their answers to those that the caller brought."""
        request = _value(state["admitted"]).request
        calls = request.tool_calls or _asked_by_model(state)
        if not calls or not self._tools:
            reason = "tools were asked for, and the graph has none" if calls else "no tools were asked for"
            status = StageCoverage("ok") if request.tool_signals else StageCoverage("skipped", reason)
            return Staged(tuple(request.tool_signals), status)
        runs: list[ToolRun] = []

        def call() -> list[ToolRun]:
            settings = self.rooms.settings
            timeout_s = attempt.at_most_s("tools", settings.search.tool_timeout_s)
            chars = settings.memory.max_chars
            return run_tools(self._tools, calls, run.config, timeout_s=timeout_s, max_chars=chars)

        def work() -> tuple[ToolSignal, ...]:
            runs[:] = attempt.ask("tools", call) or ()
            self._record_tools(runs, run.context)
            return (*request.tool_signals, *(run.signal for run in runs))

        return run_stage("tools", run, attempt, work, judge=lambda _: _judged(runs))

    def first_stage(self, state: SearchState, run: Run, attempt: Attempt) -> Staged[Found]:
        """Encodes the turn once, alone and in context, and takes candidates within the scope."""
        admitted = _value(state["admitted"])
        recalled = state["recalled"].value or Recalled(admitted.request.history, ())
        signals = state["signals"].value or ()

        def work() -> Found:
            conversation = conversation_of(recalled.turns, recalled.signals, signals)
            return find(self.rooms, admitted.request, admitted.scope, conversation, parts=attempt)

        return run_stage("first_stage", run, attempt, work)

    def rerank(self, state: SearchState, run: Run, attempt: Attempt) -> Staged[Ranked]:
        """Scores MaxSim and fuses the signals; where nothing could be found, shows what was shown last."""
        found = _value(state["found"])
        if attempt.underway.left.get("first_stage") and not len(found.candidates.rows):
            ranked = shown_last(self.rooms, found.view, state["recalled"].value, attempt.underway)
            return Staged(ranked, shown_instead(ranked, attempt.underway))

        def work() -> Ranked:
            return rank(
                self.rooms,
                found.turn,
                found.candidates,
                context=found.context,
                boosts=found.evidence.boosts,
                parts=attempt,
            )

        return run_stage("rerank", run, attempt, work)

    def record(self, state: SearchState, run: Run, attempt: Attempt) -> Staged[SearchResult]:
        """Checks once more, records, and only then lets anything out; then remembers the turn."""

        def work() -> SearchResult:
            with self.rooms.in_flight.answering():
                return self._recorded(state, run.context, attempt)

        return run_stage("record", run, attempt, work)

    def _recorded(self, state: SearchState, context: RetrievalContext, attempt: Attempt) -> SearchResult:
        admitted, found, ranked = _value(state["admitted"]), _value(state["found"]), _value(state["ranked"])
        request, rooms = admitted.request, self.rooms
        with refusals_recorded(rooms, context.principal):
            hits = surface(rooms, request, admitted.scope, found.view, ranked)
        coverage = _coverage(state)
        said: tuple[Turn | ToolSignal, ...] = ()
        late = state["recalled"].coverage.status == "timed_out"  # who does not answer is not told either
        if context.thread_id is not None and request.remember and not late:
            # What stood in for an answer is no answer: it is not what this turn was shown.
            shown = [hit.passage_id for hit in hits] if len(found.candidates.rows) else []
            said = (*(state["signals"].value or ()), Turn("user", request.query, shown))
        attempt.commit()
        event_id = record_event(
            rooms, request, context, admitted.scope, found, hits, coverage, len(ranked.rows), said
        )
        result = SearchResult(hits, request.query, coverage, {}, event_id)
        elapsed_ms = attempt.elapsed_ms(attempt.underway.stages["record"])
        attempt.recorded(_with_record(Staged(result, StageCoverage("ok", "", elapsed_ms))))
        return replace(result, coverage=self._remembered(context, said, coverage, attempt))

    @property
    def _memory(self) -> SessionMemory:
        return self.rooms.memory if self._store is None else self.rooms.memory.over(self._store)

    def _remembered(
        self, context: RetrievalContext, said: Sequence[Turn | ToolSignal], coverage: Coverage, attempt: Attempt
    ) -> Coverage:
        """Keeps the turn; that it could not be kept is said in the coverage and costs nothing else."""
        thread_id = context.thread_id
        if thread_id is None or not said:
            return coverage
        # It has been recorded with the search.
        attempt.ask("remember", lambda: self._memory.keep(context.principal, thread_id, said))
        if (lost := attempt.lost("remember")) is None:
            return coverage
        return Coverage({**coverage.stages, "memory": StageCoverage(lost.status, f"not remembered: {lost.reason}")})

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
    """Hits as LangChain documents: `id` is the passage id, `metadata["lir"]` what the ranking knows.

    That is of one search, and equality of documents counts it: passages of several searches are told apart by `id`.
    """
    return [
        LangChainDocument(id=hit.passage_id, page_content=hit.text, metadata=metadata_of(hit, result))
        for hit in result
    ]


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
