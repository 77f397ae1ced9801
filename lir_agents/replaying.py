"""Asking again what was asked before: the same query, grants and conversation, over the same versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from lir_agents.audit import payloads
from lir_agents.audit.canonical import ERASED
from lir_agents.audit.events import RecordedEvent
from lir_agents.errors import AccessDenied, InputError
from lir_agents.graph.context import RetrievalContext
from lir_agents.graph.find import find
from lir_agents.graph.recall import readable_names
from lir_agents.graph.refusals import refusals_recorded
from lir_agents.graph.request import Request
from lir_agents.graph.rerank import rank
from lir_agents.graph.rooms import Rooms
from lir_agents.graph.sealing import conversation_in, principal_in
from lir_agents.graph.surface import settings_digest, surface
from lir_agents.policy.base import AccessScope
from lir_agents.types import Principal

__all__ = ["TOLERANCE", "Difference", "ReplayReport", "ReplayedHit", "replay"]

TOLERANCE = 1e-3
"""Scores are the same within this part of the recorded score (of 1 for smaller ones): models that compute in
bfloat16 give a text other last bits beside other texts. Without a conversation a replay is exact."""


@dataclass(frozen=True, slots=True)
class ReplayedHit:
    """One place of a ranking. `passage_id` is None where the passage was erased, or lies beyond the replayer."""

    rank: int
    score: float
    passage_id: str | None


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which the replay came out otherwise.

    Attributes:
        kind: "erased" (the document is gone for good), "absent" (it is no longer readable, or no longer among
            the best), "new" (it was not there), "rank", "score".
        passage_id: None where the passage was erased, or lies beyond the replayer.
        recorded: The rank or the score then; None for "new".
        replayed: The rank or the score now; None for "erased" and "absent".
    """

    kind: Literal["erased", "absent", "new", "rank", "score"]
    passage_id: str | None
    recorded: float | None
    replayed: float | None


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What came of a replay.

    Attributes:
        event_id: The search.
        replay_id: The event that records the replay.
        same: Whether ids, ranks and scores (within `TOLERANCE`) are the same.
        epoch: The state of the index that was asked, then and now.
        recorded: What surfaced then, best first.
        replayed: What surfaces now, best first.
        differences: In order of the recorded ranks, new passages last.
        notes: What is no longer as it was: settings, the encoder, the principal's access.
    """

    event_id: str
    replay_id: str
    same: bool
    epoch: int
    recorded: tuple[ReplayedHit, ...]
    replayed: tuple[ReplayedHit, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]


def replay(rooms: Rooms, event_id: str, principal: Principal | None) -> ReplayReport:
    """Runs a recorded search again; see `LateInteractionIndex.replay`."""
    principal = RetrievalContext.of({"principal": principal}).principal
    with refusals_recorded(rooms, principal):
        scope = rooms.policy.authorize(principal, "replay")
    event = rooms.audit.get(event_id)
    if event.kind != "retrieval":
        raise InputError(f"is a {event.kind}, not a retrieval", field="event_id", remedy="Name a search.")
    epoch = _epoch(rooms, event)
    notes = _notes(rooms, event)
    recorded = [_recorded(hit) for hit in event.payload["hits"]]
    try:
        replayed = _ask_again(rooms, event, epoch)
    except AccessDenied as refusal:
        replayed = []
        notes.append(f"who asked may not ask any more ({refusal})")
    differences = _differences(recorded, replayed)
    about = {"operation": "replay", "event": event_id, "same": not differences}
    replay_id = rooms.audit.append(payloads.decision(principal, scope.decision, detail=about))
    names = [hit.passage_id for hit in (*recorded, *replayed) if hit.passage_id]
    with refusals_recorded(rooms, principal):
        told = readable_names(rooms, scope, names) if names else set()
    return ReplayReport(
        event_id=event_id,
        replay_id=replay_id,
        same=not differences,
        epoch=epoch,
        recorded=tuple(ReplayedHit(hit.rank, hit.score, _told(hit.passage_id, told)) for hit in recorded),
        replayed=tuple(ReplayedHit(hit.rank, hit.score, _told(hit.passage_id, told)) for hit in replayed),
        differences=tuple(
            Difference(one.kind, _told(one.passage_id, told), one.recorded, one.replayed) for one in differences
        ),
        notes=tuple(notes),
    )


def _ask_again(rooms: Rooms, event: RecordedEvent, epoch: int) -> list[ReplayedHit]:
    """The ranking of the recorded query under the recorded grants, over what was current at the epoch.

    Raises:
        AccessDenied: The principal of then may no longer search.
        InputError: The query or the sealed body was erased.
    """
    sealed = rooms.audit.unseal(event.event_id)
    asker = principal_in(sealed, id=event.principal_id, tenant=event.tenant)
    request = Request(
        _kept(event, "query"),
        event.payload["k"],
        _kept(event, "filter"),
        as_of=epoch,
        one_per_document=event.payload.get("one_per_document", False),
    )
    scope: AccessScope = rooms.policy.authorize(asker, "search")
    asked_at = datetime.fromisoformat(event.clock).timestamp()
    found = find(rooms, request, scope, conversation_in(sealed), now=asked_at)
    boosts = found.evidence.boosts
    ranked = rank(rooms, found.turn, found.candidates, context=found.context, boosts=boosts)
    hits = surface(rooms, request, scope, found.view, ranked)
    return [ReplayedHit(hit.rank, hit.score, hit.passage_id) for hit in hits]


def _epoch(rooms: Rooms, event: RecordedEvent) -> int:
    """The state that the search looked at."""
    searched: int = event.payload["index_epoch"]
    as_of = event.payload["as_of"]
    if as_of is None:
        return searched
    then = rooms.catalog.epoch_at(datetime.fromisoformat(as_of)) if isinstance(as_of, str) else int(as_of)
    return min(then, searched)  # what then lay ahead meant the newest state there was


def _kept(event: RecordedEvent, name: str) -> Any:
    value = event.payload[name]
    if isinstance(value, Mapping) and ERASED in value:
        raise InputError(f"the event's {name} was erased", field="event_id", remedy="It cannot be run again.")
    return value


def _recorded(hit: Mapping[str, Any]) -> ReplayedHit:
    return ReplayedHit(hit["rank"], hit["score"], hit["passage"].get("passage_id"))


def _notes(rooms: Rooms, event: RecordedEvent) -> list[str]:
    generation = rooms.catalog.generation()
    notes = []
    if generation is None or generation.fingerprint != event.payload["generation"]:
        notes.append("the index has been encoded anew, by another model")
    if event.payload["settings"] != settings_digest(rooms):
        notes.append("settings that an order depends on are not those of the search")
    if not event.payload["coverage"]["full"]:
        notes.append("the search was not complete then, and the replay is")
    return notes


def _differences(recorded: list[ReplayedHit], replayed: list[ReplayedHit]) -> list[Difference]:
    now = {hit.passage_id: hit for hit in replayed}
    found: list[Difference] = []
    for then in recorded:
        hit = now.get(then.passage_id) if then.passage_id else None
        if hit is None:
            found.append(Difference("absent" if then.passage_id else "erased", then.passage_id, then.rank, None))
            continue
        if hit.rank != then.rank:
            found.append(Difference("rank", then.passage_id, then.rank, hit.rank))
        if abs(hit.score - then.score) > TOLERANCE * max(1.0, abs(then.score)):
            found.append(Difference("score", then.passage_id, then.score, hit.score))
    before = {hit.passage_id for hit in recorded}
    found += [Difference("new", hit.passage_id, None, hit.rank) for hit in replayed if hit.passage_id not in before]
    return found


def _told(passage_id: str | None, readable: set[str]) -> str | None:
    return passage_id if passage_id in readable else None
