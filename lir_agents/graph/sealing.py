"""What a replay needs besides what the audit event tells: who asked, and what of the conversation was used.

Query, filter, k, `as_of` and the index's epoch stand in the event itself. The sealed body holds what was *used* of
the conversation (`Conversation`), not where it was kept: a thread that is forgotten later changes no replay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lir_agents.bounds import MAX_INT_BITS
from lir_agents.graph.conversation import Conversation
from lir_agents.types import Principal, ToolSignal

__all__ = ["conversation_in", "principal_in", "seal"]

_DEEPEST = 16


def seal(principal: Principal | None, conversation: Conversation) -> dict[str, Any]:
    """The sealed body of a search, as JSON data."""
    return {"principal": _asker(principal), "conversation": _said(conversation)}


def principal_in(sealed: Mapping[str, Any], *, id: str, tenant: str) -> Principal | None:
    """Who asked, with the grants and attributes that counted then."""
    asker = sealed["principal"]
    if asker is None:
        return None
    return Principal(id, groups=asker["groups"], tenant=tenant, attributes=asker["attributes"])


def conversation_in(sealed: Mapping[str, Any]) -> Conversation:
    """What of the conversation was used."""
    said = sealed["conversation"]
    if said is None:
        return Conversation()
    return Conversation(
        questions=tuple(said["questions"]),
        answers=tuple(said["answers"]),
        trust=said["trust"],
        signals=tuple(ToolSignal(tool, output, confidence) for tool, output, confidence in said["signals"]),
        fresh=said["fresh"],
    )


def _asker(principal: Principal | None) -> dict[str, Any] | None:
    if principal is None:
        return None
    return {"groups": list(principal.groups), "attributes": dict(principal.attributes)}


def _said(conversation: Conversation) -> dict[str, Any] | None:
    if conversation == Conversation():
        return None
    return {
        "questions": list(conversation.questions),
        "answers": list(conversation.answers),
        "trust": conversation.trust,
        "signals": [[signal.tool, _spoken(signal), signal.confidence] for signal in conversation.signals],
        "fresh": conversation.fresh,
    }


def _spoken(signal: ToolSignal) -> Any:
    """The part that ranking reads. A text is read as an answer, which stands among the answers already; its place
    is kept, because age counts."""
    return _plain(signal.output, _DEEPEST) if isinstance(signal.output, Mapping) else ""


def _plain(value: Any, depth: int) -> Any:
    """As JSON. What is no JSON speaks of no document either, and becomes None."""
    if depth == 0:
        return None
    if isinstance(value, Mapping):
        return {key: _plain(item, depth - 1) for key, item in value.items() if isinstance(key, str)}
    if isinstance(value, list | tuple):
        return [_plain(item, depth - 1) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, int):
        return value if value.bit_length() <= MAX_INT_BITS else None
    return value if isinstance(value, str) else None
