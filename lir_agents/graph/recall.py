"""What memory gave back, and which of the passages that it names may be read now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lir_agents.graph.conversation import is_said
from lir_agents.graph.rooms import Rooms
from lir_agents.memory.records import Entry, clean
from lir_agents.policy.base import AccessScope
from lir_agents.policy.masks import scope_mask
from lir_agents.types import ToolSignal, Turn

__all__ = ["Recalled", "readable_names"]


@dataclass(frozen=True, slots=True)
class Recalled:
    """What was said before.

    Attributes:
        turns: What people, agents and tools said in words, oldest first.
        signals: What tools answered in fields in earlier turns, oldest first.
    """

    turns: Sequence[Turn]
    signals: Sequence[ToolSignal]

    @classmethod
    def of(cls, entries: Sequence[Entry], history: Sequence[Turn]) -> Recalled:
        """Joins what the thread remembers with the history that the caller tells; the caller's words come last.

        A turn that both know is taken once, where the caller has it. What a tool said in words stands among the
        turns, where it was said; what it said in fields is a signal.
        """
        told = {(turn.role, clean(turn.text)) for turn in history}
        kept = [entry.turn for entry in entries if entry.kind != "tool" or is_said(entry.signal)]
        turns = [turn for turn in kept if (turn.role, turn.text) not in told]
        fields = [entry.signal for entry in entries if entry.kind == "tool" and entry.output is not None]
        return cls((*turns, *history), tuple(fields))


def readable_names(rooms: Rooms, scope: AccessScope, names: Sequence[str]) -> set[str]:
    """Of these passage or document ids, the ones whose document the scope may read now.

    Unknown and erased ones are not readable. A passage of an old version is readable with its document.

    Raises:
        AccessDenied: The policy could not decide.
    """
    snapshot = rooms.catalog.snapshot()
    mask = scope_mask(scope, snapshot.newest_access_class, snapshot.access_keys)
    rows = rooms.catalog.rows_by_passage_id(names)
    documents = rooms.catalog.rows_of([name for name in names if name not in rows])
    rows |= {name: int(found[0]) for name, found in documents.items() if len(found)}
    return {name for name, row in rows.items() if row < len(mask) and mask[row]}
