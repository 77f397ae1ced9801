"""Drop-in classes for LangChain: thin translators over an open index.

Each is loaded when it is first asked for, so that a program pays for what it uses.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lir_agents.langchain.compressor import LateInteractionCompressor
    from lir_agents.langchain.retriever import LateInteractionRetriever
    from lir_agents.langchain.tool import LateInteractionSearchTool
    from lir_agents.langchain.vectorstore import LateInteractionVectorStore

__all__ = [
    "LateInteractionCompressor",
    "LateInteractionRetriever",
    "LateInteractionSearchTool",
    "LateInteractionVectorStore",
]

_HOMES = {
    "LateInteractionCompressor": "compressor",
    "LateInteractionRetriever": "retriever",
    "LateInteractionSearchTool": "tool",
    "LateInteractionVectorStore": "vectorstore",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
