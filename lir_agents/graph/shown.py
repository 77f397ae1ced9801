"""What stands in for an answer where the first stage could find nothing: what this conversation was shown last."""

from __future__ import annotations

from typing import Final

import numpy as np

from lir_agents.errors import BudgetExceeded, LirError
from lir_agents.graph.attempt import Underway
from lir_agents.graph.recall import Recalled
from lir_agents.graph.rerank import Ranked
from lir_agents.graph.rooms import Rooms
from lir_agents.graph.view import View
from lir_agents.ranking.fusion import Fused
from lir_agents.stores.records import parse_passage_id
from lir_agents.types import StageCoverage

__all__ = ["TURNS_BACK", "shown_instead", "shown_last"]

_INSTEAD: Final = "nothing was found in time; these are passages that were shown last in this conversation"

TURNS_BACK: Final = 3
_EACH: Final = 3
"""The best passages of the last turns stand in for an answer: so many of so many turns."""


def shown_last(rooms: Rooms, view: View, recalled: Recalled | None, underway: Underway) -> Ranked:
    """The best passages of the last turns of this conversation, newest first, as far as they may be read now.

    Args:
        rooms: The open rooms.
        view: What may be read, and fits the filter.
        recalled: What the conversation remembers: of this principal and this thread alone.
        underway: What the first stage had to do without.

    Returns:
        They, or nothing, where a part of the first stage did look and found nothing.

    Raises:
        BudgetExceeded: There are none, and no part of the first stage answered in time.
        LirError: There are none, and every part of the first stage failed; the first failure.
    """
    turns = [turn for turn in (recalled.turns if recalled else ()) if turn.role == "user" and turn.passage_ids]
    names = [name for turn in reversed(turns[-TURNS_BACK:]) for name in turn.passage_ids[:_EACH]]
    known = rooms.catalog.rows_by_passage_id([name for name in dict.fromkeys(names) if parse_passage_id(name)])
    found = [known[name] for name in dict.fromkeys(names) if name in known]
    rows = np.array([row for row in found if row < len(view.allowed) and view.allowed[row]], np.int64)
    if not len(rows) and {"lexical", "vectors"} <= set(underway.left["first_stage"]) | _unread(underway):
        raise _refusal(underway)
    score = 1.0 / np.arange(1.0, len(rows) + 1.0)
    return Ranked(rows, Fused(score, {"shown_last": score}))


def shown_instead(ranked: Ranked, underway: Underway) -> StageCoverage:
    """What is said of the stage that had nothing to rank."""
    if not len(ranked.rows):
        return StageCoverage("skipped", "nothing was found")
    return StageCoverage(underway.outcome("first_stage").status, _INSTEAD)


def _unread(underway: Underway) -> set[str]:
    """Without the question's vector, nobody asks for its neighbours."""
    return {"vectors"} if "encoder" in underway.left["first_stage"] else set()


def _refusal(underway: Underway) -> LirError:
    outcome, budget = underway.outcome("first_stage"), underway.budget
    if outcome.status == "failed" and underway.errors:
        error = underway.errors[0]
        if isinstance(error, LirError):
            return error
    return BudgetExceeded(
        f"Nothing could be looked for: {outcome.reason}.",
        stage="first_stage",
        budget_ms=budget.ms or 0.0,
        remedy="Ask again, or give it more time.",
    )
