"""From what tools answered, and what documents' metadata says, to evidence: boosts, requirements, named documents.

A field of a tool's output speaks of documents through a `ToolBinding`, or by naming them (`document_id(s)`,
`passage_id(s)`). Only what the scope already allows can be boosted; nothing here can widen it. Confidence c counts
as `max(0, 2c - 1)`: a claim that is more likely wrong than right moves nothing. Of several answers of one tool on
one field, each older one counts half as much as the next newer one, and each has its own part in the breakdown.
A `MetadataSignal` (recency, preferred kinds) speaks the same way, of what was found; it looks for nothing itself.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from lir_agents.arrays import RowMask
from lir_agents.bindings import MetadataSignal, ToolBinding
from lir_agents.graph.conversation import Conversation
from lir_agents.graph.rooms import Rooms
from lir_agents.memory.records import clean
from lir_agents.stores.columns import Snapshot
from lir_agents.types import ToolSignal

__all__ = ["Boost", "Evidence", "evidence_of"]

_OLDER = 0.5
_MOST = 1000
"""Values or names that are read of one field: an answer of megabytes must not cost a search minutes."""

_STEPS = 8
"""Steps of half a half-life in which recency fades."""

_FIRST_MOMENT = -62_135_596_800.0
"""The first second of the year 1: before it no date is written."""

_NAMING = ("document_id", "document_ids", "passage_id", "passage_ids")


@dataclass(frozen=True, slots=True)
class Boost:
    """Evidence for some passages.

    Attributes:
        label: Its part of the breakdown: "tool:NAME", older answers "tool:NAME@-1", "tool:NAME@-2", …; or
            "metadata:KEY".
        strength: What it adds to a score, > 0.
        rows: The passages it speaks for: bool [max_row + 1], within the scope.
        seeks: Whether these passages are also looked for, or only lifted where they are found.
    """

    label: str
    strength: float
    rows: RowMask
    seeks: bool = True


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the tools say about the passages in view.

    Attributes:
        boosts: Those of tools, newest first, then those of metadata.
        required: Passages that every requirement lets through; None where nothing is required.
    """

    boosts: tuple[Boost, ...] = ()
    required: RowMask | None = None


def evidence_of(
    rooms: Rooms, conversation: Conversation, snapshot: Snapshot, allowed: RowMask, now: float
) -> Evidence:
    """Reads tools' answers and metadata as evidence.

    Args:
        rooms: The open rooms, with the bindings.
        conversation: Its `signals`.
        snapshot: The state that `allowed` comes from.
        allowed: What the scope and the filter allow.
        now: When the search was asked, in seconds since 1970: what recency is measured from.
    """
    boosts: list[Boost] = []
    required: RowMask | None = None
    ages: Counter[tuple[str, str]] = Counter()
    for position, signal in enumerate(reversed(conversation.signals)):
        trust = max(0.0, 2.0 * signal.confidence - 1.0)
        for field, mode, rows in _spoken_of(rooms, signal, snapshot):
            age = ages[signal.tool, field]
            ages[signal.tool, field] += 1
            if mode == "require":
                # Only this turn's answers may drop documents: what was required once is no rule for ever.
                if trust > 0 and age == 0 and position < conversation.fresh:
                    required = rows if required is None else required & rows
            elif trust > 0:
                label = f"tool:{signal.tool}" + (f"@-{age}" if age else "")
                boosts.append(Boost(label, rooms.weights.tool * trust * _OLDER**age, rows & allowed))
    boosts += [
        boost for signal in rooms.signals for boost in _said_by_metadata(rooms, signal, snapshot, allowed, now)
    ]
    return Evidence(tuple(boosts), required)


def _said_by_metadata(
    rooms: Rooms, signal: MetadataSignal, snapshot: Snapshot, allowed: RowMask, now: float
) -> Iterator[Boost]:
    key, half_life = signal.metadata_key, signal.half_life_days
    if half_life is None:
        rows = _matching(rooms, key, list(signal.prefer), snapshot)
        yield Boost(signal.label, signal.strength, rows & allowed, seeks=False)
        return
    worth = [signal.strength * 2.0 ** (-step / 2) for step in range(_STEPS + 1)]
    for step in range(_STEPS):
        since = now - (step + 1) / 2 * half_life * 86_400
        rows = rooms.catalog.match({"$or": list(_not_before(key, since))}, snapshot=snapshot)
        # Whoever is younger is counted in every later step too: so what a step adds is a difference, the last all.
        added = worth[step] - (worth[step + 1] if step + 1 < _STEPS else 0.0)
        yield Boost(signal.label, added, rows & allowed, seeks=False)


def _not_before(key: str, moment: float) -> Iterator[dict[str, Any]]:
    yield {key: {"$gte": moment}}
    if moment >= _FIRST_MOMENT:
        yield {key: {"$gte": datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}}


def _spoken_of(rooms: Rooms, signal: ToolSignal, snapshot: Snapshot) -> Iterator[tuple[str, str, RowMask]]:
    """(field, mode, passages) for everything in a tool's answer that speaks of documents."""
    if not isinstance(signal.output, Mapping):
        return
    for binding in rooms.bindings:
        if binding.tool == signal.tool:
            value = _field(signal.output, binding)
            if value is not None:
                yield binding.field, binding.mode, _matching(rooms, binding.metadata_key, value, snapshot)
    names = [name for field in _NAMING for name in _names(signal.output.get(field))]
    if names:
        yield "documents", "boost", _named(rooms, names, len(snapshot.live))


def _field(output: Mapping[str, Any], binding: ToolBinding) -> Any:
    value: Any = output
    for part in binding.field.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    # An empty list says nothing; it does not say that no document fits.
    return value if isinstance(value, str | int | float | bool) or (isinstance(value, list) and value) else None


def _matching(rooms: Rooms, key: str, value: Any, snapshot: Snapshot) -> RowMask:
    values = [item for item in map(_comparable, _listed(value)) if item is not None]
    if not values:
        return np.zeros(len(snapshot.live), np.bool_)
    return rooms.catalog.match({key: {"$in": values}}, snapshot=snapshot)


def _comparable(item: Any) -> str | float | None:
    """What metadata can equal; None for everything else that a tool may answer."""
    if isinstance(item, str):
        return clean(item)
    # No float is as large as an integer may be.
    return item if isinstance(item, int) or (isinstance(item, float) and math.isfinite(item)) else None


def _named(rooms: Rooms, names: Sequence[str], size: int) -> RowMask:
    mask = np.zeros(size, np.bool_)
    rows = [row for found in rooms.catalog.rows_of(names).values() for row in found.tolist()]
    rows += rooms.catalog.rows_by_passage_id(names).values()
    mask[[row for row in rows if row < size]] = True
    return mask


def _names(value: Any) -> list[str]:
    return [clean(name) for name in _listed(value) if isinstance(name, str) and name]


def _listed(value: Any) -> Sequence[Any]:
    return value[:_MOST] if isinstance(value, list | tuple) else [value]
