"""The log as lines of JSON: for another store, or for tools that speak OpenLineage."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from lir_agents.audit.canonical import COMMITMENT, ERASED
from lir_agents.audit.events import RecordedEvent

__all__ = ["FORMATS"]

PRODUCER: Final = "https://github.com/lir-agents/lir-agents"
RUN_EVENT: Final = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
_INPUT_KINDS: Final = frozenset({"retrieval"})


def jsonl(event: RecordedEvent, origin: str) -> str:
    """Everything about an event. `body` is the exact text that was hashed; `payload` is for reading."""
    return json.dumps(
        {
            "origin": origin,
            "position": event.position,
            "event_id": event.event_id,
            "leaf": event.leaf,
            "body": event.body,
            "payload": event.payload,
            "sealed": event.sealed,
        }
    )


def openlineage(event: RecordedEvent, origin: str) -> str:
    """An OpenLineage 2-0-2 run event: what a search read, or what an ingestion wrote, is its datasets."""
    datasets = [_dataset(document, version, origin) for document, version in _documents(event.payload)]
    reads = event.kind in _INPUT_KINDS
    facet = {"event_id": event.event_id, "position": event.position, "leaf": event.leaf, "kind": event.kind}
    who = {"principal": event.principal_id, "tenant": event.tenant}
    return json.dumps(
        {
            "eventType": "COMPLETE",
            "eventTime": event.time,
            "producer": PRODUCER,
            "schemaURL": RUN_EVENT,
            "run": {"runId": str(uuid.UUID(event.event_id)), "facets": {"lir_audit": _facet({**facet, **who})}},
            "job": {"namespace": origin, "name": f"lir.{event.kind}"},
            "inputs": datasets if reads else [],
            "outputs": [] if reads else datasets,
        }
    )


def _facet(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"_producer": PRODUCER, "_schemaURL": f"{PRODUCER}/blob/main/docs/audit.md", **fields}


def _documents(payload: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Every (document, version) that an event speaks of."""
    if "document" in payload:
        yield payload["document"], payload.get("version")
    for entry in (*payload.get("documents", ()), *payload.get("hits", ())):
        if "document" in entry or "passage" in entry:
            yield entry.get("document", entry.get("passage")), entry.get("version")


def _dataset(document: Mapping[str, Any], version: Any, origin: str) -> dict[str, Any]:
    # A document that is not disclosed goes by its commitment: the same in nothing else, and no name.
    name = document.get("document_id") or f"undisclosed:{document.get(COMMITMENT) or document.get(ERASED)}"
    facets = {} if version is None else {"version": _version(str(version))}
    return {"namespace": origin, "name": name, "facets": facets}


def _version(number: str) -> dict[str, Any]:
    schema = "https://openlineage.io/spec/facets/1-0-1/DatasetVersionDatasetFacet.json"
    return {"_producer": PRODUCER, "_schemaURL": schema, "datasetVersion": number}


FORMATS: Final[Mapping[str, Callable[[RecordedEvent, str], str]]] = {"jsonl": jsonl, "openlineage": openlineage}
