"""The steps of a search, wired as a LangGraph graph and walked without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from lir_agents.errors import InputError
from lir_agents.graph.attempt import Attempt, Underway
from lir_agents.graph.batch import TOGETHER, sharing
from lir_agents.graph.conduct import Conducted
from lir_agents.graph.context import RetrievalContext
from lir_agents.graph.nodes import Nodes, as_documents
from lir_agents.graph.rooms import HasRooms
from lir_agents.graph.stages import STEPS, Run
from lir_agents.graph.state import SearchInput, SearchOutput, SearchState
from lir_agents.graph.tracing import traced
from lir_agents.telemetry import observe
from lir_agents.types import SearchResult

__all__ = ["asearch", "asearch_batch", "build_graph", "search", "search_batch"]


def build_graph(
    index: HasRooms, *, tools: Sequence[Any] = (), store: Any = None
) -> StateGraph[SearchState, RetrievalContext, SearchInput, SearchOutput]:
    """The retrieval graph over an open index, not yet compiled.

    Args:
        index: An open `LateInteractionIndex`; `index.search` takes these very steps.
        tools: LangChain tools that `tool_calls` (or a model's message) may ask for.
        store: A LangGraph `BaseStore` for session memory; the index's own by default.

    Returns:
        A `StateGraph` with `context_schema=RetrievalContext`; input ``{"query": ...}``, output
        ``{"documents": [...], "result": SearchResult}``. Compile it, or add it to a graph of your own, as
        a node that is not cached (see `retrieval_node`). A search that was interrupted or failed cannot be resumed:
        no checkpoint keeps anything of it.
    """
    nodes = Nodes(index, tools=tools, store=store)
    graph: StateGraph[SearchState, RetrievalContext, SearchInput, SearchOutput] = StateGraph(
        SearchState, context_schema=RetrievalContext, input_schema=SearchInput, output_schema=SearchOutput
    )
    for name in STEPS:
        graph.add_node(name, _node(nodes, name))
    for name, awaited in STEPS.items():
        graph.add_edge(list(awaited) if len(awaited) > 1 else awaited[0] if awaited else START, name)
    graph.add_edge([*STEPS][-1], END)
    return graph


def _node(nodes: Nodes, name: str) -> Callable[..., dict[str, Any]]:
    def node(state: SearchState, config: RunnableConfig, runtime: Runtime[RetrievalContext]) -> dict[str, Any]:
        run, made = Run(runtime, config), dict[str, Any]()
        underway = nodes.underway(run) if name == "authorize" else _underway(state)

        def take(step: str, attempt: Attempt) -> dict[str, Any]:
            return nodes.step(step, state, run, attempt)

        Conducted(nodes.rooms.limits, underway, (name,), take, made, admitted=name != "tools").run()
        if "result" in made:
            return {**made, "documents": as_documents(made["result"])}
        return {**made, "underway": underway} if name == "authorize" else made

    return node


def _underway(state: SearchState) -> Underway:
    """What is known of the search, of which no checkpoint keeps anything: who asks may not be who asked."""
    underway = state.get("underway")
    if underway is None:
        raise InputError(
            "went with the search that was interrupted or failed: nothing of one is kept in a checkpoint",
            field="query",
            remedy="Do not resume the graph; invoke it again with the query.",
        )
    return underway


def search(
    index: HasRooms, given: Mapping[str, Any], runtime: Any, *, within: Attempt | None = None
) -> SearchResult:
    """Takes every step in order.

    Args:
        index: The open index.
        given: What is asked, as the graph's input.
        runtime: Carries the context.
        within: The attempt at a larger work that the search is a part of.

    Raises:
        BudgetExceeded: Time ran out where nothing can stand in.
        Overloaded: Too many searches are at work.
        LirError: As `LateInteractionIndex.search`.
    """
    with observe("search") as observation:
        conducted, state = _conducted(index, given, runtime, within)
        conducted.run()
        observation.end(state["result"])
    result: SearchResult = state["result"]
    return result


async def asearch(index: HasRooms, given: Mapping[str, Any], runtime: Any) -> SearchResult:
    """`search`, without blocking the event loop."""
    with observe("search") as observation:
        conducted, state = _conducted(index, given, runtime)
        await conducted.arun()
        observation.end(state["result"])
    result: SearchResult = state["result"]
    return result


def search_batch(index: HasRooms, given: Sequence[Mapping[str, Any]], runtime: Any) -> list[SearchResult]:
    """`search` for several questions of one caller, which share what they can; with a budget, one by one."""
    if _bounded(index, runtime):
        return [search(index, one, runtime) for one in given]
    results: list[SearchResult] = []
    for conducted, state in _batches(index, given, runtime):
        conducted.run()
        results += state["results"]
    return results


async def asearch_batch(index: HasRooms, given: Sequence[Mapping[str, Any]], runtime: Any) -> list[SearchResult]:
    """`search_batch`, without blocking the event loop."""
    if _bounded(index, runtime):
        return [await asearch(index, one, runtime) for one in given]
    results: list[SearchResult] = []
    for conducted, state in _batches(index, given, runtime):
        await conducted.arun()
        results += state["results"]
    return results


def _bounded(index: HasRooms, runtime: Any) -> bool:
    """Whether there is time to watch: what is shared would be charged to whoever asks first."""
    return Nodes(index).underway(Run(runtime)).budget.bounded


def _batches(
    index: HasRooms, given: Sequence[Mapping[str, Any]], runtime: Any
) -> Iterator[tuple[Conducted, dict[str, Any]]]:
    """The searches in groups that share a place, and where their results will be."""
    nodes = Nodes(index)
    for start in range(0, len(given), TOGETHER):
        state: dict[str, Any] = {}
        take = partial(_take_all, index, given[start : start + TOGETHER], runtime)
        yield Conducted(nodes.rooms.limits, nodes.underway(Run(runtime)), ("batch",), take, state), state


def _take_all(
    index: HasRooms, given: Sequence[Mapping[str, Any]], runtime: Any, _: str, attempt: Attempt
) -> dict[str, Any]:
    try:
        shared = sharing(index, given, attempt)
    except InputError:
        shared = index  # the first search says what is wrong, as it would alone
    return {"results": [search(shared, one, runtime, within=attempt) for one in given]}


def _conducted(
    index: HasRooms, given: Mapping[str, Any], runtime: Any, within: Attempt | None = None
) -> tuple[Conducted, dict[str, Any]]:
    nodes, run, state = Nodes(index), Run(runtime), dict(given)

    def take(name: str, attempt: Attempt) -> dict[str, Any]:
        return traced(name, lambda: nodes.step(name, cast("SearchState", state), run, attempt))

    return Conducted(nodes.rooms.limits, nodes.underway(run), tuple(STEPS), take, state, within=within), state
