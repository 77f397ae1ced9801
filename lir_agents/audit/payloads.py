"""What each kind of event records. Ids and hashes of documents are erasable; their text is never recorded.

A document is recorded as an `Erasable` with the document as its subject, so that forgetting the document
forgets where it appears. Versions, ranks, scores and breakdowns stay in the tree.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from lir_agents.audit.canonical import Erasable, Shaped
from lir_agents.audit.events import AuditEvent
from lir_agents.errors import InputError
from lir_agents.reports import AddReport
from lir_agents.types import Coverage, Decision, Hit, Principal, ToolSignal, Turn

__all__ = [
    "configuration",
    "decision",
    "erasure",
    "ingest",
    "memory_write",
    "redaction",
    "remembered",
    "retrieval",
    "tool_call",
    "version",
]


_REASONS: Final = 10
"""Different reasons of a policy's faults that one event tells."""


def _event(kind: Any, principal: Principal | None, payload: Mapping[str, Any]) -> AuditEvent:
    if principal is None:
        return AuditEvent(kind, payload=payload)
    return AuditEvent(kind, principal.id, principal.tenant, payload)


def _document(document_id: str, **more: Any) -> Erasable:
    return Erasable(Shaped(document_id=document_id, **more), subject=document_id)


def _own(value: Any, *, stored: bool = True) -> Erasable | None:
    return None if value is None else Erasable(value, stored=stored)


def _decided(made: Decision) -> dict[str, Any]:
    return {"allowed": made.allowed, "action": made.action, "reason": made.reason, "epoch": made.epoch}


def _covered(coverage: Coverage) -> dict[str, Any]:
    stages = {
        name: {"status": stage.status, "reason": stage.reason, "elapsed_ms": stage.elapsed_ms}
        for name, stage in coverage.stages.items()
    }
    return {"full": coverage.full, "stages": stages}


def _surfaced(hit: Hit) -> dict[str, Any]:
    if not math.isfinite(hit.score):  # the sum of all parts: finite, so are they
        raise InputError(f"is {hit.score!r}", field=f"hits[{hit.rank - 1}].score", remedy="Scores are finite.")
    return {
        "rank": hit.rank,
        "score": hit.score,
        "breakdown": dict(hit.breakdown),
        "version": hit.version,
        "passage": _document(hit.document_id, passage_id=hit.passage_id, content_sha256=hit.content_sha256),
    }


def retrieval(
    principal: Principal | None,
    *,
    query: str,
    decision: Decision,
    hits: Sequence[Hit],
    candidates: int,
    k: int,
    coverage: Coverage,
    generation: str,
    index_epoch: int,
    filter: Mapping[str, Any] | None = None,
    thread_id: str | None = None,
    as_of: str | int | None = None,
    one_per_document: bool = False,
    faults: Mapping[str, str] | None = None,
    settings: str = "",
    store_query: bool = True,
) -> AuditEvent:
    """A search and what surfaced.

    Args:
        principal: Who asked.
        query: The query; the leaf holds a salted commitment.
        decision: What the policy said, under which epoch.
        hits: What is about to be returned.
        candidates: How many passages were ranked.
        k: How many were asked for.
        coverage: What each stage came to.
        generation: Fingerprint of the encoder's generation.
        index_epoch: State of the catalog that was searched.
        filter: The caller's filter.
        thread_id: The conversation.
        as_of: The point in time asked for, if one was.
        one_per_document: Whether each document could surface once only.
        faults: Access keys that were denied because the policy failed on them, with the reason. How many they are
            stands in the tree, the reasons beside it.
        settings: Fingerprint of the settings that ranking depends on.
        store_query: False keeps the commitment's key alone, not the query's text.
    """
    payload = {
        "query": _own(query, stored=store_query),
        "decision": _decided(decision),
        "hits": [_surfaced(hit) for hit in hits],
        "candidates": candidates,
        "k": k,
        "coverage": _covered(coverage),
        "generation": generation,
        "index_epoch": index_epoch,
        "filter": _own(filter),
        "thread": _own(thread_id),
        "as_of": as_of,
        "settings": settings,
        **({"one_per_document": True} if one_per_document else {}),
        **({"policy_faults": _faulty(faults)} if faults else {}),
    }
    return _event("retrieval", principal, Shaped(payload))


def _faulty(faults: Mapping[str, str]) -> dict[str, Any]:
    return {"count": len(faults), "reasons": Erasable(sorted(set(faults.values()))[:_REASONS])}


def ingest(
    principal: Principal | None,
    *,
    documents: Iterable[tuple[str, int, str]],
    report: AddReport,
    generation: str,
    index_epoch: int,
) -> AuditEvent:
    """Documents that became visible in one commit: (document id, version, content_sha256) each."""
    payload = {
        "documents": [
            {"version": number, "document": _document(name, content_sha256=digest)}
            for name, number, digest in documents
        ],
        "added": report.added,
        "updated": report.updated,
        "unchanged": report.unchanged,
        "failed": len(report.failed),
        "passages": report.passages,
        "generation": generation,
        "index_epoch": index_epoch,
    }
    return _event("ingest", principal, payload)


def version(
    principal: Principal | None,
    *,
    operation: Literal["retire", "rollback", "restore"],
    documents: Iterable[tuple[str, int | None]],
    index_epoch: int,
    to_epoch: int | None = None,
) -> AuditEvent:
    """Documents whose live version changed without new text: (document id, the version live now or None)."""
    changed = [{"version": number, "document": _document(name)} for name, number in documents]
    payload = {"operation": operation, "documents": changed, "index_epoch": index_epoch, "to_epoch": to_epoch}
    return _event("version", principal, payload)


def redaction(
    principal: Principal | None, *, document_id: str, version: int, counts: Mapping[str, int]
) -> AuditEvent:
    """How many findings of each recogniser were replaced in a version; never what they were."""
    payload = {"document": _document(document_id), "version": version, "counts": dict(counts)}
    return _event("redaction", principal, payload)


def decision(principal: Principal | None, made: Decision, *, detail: Mapping[str, Any] | None = None) -> AuditEvent:
    """What the policy decided on a request, above all a refusal, and why."""
    return _event("decision", principal, {"decision": _decided(made), "detail": dict(detail or {})})


def tool_call(
    principal: Principal | None,
    *,
    tool: str,
    arguments: Any,
    output: Any,
    confidence: float = 1.0,
    error: str = "",
    elapsed_ms: float = 0.0,
    thread_id: str | None = None,
) -> AuditEvent:
    """A tool that ran. Arguments are erasable; of the output only a commitment is kept."""
    payload = {
        "tool": tool,
        "arguments": _own(arguments),
        "output": Erasable(output, stored=False),
        "confidence": confidence,
        "error": error,
        "elapsed_ms": elapsed_ms,
        "thread": _own(thread_id),
    }
    return _event("tool_call", principal, payload)


def memory_write(
    principal: Principal | None,
    *,
    operation: Literal["remember", "forget"],
    thread_id: str | None,
    role: str = "",
    tool: str = "",
    text: str = "",
) -> AuditEvent:
    """Something remembered, or a thread (None: all of a principal's) forgotten.

    Of the text only a commitment and its length are kept.
    """
    payload = {
        "operation": operation,
        "thread": _own(thread_id),
        "role": role,
        "tool": tool,
        "characters": len(text),
        "text": Erasable(text, stored=False),
    }
    return _event("memory_write", principal, payload)


def remembered(principal: Principal | None, thread_id: str, said: Iterable[Turn | ToolSignal]) -> list[AuditEvent]:
    """A `memory_write` for each turn and tool output that is about to be remembered."""

    def write(role: str, tool: str, text: str) -> AuditEvent:
        return memory_write(principal, operation="remember", thread_id=thread_id, role=role, tool=tool, text=text)

    return [
        write(one.role, "", one.text) if isinstance(one, Turn) else write("tool", one.tool, _spoken(one.output))
        for one in said
    ]


def _spoken(output: str | Mapping[str, Any]) -> str:
    if isinstance(output, str):
        return output
    try:
        return json.dumps(dict(output), sort_keys=True, default=str)
    except Exception:  # noqa: BLE001 - keys of a strange type or of several, circles, objects that raise
        return repr(type(output))


def erasure(
    principal: Principal | None, *, document_ids: Iterable[str], rows: int, index_epoch: int, reason: str = ""
) -> AuditEvent:
    """Documents that were erased. Only salted commitments to their ids: see `AuditLog.confirms`."""
    gone = [Erasable(name, stored=False) for name in document_ids]
    payload = {"documents": gone, "rows": rows, "index_epoch": index_epoch, "reason": reason}
    return _event("erasure", principal, payload)


def configuration(principal: Principal | None, *, changed: Mapping[str, Any], settings: str = "") -> AuditEvent:
    """Settings, policies or keys that changed, with the fingerprint of the whole."""
    return _event("configuration", principal, {"changed": dict(changed), "settings": settings})
