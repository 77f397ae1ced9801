"""Reads of the log, each within a transaction that the caller holds."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from lir_agents.audit.canonical import opens, resolve, storable
from lir_agents.audit.events import SEALED_PART, RecordedEvent, commitments
from lir_agents.audit.merkle import ReadNode, leaf_hash
from lir_agents.errors import InputError, IntegrityError

PAGE: Final = 500  # events per page of a long read
_MOST: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events: None means all. `after` is a position.

    Raises:
        InputError: `kind` or `principal` is nothing that an event could hold.
    """

    kind: str | None = None
    principal: str | None = None
    since_us: int | None = None
    until_us: int | None = None
    after: int = -1

    def __post_init__(self) -> None:
        for field, text in (("kind", self.kind), ("principal_id", self.principal)):
            if text is not None:
                storable(text, field=field)


def size(reader: sqlite3.Connection) -> int:
    """Number of events."""
    return int(reader.execute("SELECT coalesce(max(position) + 1, 0) FROM event").fetchone()[0])


def size_within(reader: sqlite3.Connection, asked: int | None, field: str) -> int:
    """The size asked for, checked against the log's; None is all of it."""
    held = size(reader)
    if asked is not None and not 0 <= asked <= held:
        raise InputError(f"is {asked}", field=field, remedy=f"The log has {held} events; use 0 to {held}.")
    return held if asked is None else asked


def last_time_us(reader: sqlite3.Connection) -> int:
    """Time of the last event, microseconds since 1970; 0 in an empty log."""
    row = reader.execute("SELECT time_us FROM event ORDER BY position DESC LIMIT 1").fetchone()
    return int(row[0]) if row else 0


def nodes(reader: sqlite3.Connection) -> ReadNode:
    """Reads stored nodes of the tree by position."""

    def read(position: int) -> bytes:
        row = reader.execute("SELECT hash FROM node WHERE position=?", (position,)).fetchone()
        if row is None:
            raise IntegrityError(
                f"audit: node {position} of the tree is missing.", remedy="Run `lir audit verify`."
            )
        return bytes(row[0])

    return read


def locate(reader: sqlite3.Connection, event_id: str) -> int:
    """The position of an event."""
    try:
        key = bytes.fromhex(event_id)
    except (ValueError, TypeError):
        key = b""
    row = reader.execute("SELECT position FROM event WHERE event_id=?", (key,)).fetchone()
    if row is None:
        raise InputError(f"{event_id!r} is no event of this log", field="event_id", remedy="See `lir audit log`.")
    return int(row[0])


def positions(reader: sqlite3.Connection, wanted: Wanted, limit: int) -> list[int]:
    """Positions of the first `limit` events wanted, in order."""
    rows = reader.execute(
        "SELECT position FROM event WHERE position > :after AND (:kind IS NULL OR kind = :kind)"
        " AND (:principal IS NULL OR principal = :principal) AND (:since IS NULL OR time_us >= :since)"
        " AND (:until IS NULL OR time_us < :until) ORDER BY position LIMIT :limit",
        {
            "after": wanted.after,
            "kind": wanted.kind,
            "principal": wanted.principal,
            "since": wanted.since_us,
            "until": wanted.until_us,
            "limit": _at_most(limit),
        },
    )
    return [row[0] for row in rows]


def newest(reader: sqlite3.Connection, kind: str, limit: int) -> list[int]:
    """Positions of the last `limit` events of a kind, in order."""
    found = "SELECT position FROM event WHERE kind=? ORDER BY position DESC LIMIT ?"
    return [row[0] for row in reader.execute(found, (kind, _at_most(limit)))][::-1]


def _at_most(limit: int) -> int:
    """The limit as SQLite takes it: to it, a negative one is none, and one beyond 64 bits no number."""
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InputError(f"is {limit!r}", field="limit", remedy="Use a whole number from 1.")
    return min(limit, _MOST)


def recorded(reader: sqlite3.Connection, at: Sequence[int], *, disclose: bool = True) -> list[RecordedEvent]:
    """The events at these positions, each checked against its id."""
    return [_recorded(reader, position, disclose) for position in at]


def pages(reader: sqlite3.Connection, *, disclose: bool) -> Iterator[list[RecordedEvent]]:
    """All events, in pages."""
    after = -1
    while at := positions(reader, Wanted(after=after), PAGE):
        yield recorded(reader, at, disclose=disclose)
        after = at[-1]


def _recorded(reader: sqlite3.Connection, at: int, disclose: bool) -> RecordedEvent:
    content, body, leaf = _leaf(reader, at)
    held = reader.execute("SELECT part, key, value FROM erasable WHERE position=?", (at,)).fetchall()
    committed = dict(commitments(content))
    values = {
        part: _opened(key, value, committed.get(part), at)
        for part, key, value in held
        if disclose and value is not None and part != SEALED_PART
    }
    sealed: Literal["none", "present", "erased"] = "none"
    if content["sealed"] is not None:
        sealed = "present" if any(part == SEALED_PART for part, _, _ in held) else "erased"
    return RecordedEvent(
        event_id=leaf[:16].hex(),
        position=at,
        kind=content["kind"],
        principal_id=content["principal"],
        tenant=content["tenant"],
        time=content["time"],
        clock=content["clock"],
        payload=resolve(content["payload"], values, {part for part, _, _ in held}),
        sealed=sealed,
        leaf=leaf.hex(),
        body=body,
    )


def _leaf(reader: sqlite3.Connection, at: int) -> tuple[dict[str, Any], str, bytes]:
    """A leaf's content, canonical JSON and hash, checked against the event's id."""
    row = reader.execute(
        "SELECT event_id, body FROM event JOIN leaf USING (position) WHERE position=?", (at,)
    ).fetchone()
    leaf = leaf_hash(row[1].encode()) if row and isinstance(row[1], str) else b""
    if not row or leaf[:16] != row[0]:
        raise IntegrityError(f"audit: event {at} is not what was recorded.", remedy="Run `lir audit verify`.")
    return json.loads(row[1]), row[1], leaf


def committed(reader: sqlite3.Connection, at: int) -> dict[int, str]:
    """The commitments of an event by part number."""
    return dict(commitments(_leaf(reader, at)[0]))


def sealed_body(reader: sqlite3.Connection, at: int) -> Mapping[str, Any]:
    """The sealed body of an event, checked against its commitment."""
    commitment = committed(reader, at).get(SEALED_PART)
    row = reader.execute(
        "SELECT key, value FROM erasable WHERE position=? AND part=?", (at, SEALED_PART)
    ).fetchone()
    if commitment is None or row is None:
        why = "has no sealed body" if commitment is None else "had its sealed body erased"
        raise InputError(f"the event {why}", field="event_id", remedy="It cannot be run again.")
    body: Mapping[str, Any] = _opened(row[0], row[1], commitment, at)
    return body


def _opened(key: bytes, text: str, commitment: str | None, at: int) -> Any:
    if not opens(key, text, commitment):
        raise IntegrityError(
            f"audit: a value of event {at} is not what was committed to.", remedy="Run `lir audit verify`."
        )
    return json.loads(text)
