"""An event as an answer: who asked, what surfaced, why, under which policy, from which version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lir_agents.audit.canonical import ERASED
from lir_agents.audit.events import RecordedEvent
from lir_agents.audit.merkle import verify_inclusion

if TYPE_CHECKING:
    from lir_agents.audit.log import InclusionProof

__all__ = ["describe"]


def describe(
    event: RecordedEvent, sealed: Mapping[str, Any] | None, proof: InclusionProof, root: bytes
) -> dict[str, Any]:
    """The event as plain JSON data.

    Keys: `event_id`, `position`, `kind`, `time`, `clock`, `who`, `asked`, `surfaced` (best first, `why` holds
    the parts of each score, largest first), `policy`, `source`, `coverage`, `payload` (of other kinds than
    retrieval), `sealed` ("none", "present", "erased"), `replay` (the sealed body) and `proof`.
    """
    payload = event.payload
    shown = {
        "event_id": event.event_id,
        "position": event.position,
        "kind": event.kind,
        "time": event.time,
        "clock": event.clock,
        "who": {"principal": event.principal_id, "tenant": event.tenant, "thread": payload.get("thread")},
        "policy": payload.get("decision"),
        "sealed": event.sealed,
        "replay": None if sealed is None else dict(sealed),
        "proof": {
            "leaf": proof.leaf.hex(),
            "index": proof.index,
            "size": proof.size,
            "path": [node.hex() for node in proof.path],
            "root": root.hex(),
            "holds": verify_inclusion(proof.leaf, proof.index, proof.size, proof.path, root),
        },
    }
    return {**shown, **(_search(payload) if event.kind == "retrieval" else {"payload": dict(payload)})}


def _search(payload: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "asked": {name: payload.get(name) for name in ("query", "k", "filter", "as_of")},
        "surfaced": [_hit(hit) for hit in payload.get("hits", ())],
        "source": {name: payload.get(name) for name in ("generation", "index_epoch", "candidates", "settings")},
        "coverage": payload.get("coverage"),
    }


def _hit(hit: Mapping[str, Any]) -> dict[str, Any]:
    why = sorted(hit["breakdown"].items(), key=lambda part: -abs(part[1]))
    identity = {} if ERASED in hit["passage"] else hit["passage"]
    return {
        "rank": hit["rank"],
        "score": hit["score"],
        "why": dict(why),
        "document_id": identity.get("document_id"),
        "passage_id": identity.get("passage_id"),
        "version": hit["version"],
        "content_sha256": identity.get("content_sha256"),
        "erased": not identity,
    }
