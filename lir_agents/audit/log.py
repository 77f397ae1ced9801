"""`AuditLog`: the append-only, provable record of what happened to an index."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from lir_agents.audit import erasure, reading
from lir_agents.audit.canonical import canonical, commit
from lir_agents.audit.database import Database, Durability, translated
from lir_agents.audit.events import AuditEvent, Kind, RecordedEvent, prepare, utc, utc_us
from lir_agents.audit.merkle import consistency_path, inclusion_path, range_hash
from lir_agents.audit.verify import VerifyReport, verify_rows
from lir_agents.audit.writer import Writer
from lir_agents.errors import InputError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    from lir_agents.audit.checkpoint import Checkpoint

__all__ = ["AuditLog", "InclusionProof"]


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """That a leaf stands at `index` in the tree of `size` entries: feed it to `merkle.verify_inclusion`.

    `leaf` and every hash in `path` (leaf to root) are 32 bytes.
    """

    leaf: bytes
    index: int
    size: int
    path: tuple[bytes, ...]


class AuditLog:
    """An append-only Merkle log (RFC 6962) in one SQLite file. Threads and processes may share it.

    Example:
        >>> with AuditLog.open(Path("audit.sqlite")) as log:
        ...     event_id = log.append(AuditEvent("configuration", "alice", payload={"k": 10}))
        ...     log.verify().raise_if_broken()
    """

    def __init__(self, database: Database, clock_ns: Callable[[], int]) -> None:
        self._database, self._clock_ns = database, clock_ns
        self._writer = Writer(database, clock_ns)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        read_only: bool = False,
        timeout_s: float = 5.0,
        durability: Durability = "process",
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> Self:
        """Opens a log; makes an empty one where there is none.

        Args:
            path: The log's file.
            read_only: Refuse appends, and open files on read-only disks.
            timeout_s: How long to wait for another process that is appending, in seconds.
            durability: "process": an append of what a search does returns once the operating system holds it, and
                the disk within `flush.DELAY_S`: none is lost with the process, and a power cut takes at most the
                last moment's. Everything else (ingest, version, redaction, erasure, configuration) is on the disk
                when its append returns. "disk": every event is.
            clock_ns: The wall clock: nanoseconds since 1970, UTC.

        Raises:
            StoreError: The file cannot be opened or made.
            IntegrityError: It is not an audit log, or one of a newer format; nothing was changed.
        """
        if durability not in ("disk", "process"):
            raise InputError(f"is {durability!r}", field="durability", remedy='Use "disk" or "process".')
        database = Database(Path(path), read_only=read_only, timeout_s=timeout_s, durability=durability)
        return cls(database, clock_ns)

    # -------------------------------------------------------------- append

    def append(self, event: AuditEvent, sealed: Mapping[str, Any] | None = None) -> str:
        """Records an event and returns its id once it is as durable as `open` was asked for.

        Args:
            event: What happened.
            sealed: What is needed to run it again (query, history, tool signals): JSON data, kept apart and
                erasable; the leaf holds a commitment to it.

        Raises:
            StoreError: Nothing was recorded; `retryable` says whether another try may help.
            InputError: The payload or the sealed body is not JSON.
        """
        return self._writer.append((prepare(event, sealed),))[0]

    def append_many(self, events: Iterable[AuditEvent | tuple[AuditEvent, Mapping[str, Any] | None]]) -> list[str]:
        """Records all events in one transaction, or none; see `append`."""
        pairs = (entry if isinstance(entry, tuple) else (entry, None) for entry in events)
        entries = [prepare(event, sealed) for event, sealed in pairs]
        return self._writer.append(entries) if entries else []

    # -------------------------------------------------------------- read

    @property
    def origin(self) -> str:
        """The log's own name, drawn at random when it was made."""
        return self._database.origin

    @property
    def size(self) -> int:
        """Number of events."""
        with self._database.read("size") as reader:
            return reading.size(reader)

    def get(self, event_id: str) -> RecordedEvent:
        """One event, checked against its id.

        Raises:
            InputError: There is no such event.
            IntegrityError: The event was edited.
        """
        with self._database.read("get") as reader:
            return reading.recorded(reader, [reading.locate(reader, event_id)])[0]

    def events(
        self,
        *,
        kind: Kind | None = None,
        principal_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[RecordedEvent]:
        """Events in the order of the log.

        Args:
            kind: Only of this kind.
            principal_id: Only of this principal.
            since: Not before this moment (aware).
            until: Before this moment (aware).
            limit: At most so many; go on with ``after=events[-1].event_id``.
            after: Only those behind this event.
        """
        with self._database.read("events") as reader:
            wanted = reading.Wanted(
                kind=kind,
                principal=principal_id,
                since_us=utc_us(since, field="since") if since else None,
                until_us=utc_us(until, field="until") if until else None,
                after=reading.locate(reader, after) if after else -1,
            )
            return reading.recorded(reader, reading.positions(reader, wanted, limit))

    def newest(self, kind: Kind, limit: int) -> list[RecordedEvent]:
        """The last `limit` events of a kind, oldest of them first."""
        with self._database.read("events") as reader:
            return reading.recorded(reader, reading.newest(reader, kind, limit))

    def unseal(self, event_id: str) -> Mapping[str, Any]:
        """The sealed body of an event, checked against its commitment.

        Raises:
            InputError: The event has none, or it was erased.
            IntegrityError: It was edited.
        """
        with self._database.read("unseal") as reader:
            return reading.sealed_body(reader, reading.locate(reader, event_id))

    def confirms(self, event_id: str, value: Any) -> bool:
        """Whether the event committed to exactly this value and its key was not erased.

        Answers "was this the query?" or "was this document erased?" without the value being stored.
        """
        text = canonical(value, field="value")
        with self._database.read("confirm") as reader:
            at = reading.locate(reader, event_id)
            committed = reading.committed(reader, at)
            keys = reader.execute("SELECT part, key FROM erasable WHERE position=?", (at,)).fetchall()
        return any(commit(key, text) == committed.get(part) for part, key in keys)

    def show(self, event_id: str) -> dict[str, Any]:
        """Who asked, what surfaced, why, under which policy, from which version; and the proof that it stands
        in the log. See `lir_agents.audit.show`."""
        from lir_agents.audit.show import describe

        with self._database.read("show") as reader:
            at = reading.locate(reader, event_id)
            event = reading.recorded(reader, [at])[0]
            sealed = reading.sealed_body(reader, at) if event.sealed == "present" else None
            size = reading.size(reader)
            proof = InclusionProof(bytes.fromhex(event.leaf), at, size, self._inclusion(reader, at, size))
            root = range_hash(reading.nodes(reader), 0, size)
        return describe(event, sealed, proof, root)

    # -------------------------------------------------------------- prove

    def root(self, size: int | None = None) -> bytes:
        """The tree's root over the first `size` events (None: all), 32 bytes."""
        with self._database.read("root") as reader:
            return range_hash(reading.nodes(reader), 0, reading.size_within(reader, size, "size"))

    def inclusion_proof(self, event_id: str, size: int | None = None) -> InclusionProof:
        """The proof that an event stands in the tree over the first `size` events (None: all)."""
        with self._database.read("prove") as reader:
            at, within = reading.locate(reader, event_id), reading.size_within(reader, size, "size")
            if at >= within:
                raise InputError(f"is {within}", field="size", remedy=f"The event is number {at}; ask for more.")
            leaf = reading.nodes(reader)(2 * at - at.bit_count())
            return InclusionProof(leaf, at, within, self._inclusion(reader, at, within))

    def consistency_proof(self, old_size: int, new_size: int | None = None) -> tuple[bytes, ...]:
        """The proof that the first `old_size` events are a prefix of the first `new_size` (None: all)."""
        with self._database.read("prove") as reader:
            new = reading.size_within(reader, new_size, "new_size")
            if not 0 <= old_size <= new:
                raise InputError(f"is {old_size}", field="old_size", remedy=f"Use 0 to {new}.")
            return tuple(consistency_path(reading.nodes(reader), old_size, new))

    @staticmethod
    def _inclusion(reader: sqlite3.Connection, at: int, size: int) -> tuple[bytes, ...]:
        return tuple(inclusion_path(reading.nodes(reader), at, size))

    def checkpoint(self, signing_key: Ed25519PrivateKey) -> Checkpoint:
        """Signs the log as it is now. Keep the result where whoever can write the log cannot.

        Raises:
            StoreError: The disk does not hold what would be signed.
        """
        from lir_agents.audit.checkpoint import Checkpoint

        with self._database.read("checkpoint") as reader:
            size = reading.size(reader)
            root, last_us = range_hash(reading.nodes(reader), 0, size), reading.last_time_us(reader)
        self._database.to_disk()  # what is signed must be there after a power cut, too
        moment = utc(max(self._clock_ns() // 1000, last_us))
        return Checkpoint.sign(signing_key, origin=self.origin, size=size, root=root, time=moment)

    def verify(
        self, checkpoint: Checkpoint | None = None, public_key: Ed25519PublicKey | None = None
    ) -> VerifyReport:
        """Recomputes everything from the rows, and compares with a checkpoint that was kept elsewhere.

        Raises:
            InputError: A checkpoint without the public key that its signature is checked with.
        """
        if checkpoint is not None and public_key is None:
            raise InputError("is missing", field="public_key", remedy="Pass the signer's public key.")
        with self._database.snapshot("verify") as database:
            return verify_rows(database, self.origin, checkpoint, public_key)

    def export(self, format: Literal["jsonl", "openlineage"] = "jsonl", *, disclose: bool = False) -> Iterator[str]:
        """One line of JSON per event, oldest first.

        Args:
            format: "jsonl" holds the exact bytes of each leaf, so that the root can be recomputed from the
                lines; "openlineage" is a run event per event.
            disclose: Put erasable values in. An export is out of reach of a later erasure.
        """
        from lir_agents.audit.export import FORMATS

        if format not in FORMATS:
            raise InputError(f"is {format!r}", field="format", remedy=f"Use one of {', '.join(FORMATS)}.")
        return self._export(FORMATS[format], disclose)

    def _export(self, line: Callable[[RecordedEvent, str], str], disclose: bool) -> Iterator[str]:
        with self._database.snapshot("export") as database:
            for events in reading.pages(database, disclose=disclose):
                for event in events:
                    yield line(event, self.origin)

    # -------------------------------------------------------------- forget

    def erase_sealed(
        self,
        event_ids: Iterable[str] = (),
        *,
        predicate: Callable[[RecordedEvent], bool] | None = None,
    ) -> int:
        """Forgets what callers said: sealed bodies and erasable values without a subject (query, thread).

        Args:
            event_ids: These events,
            predicate: and those it holds for.

        Returns:
            How many values are gone. The tree and all proofs stay as they were; record an "erasure" event.

        Raises:
            StoreError: Nothing was erased; or a reader keeps the old bytes, and `compact` has to be called.
        """
        with self._database.snapshot("erase") as database:
            positions = [reading.locate(database, event_id) for event_id in event_ids]
            if predicate is not None:
                pages = reading.pages(database, disclose=True)
                positions += [event.position for page in pages for event in page if predicate(event)]
        return self._erase(lambda writer: erasure.drop_private(writer, positions))

    def erase_documents(self, document_ids: Sequence[str], *, mentions: Sequence[str] = ()) -> int:
        """Forgets documents: which events they surfaced in, and every sealed body that names them.

        Args:
            document_ids: Documents, as they stand in the events.
            mentions: Further names that give them away, such as passage ids.

        Returns and raises as `erase_sealed`.
        """
        return self._erase(lambda writer: erasure.drop_documents(writer, list(document_ids), list(mentions)))

    def _erase(self, drop: Callable[[sqlite3.Connection], int]) -> int:
        with self._database.transaction("erase") as writer:
            removed = drop(writer)
        self.compact(vacuum=False)
        return removed

    def compact(self, *, vacuum: bool = True) -> None:
        """Leaves nothing erased in the bytes of the files.

        Args:
            vacuum: Rewrite the whole file. Without, erased cells are overwritten where they stood.

        Raises:
            StoreError: Somebody is reading; a retry helps.
        """
        with translated("compact"), self._database.writing:
            if vacuum:
                self._database.writer.execute("VACUUM")
            self._database.truncate_wal("compact")

    # -------------------------------------------------------------- close

    def close(self) -> None:
        """Closes the files. Idempotent."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
