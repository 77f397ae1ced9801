"""The steps of a search, wired as a LangGraph graph and walked without one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from lir_agents.graph.context import RetrievalContext
from lir_agents.graph.nodes import Nodes, as_documents
from lir_agents.graph.rooms import HasRooms
from lir_agents.graph.stages import STEPS, Run
from lir_agents.graph.state import SearchInput, SearchOutput, SearchState
from lir_agents.graph.tracing import traced
from lir_agents.telemetry import observe
from lir_agents.types import SearchResult

__all__ = ["build_graph", "walk"]


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
        ``{"documents": [...], "result": SearchResult}``. Compile it, or add it to a graph of your own.
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
        made = nodes.step(name, state, Run(runtime, config))
        return {**made, "documents": as_documents(made["result"])} if "result" in made else made

    return node


def walk(index: HasRooms, given: Mapping[str, Any], runtime: Any) -> SearchResult:
    """Takes every step in order, on the calling thread.

    Args:
        index: The open index.
        given: What is asked, as the graph's input.
        runtime: Carries the context.
    """
    nodes, run = Nodes(index), Run(runtime)
    state: Any = dict(given)
    step = traced(lambda name: state.update(nodes.step(name, state, run)))
    with observe("search") as observation:
        for name in STEPS:
            step(name)
        result: SearchResult = state["result"]
        observation.end(result)
    return result
