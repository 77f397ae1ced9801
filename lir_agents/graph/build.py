"""The order of the steps, written once.

::

    authorize ──┬── memory ──┬── first_stage ── rerank ── record
                └── tools ───┘

Memory and tools run side by side; both steer the first stage, so it waits for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from langgraph.graph import END, START, StateGraph

from lir_agents.graph.context import RetrievalContext
from lir_agents.graph.nodes import Nodes
from lir_agents.graph.rooms import HasRooms
from lir_agents.graph.state import SearchInput, SearchOutput, SearchState

__all__ = ["build_graph"]


def build_graph(
    index: HasRooms, *, tools: Sequence[Any] = (), store: Any = None
) -> StateGraph[SearchState, RetrievalContext, SearchInput, SearchOutput]:
    """The retrieval graph over an open index, not yet compiled.

    Args:
        index: An open `LateInteractionIndex`; `index.search` runs this very graph.
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
    steps: dict[str, Callable[..., Any]] = {
        "authorize": nodes.authorize,
        "memory": nodes.memory,
        "tools": nodes.tools,
        "first_stage": nodes.first_stage,
        "rerank": nodes.rerank,
        "record": nodes.record,
    }
    for name, step in steps.items():
        graph.add_node(name, step)
    graph.add_edge(START, "authorize")
    graph.add_edge("authorize", "memory")
    graph.add_edge("authorize", "tools")
    graph.add_edge(["memory", "tools"], "first_stage")
    graph.add_edge("first_stage", "rerank")
    graph.add_edge("rerank", "record")
    graph.add_edge("record", END)
    return graph
