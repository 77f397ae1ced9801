"""Drop-in classes for LlamaIndex: thin translators over an open index.

Each is loaded when it is first asked for, so that a program pays for what it uses.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lir_agents.errors import MissingExtra

if TYPE_CHECKING:
    from lir_agents.llama_index.memory_block import LateInteractionMemoryBlock
    from lir_agents.llama_index.postprocessor import LateInteractionPostprocessor
    from lir_agents.llama_index.retriever import LateInteractionRetriever
    from lir_agents.llama_index.tool_spec import LateInteractionToolSpec

__all__ = [
    "LateInteractionMemoryBlock",
    "LateInteractionPostprocessor",
    "LateInteractionRetriever",
    "LateInteractionToolSpec",
]

_HOMES = {
    "LateInteractionMemoryBlock": "memory_block",
    "LateInteractionPostprocessor": "postprocessor",
    "LateInteractionRetriever": "retriever",
    "LateInteractionToolSpec": "tool_spec",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "llama_index":
            raise MissingExtra(f"lir_agents.llama_index.{name}", extra="llama-index") from error
        raise


def __dir__() -> list[str]:
    return sorted(__all__)
