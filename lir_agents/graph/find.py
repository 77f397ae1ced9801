"""The first stage as one step: look, weigh what was said, read, find. Searches and replays take it alike."""

from __future__ import annotations

import time

from lir_agents.graph.candidates import View, find_candidates, look_at, read_in_context
from lir_agents.graph.conversation import Conversation
from lir_agents.graph.evidence import evidence_of
from lir_agents.graph.refusals import refusals_recorded
from lir_agents.graph.request import Request
from lir_agents.graph.rooms import Rooms
from lir_agents.graph.state import Found
from lir_agents.policy.base import AccessScope

__all__ = ["find"]


def find(
    rooms: Rooms, request: Request, scope: AccessScope, conversation: Conversation, *, now: float | None = None
) -> Found:
    """Encodes the turn once, alone and in context, and takes candidates within the scope.

    Args:
        rooms: The open rooms.
        request: What is asked.
        scope: What may be read.
        conversation: What was said before.
        now: When it is asked, in seconds since 1970; None: at this moment.

    Raises:
        InputError: The filter is malformed, or `as_of` lies outside the index's history.
        AccessDenied: The policy could not decide; the refusal is recorded.
    """
    with refusals_recorded(rooms, scope.principal):
        view = look_at(rooms, request, scope)
    evidence = evidence_of(rooms, conversation, view.snapshot, view.allowed, time.time() if now is None else now)
    if evidence.required is not None:
        view = View(view.snapshot, view.allowed & evidence.required)
    turn, context = read_in_context(rooms, request.query, conversation, view)
    depth = max(rooms.settings.search.first_stage_k, request.k)
    boosted = [boost.rows for boost in evidence.boosts if boost.seeks]
    candidates = find_candidates(rooms, turn, view, depth, context=context, boosted=boosted)
    return Found(view, conversation, turn, context, evidence, candidates)
