"""The LangGraph wiring. The order of the steps stands here and nowhere else.

``from lir_agents.graph import RetrievalContext, build_graph, retrieval_node``
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lir_agents.graph.as_node import retrieval_node
    from lir_agents.graph.build import build_graph
    from lir_agents.graph.context import RetrievalContext

__all__ = ["RetrievalContext", "build_graph", "retrieval_node"]

_HOMES = {"RetrievalContext": "context", "build_graph": "build", "retrieval_node": "as_node"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
