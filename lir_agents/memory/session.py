"""Session memory on any LangGraph store: what a conversation and its tools have said.

Namespaces are ``("lir", index, principal, thread)``, each but the first a digest: memory of one principal cannot
be addressed by another, whatever anybody is called. Keys are ordered by time and unique, so that concurrent
writers to one thread never overwrite each other.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from langgraph.store.base import BaseStore, PutOp

from lir_agents.config import MemorySettings
from lir_agents.errors import InputError, LirError, StoreError
from lir_agents.memory.records import Entry, digest, entry_of_signal, entry_of_turn, principal_label
from lir_agents.types import Principal, ToolSignal, Turn

__all__ = ["Readable", "SessionMemory"]

Readable = Callable[[Sequence[str]], set[str]]
"""Of these passage (or document) ids, the ones that may be read at this moment."""

_SLACK = 8
"""Entries kept beyond `max_turns` before the oldest are dropped: pruning costs a delete, and not every turn."""


class SessionMemory:
    """Recall, remember, forget: per tenant, principal and thread.

    Args:
        store: Any LangGraph `BaseStore`.
        index_id: Names the index, so that several may share a store.
        settings: How much is kept, and for how long.
        clock: Seconds since 1970, UTC.
    """

    def __init__(
        self,
        store: BaseStore,
        *,
        index_id: str,
        settings: MemorySettings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._index_id = index_id
        self._index = digest(index_id)
        self._settings = settings
        self._clock = clock

    def over(self, store: BaseStore) -> SessionMemory:
        """The same memory, kept in another store."""
        return SessionMemory(store, index_id=self._index_id, settings=self._settings, clock=self._clock)

    def remember(
        self,
        principal: Principal | None,
        thread_id: str,
        said: Sequence[Turn | ToolSignal],
    ) -> None:
        """Keeps what was said, in order, and drops what no longer fits.

        Raises:
            InputError: The thread id is not a non-empty string.
            StoreError: The store failed; nothing or all of it was kept, as the store does it.
        """
        namespace = self._namespace(principal, thread_id)
        now = datetime.fromtimestamp(self._clock(), UTC)
        expires = now + timedelta(seconds=self._settings.ttl_s)
        puts = []
        for position, thing in enumerate(said):
            if isinstance(thing, Turn):
                entry = entry_of_turn(thing, at=now, expires=expires, max_chars=self._settings.max_chars)
            else:
                entry = entry_of_signal(thing, at=now, expires=expires, max_chars=self._settings.max_chars)
            puts.append(PutOp(namespace, _key(now, position), entry.to_value(), index=False))
        if not puts:
            return
        with _failures("remember"):
            self._store.batch(puts)
        self._prune(namespace)

    def recall(self, principal: Principal | None, thread_id: str, readable: Readable) -> list[Entry]:
        """The newest `max_turns` entries that have not expired, oldest first.

        What was learned from a document is recalled only while every one of its passages may be read: an
        answer or a tool output with an unreadable source is left out, and a user's turn loses the unreadable
        passages that it was shown.

        Raises:
            InputError: The thread id is not a non-empty string.
            StoreError: The store failed, or holds something that memory did not write.
        """
        now = datetime.fromtimestamp(self._clock(), UTC)
        kept = [entry for entry in self._entries(self._namespace(principal, thread_id)) if entry.expires > now]
        kept = kept[-self._settings.max_turns :] if self._settings.max_turns else []
        named = list(dict.fromkeys(name for entry in kept for name in entry.passage_ids))
        allowed = readable(named) if named else set()
        return [entry for entry in (_permitted(entry, allowed) for entry in kept) if entry is not None]

    def forget(self, principal: Principal | None, thread_id: str | None = None) -> int:
        """Forgets a thread, or everything of a principal. Returns how many entries are gone.

        Raises:
            StoreError: The store failed; calling again forgets the rest.
        """
        prefix = self._namespace(principal, thread_id) if thread_id is not None else self._owner(principal)
        gone = 0
        with _failures("forget"):
            while found := self._store.search(prefix, limit=100):
                self._store.batch([PutOp(item.namespace, item.key, None) for item in found])
                gone += len(found)
        return gone

    def _entries(self, namespace: tuple[str, ...]) -> list[Entry]:
        with _failures("recall"):
            items = self._store.search(namespace, limit=10 * (self._settings.max_turns + _SLACK))
            # A search is by prefix; entries of this very namespace are meant.
            own = sorted((item.key, item.value) for item in items if item.namespace == namespace)
            return [Entry.from_value(key, value) for key, value in own]

    def _prune(self, namespace: tuple[str, ...]) -> None:
        entries = self._entries(namespace)
        now = datetime.fromtimestamp(self._clock(), UTC)
        surplus = len(entries) - self._settings.max_turns
        old = entries[:surplus] if surplus > _SLACK else []
        dead = [entry for entry in entries if entry.expires <= now]
        drop = {entry.key for entry in (*old, *dead)}
        if drop:
            with _failures("remember"):
                self._store.batch([PutOp(namespace, key, None) for key in sorted(drop)])

    def _owner(self, principal: Principal | None) -> tuple[str, ...]:
        return ("lir", self._index, principal_label(principal))

    def _namespace(self, principal: Principal | None, thread_id: str) -> tuple[str, ...]:
        if not isinstance(thread_id, str) or not thread_id:
            raise InputError(f"is {thread_id!r}", field="thread_id", remedy="Pass a non-empty string.")
        return (*self._owner(principal), digest(thread_id, "thread"))


def _permitted(entry: Entry, readable: set[str]) -> Entry | None:
    if all(name in readable for name in entry.passage_ids):
        return entry
    if entry.kind != "user":
        return None
    shown = tuple(name for name in entry.passage_ids if name in readable)
    return Entry(entry.kind, entry.text, shown, entry.at, entry.expires, key=entry.key)


def _key(now: datetime, position: int) -> str:
    # Nanoseconds first, so that keys sort by time; the clock may stand still or two writers meet, so a random end.
    return f"{int(now.timestamp() * 1e9):020d}-{position:04d}-{uuid.uuid4().hex[:12]}"


@contextmanager
def _failures(operation: str) -> Iterator[None]:
    """Whatever a store raises becomes a StoreError that says memory failed."""
    try:
        yield
    except LirError:
        raise
    except Exception as error:
        raise StoreError(
            f"{type(error).__name__}: {error}",
            store="memory",
            operation=operation,
            retryable=True,
            remedy="Retrieval goes on without memory; check the store.",
        ) from error
