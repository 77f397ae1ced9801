"""Late interaction retrieval for agents.

    from lir_agents import LateInteractionIndex, Document, Principal

The face of the package: public names and no logic. Importing it loads no torch, chromadb or framework; the
engine is loaded when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lir_agents.bindings import MetadataSignal, ToolBinding
from lir_agents.errors import (
    AccessDenied,
    BudgetExceeded,
    ConfigError,
    IndexLocked,
    InputError,
    IntegrityError,
    LirError,
    MissingExtra,
    Overloaded,
    StoreError,
)
from lir_agents.reports import AddReport, Failure
from lir_agents.types import (
    Coverage,
    Decision,
    Document,
    Hit,
    Principal,
    SearchResult,
    StageCoverage,
    ToolSignal,
    Turn,
)

if TYPE_CHECKING:
    from lir_agents.config import Settings, load_settings
    from lir_agents.encoding.base import Encoder
    from lir_agents.engine import LateInteractionIndex
    from lir_agents.ingest.redact_keeping import VaultFile
    from lir_agents.inspecting import Finding
    from lir_agents.repairing import RepairReport, repair
    from lir_agents.tenants import TenantIndexes

__version__ = "0.1.0"

__all__ = [
    "AccessDenied",
    "AddReport",
    "BudgetExceeded",
    "ConfigError",
    "Coverage",
    "Decision",
    "Document",
    "Encoder",
    "Failure",
    "Finding",
    "Hit",
    "IndexLocked",
    "InputError",
    "IntegrityError",
    "LateInteractionIndex",
    "LirError",
    "MetadataSignal",
    "MissingExtra",
    "Overloaded",
    "Principal",
    "RepairReport",
    "SearchResult",
    "Settings",
    "StageCoverage",
    "StoreError",
    "TenantIndexes",
    "ToolBinding",
    "ToolSignal",
    "Turn",
    "VaultFile",
    "__version__",
    "load_settings",
    "repair",
]

_LAZY = {
    "LateInteractionIndex": "lir_agents.engine",
    "Encoder": "lir_agents.encoding.base",
    "Finding": "lir_agents.inspecting",
    "RepairReport": "lir_agents.repairing",
    "Settings": "lir_agents.config",
    "TenantIndexes": "lir_agents.tenants",
    "VaultFile": "lir_agents.ingest.redact_keeping",
    "load_settings": "lir_agents.config",
    "repair": "lir_agents.repairing",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
