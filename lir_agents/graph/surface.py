"""From ranked rows to what is returned: the second wall, hits, the audit event."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np

from lir_agents.arrays import Rows
from lir_agents.audit import payloads
from lir_agents.audit.events import AuditEvent
from lir_agents.graph.context import RetrievalContext
from lir_agents.graph.request import Request
from lir_agents.graph.rerank import Ranked
from lir_agents.graph.rooms import Rooms
from lir_agents.graph.sealing import seal
from lir_agents.graph.state import Found
from lir_agents.graph.view import View
from lir_agents.policy.base import AccessScope
from lir_agents.policy.masks import recheck
from lir_agents.telemetry import count
from lir_agents.types import Coverage, Hit, Passage, SearchResult, ToolSignal, Turn

__all__ = ["metadata_of", "readable_now", "record_event", "settings_digest", "surface"]


def surface(rooms: Rooms, request: Request, scope: AccessScope, view: View, ranked: Ranked) -> tuple[Hit, ...]:
    """The best k passages that may be read at this moment, or the best of each of k documents.

    A deliberate wall: whatever the first stage let through, each passage is checked against the policy and the
    catalog as they are now. Refused ones are absent, and the next best move up.
    """
    hits: list[Hit] = []
    order = np.arange(len(ranked.rows))
    if request.one_per_document:
        order = np.sort(np.unique(view.snapshot.document[ranked.rows], return_index=True)[1])
    while len(hits) < request.k and len(order):
        some, order = np.split(order, [request.k - len(hits)])
        chunk = ranked.rows[some]
        passages = {passage.row: passage for passage in rooms.catalog.passages(chunk)}
        for position, row, readable in zip(some, chunk, readable_now(rooms, request, scope, chunk), strict=True):
            passage = passages.get(int(row))
            if readable and passage is not None:
                hits.append(_hit(rooms, request, passage, ranked, int(position), rank=len(hits) + 1))
    return tuple(hits)


def metadata_of(hit: Hit, result: SearchResult) -> dict[str, Any]:
    """A hit's metadata as frameworks carry it: title and source, the document's own, and under `lir` what the
    ranking knows."""
    about = {"title": hit.title, "source": hit.source_uri or hit.source or hit.document_id}
    caveat = result.coverage.caveat
    return {
        **{key: value for key, value in about.items() if value},
        **hit.metadata,
        "lir": {
            "score": hit.score,
            "rank": hit.rank,
            "breakdown": dict(hit.breakdown),
            "document_id": hit.document_id,
            "version": hit.version,
            "event_id": result.event_id,
            **({"caveat": caveat} if caveat else {}),
        },
    }


def readable_now(rooms: Rooms, request: Request, scope: AccessScope, rows: Rows) -> list[bool]:
    """Whether each row may be read under the policy and the catalog as they are at this moment.

    Raises:
        AccessDenied: The principal may no longer ask at all, or the policy cannot say.
    """
    snapshot = rooms.catalog.snapshot()
    column = snapshot.access_class if request.as_of is None else snapshot.newest_access_class
    # A search of the present returns nothing that was retired meanwhile; one of the past reads retired versions.
    there = snapshot.live if request.as_of is None else snapshot.committed
    classes: list[int | None] = [
        int(column[row]) if row < len(there) and there[row] and column[row] >= 0 else None for row in rows.tolist()
    ]
    verdicts = recheck(scope, classes, snapshot.access_keys)
    # What is there and may not be read was let through by the first wall: revoked meanwhile, or a leak.
    count("leaks.caught", sum(kind is not None and not may for kind, may in zip(classes, verdicts, strict=True)))
    return verdicts


def _hit(rooms: Rooms, request: Request, passage: Passage, ranked: Ranked, position: int, *, rank: int) -> Hit:
    breakdown = ranked.breakdown(position)
    return Hit(
        rank=rank,
        score=float(sum(breakdown.values())),
        text=passage.text,
        title=passage.title,
        document_id=passage.document_id,
        passage_id=passage.passage_id,
        version=passage.version,
        source=passage.source,
        source_uri=passage.source_uri,
        content_sha256=passage.content_sha256,
        start=passage.start,
        end=passage.end,
        metadata=dict(passage.metadata),
        breakdown=breakdown,
        row=passage.row,
        query=request.query,
        origin=rooms.origin,
    )


def record_event(
    rooms: Rooms,
    request: Request,
    context: RetrievalContext,
    scope: AccessScope,
    found: Found,
    hits: Sequence[Hit],
    coverage: Coverage,
    candidates: int,
    remembering: Sequence[Turn | ToolSignal] = (),
) -> str:
    """Appends the retrieval to the audit log, sealed with what a replay needs; its id.

    What is about to be remembered is recorded in the same transaction.

    Raises:
        StoreError: It could not be recorded; the caller must return nothing.
    """
    event = payloads.retrieval(
        context.principal,
        query=request.query,
        decision=scope.decision,
        hits=hits,
        candidates=candidates,
        k=request.k,
        coverage=coverage,
        generation=rooms.encoder.fingerprint,
        index_epoch=found.view.snapshot.epoch,
        filter=request.filter,
        thread_id=context.thread_id,
        as_of=request.as_of.isoformat() if isinstance(request.as_of, datetime) else request.as_of,
        one_per_document=request.one_per_document,
        faults=scope.faults,
        settings=settings_digest(rooms),
    )
    sealed = seal(context.principal, found.conversation)
    events: list[tuple[AuditEvent, dict[str, Any] | None]] = [(event, sealed)]
    if context.thread_id is not None:
        written = payloads.remembered(context.principal, context.thread_id, remembering)
        events += [(write, None) for write in written]
    return rooms.audit.append_many(events)[0]


def settings_digest(rooms: Rooms) -> str:
    """Hex sha256 of every setting that an order depends on."""
    global _digested
    parts = (rooms.settings.search, rooms.weights, rooms.bindings, rooms.signals)
    known, digest = _digested
    if len(known) != len(parts) or any(one is not other for one, other in zip(known, parts, strict=True)):
        digest = hashlib.sha256(repr(parts).encode()).hexdigest()
        _digested = (parts, digest)
    return digest


_digested: tuple[tuple[Any, ...], str] = ((), "")
"""The settings digested last, none of which can change, and their digest: the same in every search of an index."""
