"""The first stage as one step: look, weigh what was said, read, find. Searches and replays take it alike."""

from __future__ import annotations

import time
from typing import Final

from lir_agents.graph.candidates import find_candidates
from lir_agents.graph.conversation import Conversation
from lir_agents.graph.evidence import Evidence, evidence_of
from lir_agents.graph.parts import WHOLE, Parts
from lir_agents.graph.reading import read_in_context
from lir_agents.graph.refusals import refusals_recorded
from lir_agents.graph.request import Request
from lir_agents.graph.rooms import Rooms
from lir_agents.graph.state import Found
from lir_agents.graph.view import View, look_at
from lir_agents.policy.base import AccessScope

__all__ = ["find"]

_FEWER: Final = 25
"""Candidates per list where time is short: a quarter of the work of late interaction."""


def find(
    rooms: Rooms,
    request: Request,
    scope: AccessScope,
    conversation: Conversation,
    *,
    now: float | None = None,
    parts: Parts = WHOLE,
) -> Found:
    """Encodes the turn once, alone and in context, and takes candidates within the scope.

    Args:
        rooms: The open rooms.
        request: What is asked.
        scope: What may be read.
        conversation: What was said before.
        now: When it is asked, in seconds since 1970; None: at this moment.
        parts: Runs what is asked of each room.

    Raises:
        InputError: The filter is malformed, or `as_of` lies outside the index's history.
        AccessDenied: The policy could not decide; the refusal is recorded.
    """

    def look() -> tuple[View, Evidence]:
        with refusals_recorded(rooms, scope.principal):
            view = look_at(rooms, request, scope)
        at = time.time() if now is None else now
        evidence = evidence_of(rooms, conversation, view.snapshot, view.allowed, at)
        if evidence.required is not None:
            view = View(view.snapshot, view.allowed & evidence.required)
        return view, evidence

    view, evidence = parts.once("view", look)
    parts.check()
    turn, context = read_in_context(rooms, request.query, conversation, view, parts)
    boosted = [boost.rows for boost in evidence.boosts if boost.seeks]
    depth = _depth(rooms, request, parts)
    documents = request.k if request.one_per_document else 1
    candidates = find_candidates(
        rooms, turn, view, depth, context=context, boosted=boosted, documents=documents, parts=parts
    )
    return Found(view, conversation, turn, context, evidence, candidates)


def _depth(rooms: Rooms, request: Request, parts: Parts) -> int:
    """Candidates per list: fewer where less time is left than a search usually takes."""
    depth, fewer = (max(most, request.k) for most in (rooms.settings.search.first_stage_k, _FEWER))
    if fewer >= depth or not parts.hurried():
        return depth
    parts.note("candidates", f"{fewer} of each list instead of {depth}: little time was left")
    return fewer
