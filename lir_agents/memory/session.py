"""Session memory on any LangGraph store: what a conversation and its tools have said.

Namespaces are ``("lir", index, principal, thread)``, each but the first a digest: memory of one principal cannot
be addressed by another, whatever anybody is called. Keys are ordered by time and unique, so that concurrent
writers to one thread never overwrite each other.
"""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from langgraph.store.base import BaseStore, PutOp

from lir_agents.config import MemorySettings
from lir_agents.deadline import SideCalls
from lir_agents.errors import InputError, LirError, StoreError
from lir_agents.memory.erased import Erased
from lir_agents.memory.records import Entry, digest, entry_of_signal, entry_of_turn, principal_label
from lir_agents.types import Principal, ToolSignal, Turn

__all__ = ["Readable", "Recording", "SessionMemory"]

Readable = Callable[[Sequence[str]], set[str]]
"""Of these passage (or document) ids, the ones that may be read at this moment."""

Recording = Callable[[Principal | None, str | None, Sequence[Turn | ToolSignal] | None], None]
"""Told (principal, thread, what is about to be remembered). Nothing to remember: the thread, or with None every one
of the principal, is about to be forgotten."""

T = TypeVar("T")

_ORDER = itertools.count()
"""Tells apart, and keeps in order, what one process remembers while its clock stands still."""

_DIGITS = 20
"""Of a key's nanoseconds."""

_AT_ONCE = 16
"""Store calls at a time: a store that hangs for ever costs so many threads and no more."""

_PAGE = 1000
"""Entries or namespaces asked for at once."""

_SLACK = 8
"""Entries kept beyond `max_turns` before the oldest are dropped: pruning costs a delete, and not every turn."""

_THREADS_NOTED = 4096
"""At most so many threads are known to hold nothing to drop, so that the next write need not look again."""


class SessionMemory:
    """Recall, remember, forget: per tenant, principal and thread.

    Args:
        store: Any LangGraph `BaseStore`.
        index_id: Names the index, so that several may share a store.
        settings: How much is kept, and for how long.
        clock: Seconds since 1970, UTC.
        recording: Told of everything before it is remembered or forgotten; if it raises, it is not.
        calls: Runs what a search asks of the store, so that a store that hangs costs it a bounded time.
        near: Whether the store gives up by itself after `timeout_s`, as a file of this machine does: one search at
            a time then asks it on its own thread; two threads' handing over would take half a millisecond.
        scrub: Called when something was forgotten: leaves none of it in the bytes of the store's files.
    """

    def __init__(
        self,
        store: BaseStore,
        *,
        index_id: str,
        settings: MemorySettings,
        clock: Callable[[], float] = time.time,
        recording: Recording | None = None,
        calls: SideCalls | None = None,
        near: bool = False,
        scrub: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._index_id = index_id
        self._index = digest(index_id)
        self._settings = settings
        self._clock = clock
        self._recording = recording
        self._calls = calls or SideCalls("lir-memory", at_most=_AT_ONCE)
        self._near = near
        self._turn = threading.Lock()
        self._scrub = scrub
        self._tidy: OrderedDict[tuple[str, ...], None] = OrderedDict()
        self._noting = threading.Lock()
        self._latest_ns = 0  # of all keys written or seen: order survives a clock that goes backwards

    def over(self, store: BaseStore) -> SessionMemory:
        """The same memory, kept in another store."""
        return SessionMemory(
            store,
            index_id=self._index_id,
            settings=self._settings,
            clock=self._clock,
            recording=self._recording,
            calls=self._calls,
        )

    def remember(
        self,
        principal: Principal | None,
        thread_id: str,
        said: Sequence[Turn | ToolSignal],
    ) -> None:
        """Keeps what was said, in order, and drops what no longer fits, has expired or was not written by memory.

        Raises:
            InputError: The thread id is not a non-empty string.
            StoreError: The store failed, or did not answer in time (it may still keep what was said later on);
                nothing or all of it was kept, as the store does it. Or it could not be recorded, and was not kept.
        """
        self._namespace(principal, thread_id)
        if said and self._recording is not None and self._settings.max_turns:
            self._recording(principal, thread_id, said[-self._settings.max_turns :])
        self.keep(principal, thread_id, said)

    def keep(
        self,
        principal: Principal | None,
        thread_id: str,
        said: Sequence[Turn | ToolSignal],
    ) -> None:
        """`remember`, for what has been recorded already.

        Raises as `remember`.
        """
        namespace = self._namespace(principal, thread_id)
        now = datetime.fromtimestamp(self._clock(), UTC)
        expires = now + timedelta(seconds=self._settings.ttl_s)
        puts = []
        # More than is ever recalled need not be written; with 0 turns, nothing is.
        for thing in said[-self._settings.max_turns :] if self._settings.max_turns else ():
            if isinstance(thing, Turn):
                entry = entry_of_turn(thing, at=now, expires=expires, max_chars=self._settings.max_chars)
            else:
                entry = entry_of_signal(thing, at=now, expires=expires, max_chars=self._settings.max_chars)
            puts.append(PutOp(namespace, self._key(now), entry.to_value(), index=False))
        if not puts:
            return

        def work() -> None:
            self._store.batch(puts)
            if namespace in self._tidy:
                self._note(namespace, tidy=False)
            else:
                self._prune(namespace, now)

        self._in_time("remember", work)

    def recall(
        self, principal: Principal | None, thread_id: str, readable: Readable, *, shown: int | None = None
    ) -> list[Entry]:
        """The newest `max_turns` entries that have not expired, oldest first.

        What was learned from a document is recalled only while every one of its passages may be read: an
        answer or a tool output with an unreadable source is left out, and a user's turn loses the unreadable
        passages that it was shown.

        Args:
            principal: Whose memory.
            thread_id: Of which conversation.
            readable: Says which of these passages and documents may be read now.
            shown: Of so many of a user's turns, the newest, what they were shown is wanted; earlier ones lose it
                without a question. None: of all.

        Raises:
            InputError: The thread id is not a non-empty string.
            StoreError: The store failed, did not answer in time, or holds something that memory did not write
                (the next `remember` drops that).
        """
        namespace = self._namespace(principal, thread_id)
        now = datetime.fromtimestamp(self._clock(), UTC)
        self._note(namespace, tidy=False)
        entries = self._in_time("recall", lambda: [Entry.from_value(*item) for item in self._items(namespace)])
        if entries:
            self._see(entries[-1].key)
        kept = [entry for entry in entries if entry.expires > now]
        self._note(namespace, tidy=len(kept) == len(entries) < self._settings.max_turns + _SLACK)
        kept = kept[-self._settings.max_turns :] if self._settings.max_turns else []
        kept = kept if shown is None else _shown_of(kept, shown)
        named = list(dict.fromkeys(name for entry in kept for name in entry.passage_ids))
        allowed = readable(named) if named else set()
        return [entry for entry in (_permitted(entry, allowed) for entry in kept) if entry is not None]

    def forget(self, principal: Principal | None, thread_id: str | None = None) -> int:
        """Forgets a thread, or everything of a principal. Returns how many entries are gone.

        Raises:
            StoreError: The store failed; calling again forgets the rest. Or it could not be recorded, and nothing
                is forgotten.
        """
        prefix = self._namespace(principal, thread_id) if thread_id is not None else self._owner(principal)
        if self._recording is not None:
            self._recording(principal, thread_id, None)
        gone = 0
        with _failures("forget"):
            while found := self._store.search(prefix, limit=100):
                self._store.batch([PutOp(item.namespace, item.key, None) for item in found])
                gone += len(found)
            self._scrub()
        return gone

    def unlearn(self, names: Collection[str]) -> int:
        """Drops from every principal's memory what was learned from erased documents.

        Answers and tool outputs go, and so does whatever names one of the documents as a word of its own; any other
        turn of a user stays and loses the passages that it was shown.

        Args:
            names: Ids of the documents; those of their passages follow from them.

        Returns:
            How many entries were dropped or changed.

        Raises:
            StoreError: The store failed; calling again does the rest.
        """
        gone = Erased(names)
        changed = 0
        with _failures("unlearn"):
            for namespace in self._namespaces():
                puts = []
                for key, value in self._items(namespace):
                    if (left := gone.left_of(value)) is not value:
                        puts.append(PutOp(namespace, key, left, index=False))
                if puts:
                    self._store.batch(puts)
                changed += len(puts)
            self._scrub()
        return changed

    def _namespaces(self) -> list[tuple[str, ...]]:
        found: list[tuple[str, ...]] = []
        while page := self._store.list_namespaces(prefix=("lir", self._index), limit=_PAGE, offset=len(found)):
            found += page
        return found

    def _items(self, namespace: tuple[str, ...]) -> list[tuple[str, dict[str, Any]]]:
        """Keys and values of a thread, oldest first. A search is by prefix; this very namespace is meant."""
        items = self._store.search(namespace, limit=max(_PAGE, 10 * (self._settings.max_turns + _SLACK)))
        return sorted(((item.key, item.value) for item in items if item.namespace == namespace), key=_by_key)

    def _key(self, now: datetime) -> str:
        """A key behind every one that was written or seen here, whatever the clock says."""
        with self._noting:
            self._latest_ns = at = max(int(now.timestamp() * 1e9), self._latest_ns)
        # Nanoseconds first, so that keys sort by time; then this process's own count, where the clock stands still;
        # then a random end, because another process may write at the same moment.
        return f"{at:0{_DIGITS}d}-{next(_ORDER):012d}-{uuid.uuid4().hex[:12]}"

    def _see(self, key: str) -> None:
        """Notes the newest key of a thread: another process, or another day, may have written it."""
        at = key.partition("-")[0]
        if len(at) == _DIGITS and at.isdecimal():
            with self._noting:
                self._latest_ns = max(self._latest_ns, int(at) + 1)  # whoever wrote it had a count of its own

    def _note(self, namespace: tuple[str, ...], *, tidy: bool) -> None:
        with self._noting:
            self._tidy.pop(namespace, None)
            if tidy:
                self._tidy[namespace] = None
            while len(self._tidy) > _THREADS_NOTED:
                self._tidy.popitem(last=False)

    def _prune(self, namespace: tuple[str, ...], now: datetime) -> None:
        items = self._items(namespace)
        expiries = [_expiry(value) for _, value in items]
        surplus = len(items) - self._settings.max_turns
        oldest = surplus if surplus > _SLACK else 0
        drop = [
            key
            for position, ((key, _), expires) in enumerate(zip(items, expiries, strict=True))
            if position < oldest or expires is None or expires <= now
        ]
        if drop:
            self._store.batch([PutOp(namespace, key, None) for key in drop])

    def _in_time(self, operation: str, work: Callable[[], T]) -> T:
        with _failures(operation):
            # Behind others, who each may wait for so long, it would wait for several times as long.
            if self._near and not self._calls.busy and self._turn.acquire(blocking=False):
                try:
                    return work()
                finally:
                    self._turn.release()
            return self._calls.run(work, timeout_s=self._settings.timeout_s)

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
    return _shown(entry, tuple(name for name in entry.passage_ids if name in readable))


def _shown_of(entries: Sequence[Entry], newest: int) -> list[Entry]:
    """The entries; a user's turn before the newest so many was shown nothing."""
    turns = [at for at, entry in enumerate(entries) if entry.kind == "user"]
    earlier = set(turns[: max(0, len(turns) - newest)])
    return [_shown(entry, ()) if at in earlier else entry for at, entry in enumerate(entries)]


def _shown(entry: Entry, passage_ids: tuple[str, ...]) -> Entry:
    return Entry(entry.kind, entry.text, passage_ids, entry.at, entry.expires, key=entry.key)


def _expiry(value: Mapping[str, Any]) -> datetime | None:
    """When an entry expires; None for what memory did not write."""
    try:
        return Entry.from_value("", value).expires
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return None


def _by_key(item: tuple[str, Any]) -> str:
    return item[0]


@contextmanager
def _failures(operation: str) -> Iterator[None]:
    """Whatever a store raises becomes a StoreError that says memory failed, and how.

    Not in the store's own words: they may quote what was said, and this error is told in coverage, logged and
    recorded. They stay with its cause.
    """
    try:
        yield
    except LirError:
        raise
    except TimeoutError as error:
        raise StoreError(
            "did not answer in time",
            store="memory",
            operation=operation,
            retryable=True,
            remedy="Retrieval goes on without memory; check the store, or raise the setting memory.timeout_s.",
        ) from error
    except Exception as error:
        raise StoreError(
            f"raised {getattr(error, 'sqlite_errorname', type(error).__name__)}",
            store="memory",
            operation=operation,
            retryable=True,
            remedy="Retrieval goes on without memory; check the store.",
        ) from error
