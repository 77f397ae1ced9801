"""Appending: one transaction for everything that waits.

Threads line up; the first to get the lock leads, takes what the others have queued meanwhile and commits it
all in one transaction. Nobody returns before the transaction that holds their events is committed, and, where it
holds more than searches, on the disk. Processes take turns by ``BEGIN IMMEDIATE``.
"""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lir_agents.audit.database import Database, translated
from lir_agents.audit.events import SEARCHES, Prepared
from lir_agents.audit.merkle import extend, frontier_positions, node_count
from lir_agents.errors import StoreError

__all__ = ["Writer"]

MAX_BATCH = 1024  # tickets of one transaction: bounds how long the first of them waits


@dataclass(slots=True)
class _Ticket:
    entries: Sequence[Prepared]
    ids: list[str] = field(default_factory=list)
    settled: bool = False
    cause: BaseException | None = None


@dataclass(slots=True)
class _Tail:
    """What an append continues from. `frontier` holds the roots of the full subtrees, largest first."""

    size: int
    time_us: int
    frontier: list[bytes]


class Writer:
    """The one way in. Safe for threads of a process and for several processes.

    Args:
        database: The open log.
        clock_ns: The wall clock: nanoseconds since 1970.
    """

    def __init__(self, database: Database, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._database, self._clock_ns = database, clock_ns
        self._waiting: deque[_Ticket] = deque()
        self._tail: _Tail | None = None

    def append(self, entries: Sequence[Prepared]) -> list[str]:
        """Records all entries or none, and returns their ids once they are durable; see `AuditLog.append`.

        Raises:
            StoreError: The transaction failed and nothing of it was recorded; or the disk fails.
        """
        flusher = self._database.flusher
        if flusher is not None:
            flusher.check()
        ticket = _Ticket(entries)
        self._waiting.append(ticket)
        with self._database.writing:
            while not ticket.settled:
                self._lead()
        if ticket.cause is not None:
            self._refuse(ticket.cause)
        if flusher is not None:
            # What changes the index waits for the disk: a log that lags behind the catalog proves nothing about it.
            if all(entry.event.kind in SEARCHES for entry in entries):
                flusher.soon()
            else:
                flusher.now()
        return ticket.ids

    def _refuse(self, cause: BaseException) -> None:
        with translated("append"):
            if isinstance(cause, sqlite3.Error):
                # Each waiting thread raises an error of its own: a shared one would collect all tracebacks.
                own = type(cause)(*cause.args)
                if hasattr(cause, "sqlite_errorcode"):
                    own.sqlite_errorcode = cause.sqlite_errorcode
                raise own from cause
        raise StoreError(
            "the transaction was interrupted, and may or may not stand", store="audit", operation="append"
        ) from cause

    def _lead(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_BATCH))]
        try:
            self._commit(batch)
        except BaseException as error:
            self._tail = None
            self._database.rollback()
            for ticket in batch:
                ticket.cause = error
            if not isinstance(error, Exception):  # an interrupt belongs to the leader; the others are refused
                raise
        finally:
            for ticket in batch:
                ticket.settled = True

    def _commit(self, batch: Sequence[_Ticket]) -> None:
        writer = self._database.writer
        writer.execute("BEGIN IMMEDIATE")
        tail = self._read_tail(writer)
        rows = _Rows()
        ids = [[rows.add(entry, tail, self._clock_ns() // 1000) for entry in ticket.entries] for ticket in batch]
        rows.insert(writer)
        writer.execute("COMMIT")
        self._tail = tail
        for ticket, own in zip(batch, ids, strict=True):
            ticket.ids = own

    def _read_tail(self, writer: sqlite3.Connection) -> _Tail:
        """The tail as this transaction sees it; the one kept from last time if no other process wrote since."""
        row = writer.execute("SELECT position, time_us FROM event ORDER BY position DESC LIMIT 1").fetchone()
        size, time_us = (row[0] + 1, row[1]) if row else (0, 0)
        if self._tail is not None and (self._tail.size, self._tail.time_us) == (size, time_us):
            tail, self._tail = self._tail, None
            return tail
        read = "SELECT hash FROM node WHERE position=?"
        return _Tail(size, time_us, [writer.execute(read, (at,)).fetchone()[0] for at in frontier_positions(size)])


class _Rows:
    """The rows of one transaction."""

    def __init__(self) -> None:
        self._events: list[tuple[int, bytes, str, str, str, int]] = []
        self._leaves: list[tuple[int, str]] = []
        self._nodes: list[tuple[int, bytes]] = []
        self._erasable: list[tuple[int, int, bytes, str | None, str | None]] = []

    def add(self, entry: Prepared, tail: _Tail, clock_us: int) -> str:
        at, event = tail.size, entry.event
        tail.time_us = max(clock_us, tail.time_us)
        body, digest = entry.leaf(clock_us, tail.time_us)
        self._events.append((at, digest[:16], event.kind, event.principal_id, event.tenant, tail.time_us))
        self._leaves.append((at, body))
        self._nodes += enumerate(extend(tail.frontier, at, digest), node_count(at))
        self._erasable += [(at, part.number, part.key, part.subject, part.text) for part in entry.parts]
        tail.size += 1
        return digest[:16].hex()

    def insert(self, writer: sqlite3.Connection) -> None:
        writer.executemany("INSERT INTO event VALUES (?,?,?,?,?,?)", self._events)
        writer.executemany("INSERT INTO leaf VALUES (?,?)", self._leaves)
        writer.executemany("INSERT INTO node VALUES (?,?)", self._nodes)
        writer.executemany("INSERT INTO erasable VALUES (?,?,?,?,?)", self._erasable)
