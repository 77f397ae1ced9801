"""The rooms that a search passes through, opened by the engine and handed to the graph's nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from lir_agents.audit.log import AuditLog
from lir_agents.bindings import MetadataSignal, ToolBinding
from lir_agents.config import Settings
from lir_agents.encoding.base import Encoder
from lir_agents.graph.in_flight import InFlight
from lir_agents.graph.limits import Limits
from lir_agents.ingest.compose import Composer
from lir_agents.memory.session import SessionMemory
from lir_agents.policy.base import Policy
from lir_agents.ranking.fusion import FusionWeights
from lir_agents.stores.base import LexicalStore, TokenStore, VectorStore
from lir_agents.stores.catalog import Catalog

__all__ = ["HasRooms", "Rooms"]


@dataclass(frozen=True, slots=True)
class Rooms:
    """Everything a search reads and writes.

    Attributes:
        origin: Names the open index in the hits that it gives out.
        bindings: How fields of tool outputs speak of documents.
        signals: What documents' own metadata says for them.
        limits: What all searches share: places, threads, circuit breakers; made as the settings say.
        in_flight: Answers between their last check and their entry in the log.
    """

    catalog: Catalog
    vectors: VectorStore
    tokens: TokenStore
    lexical: LexicalStore
    encoder: Encoder
    composer: Composer
    policy: Policy
    audit: AuditLog
    settings: Settings
    memory: SessionMemory
    origin: str
    weights: FusionWeights = field(default_factory=FusionWeights)
    bindings: Sequence[ToolBinding] = ()
    signals: Sequence[MetadataSignal] = ()
    limits: Limits = field(default=None)  # type: ignore[assignment]
    in_flight: InFlight = field(default_factory=InFlight)

    def __post_init__(self) -> None:
        if self.limits is None:
            object.__setattr__(self, "limits", Limits.of(self.settings.limits))


@runtime_checkable
class HasRooms(Protocol):
    """What `build_graph` takes: an open `LateInteractionIndex`."""

    @property
    def rooms(self) -> Rooms:
        """The open rooms. Raises InputError once the index is closed."""
