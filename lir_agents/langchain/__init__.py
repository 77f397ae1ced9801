"""Drop-in classes for LangChain: thin translators over an open index.

Each is loaded when it is first asked for, so that a program pays for what it uses.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lir_agents.errors import MissingExtra

if TYPE_CHECKING:
    from lir_agents.langchain.adopt import adopted_encoder
    from lir_agents.langchain.compressor import LateInteractionCompressor
    from lir_agents.langchain.middleware import LateInteractionMiddleware
    from lir_agents.langchain.retriever import LateInteractionRetriever
    from lir_agents.langchain.tool import LateInteractionSearchTool
    from lir_agents.langchain.vectorstore import LateInteractionVectorStore

__all__ = [
    "LateInteractionCompressor",
    "LateInteractionMiddleware",
    "LateInteractionRetriever",
    "LateInteractionSearchTool",
    "LateInteractionVectorStore",
    "adopted_encoder",
]

_HOMES = {
    "LateInteractionCompressor": "compressor",
    "LateInteractionMiddleware": "middleware",
    "LateInteractionRetriever": "retriever",
    "LateInteractionSearchTool": "tool",
    "LateInteractionVectorStore": "vectorstore",
    "adopted_encoder": "adopt",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "langchain":
            raise MissingExtra(f"lir_agents.langchain.{name}", extra="langchain") from error
        raise


def __dir__() -> list[str]:
    return sorted(__all__)
