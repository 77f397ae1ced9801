"""The log's SQLite file: schema, connections, and what SQLite's errors mean here.

Durability: a write-ahead log. With ``"process"`` a commit returns once the operating system holds its frames
(``synchronous=NORMAL``), and `Flusher` takes them to the disk: what was acknowledged survives the death of the
process, and a power cut may take the last moment's, never the order or the whole. With ``"disk"`` every commit
returns after its frames are on the disk (``synchronous=FULL``).
`docs/decisions/0003-when-an-event-counts-as-recorded.md` says why.
Rows of the tree can be added and never changed or removed through this schema (triggers); erasable values lie
apart, with `secure_delete`.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final, Literal

from lir_agents.audit.flush import Flusher
from lir_agents.errors import IntegrityError, LirError, StoreError

__all__ = ["Database", "Durability", "translated"]

APPLICATION_ID: Final = 0x4C495241  # "LIRA"
FORMAT: Final = 1
Durability = Literal["disk", "process"]
_SYNCHRONOUS: Final[Mapping[str, str]] = {"disk": "FULL", "process": "NORMAL"}
_RETRYABLE: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_REMEDY: Final = {
    sqlite3.SQLITE_FULL: "Free disk space; nothing was recorded.",
    sqlite3.SQLITE_BUSY: "Another process holds the log; try again.",
    sqlite3.SQLITE_READONLY: "Open the log for writing, on a writable disk.",
}

# `event` is narrow so that listing and filtering never read the bodies.
_TABLES: Final = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE event (position INTEGER PRIMARY KEY, event_id BLOB NOT NULL UNIQUE, kind TEXT NOT NULL,"
    " principal TEXT NOT NULL, tenant TEXT NOT NULL, time_us INTEGER NOT NULL)",
    "CREATE TABLE leaf (position INTEGER PRIMARY KEY, body TEXT NOT NULL)",
    "CREATE TABLE node (position INTEGER PRIMARY KEY, hash BLOB NOT NULL)",
    "CREATE TABLE erasable (position INTEGER NOT NULL, part INTEGER NOT NULL, key BLOB NOT NULL, subject TEXT,"
    " value TEXT, PRIMARY KEY (position, part)) WITHOUT ROWID",
)
_TRIGGERS: Final = tuple(
    f"CREATE TRIGGER {table}_{verb} BEFORE {verb} ON {table}"
    " BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
    for table in ("event", "leaf", "node")
    for verb in ("UPDATE", "DELETE")
)


def _meaning(error: sqlite3.Error, operation: str) -> LirError:
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code in _DAMAGED:
        return IntegrityError(
            f"audit: {operation}: {error}.", remedy="The log is damaged or not ours; restore it from a backup."
        )
    return StoreError(
        str(error), store="audit", operation=operation, retryable=code in _RETRYABLE, remedy=_REMEDY.get(code, "")
    )


@contextmanager
def translated(operation: str) -> Iterator[None]:
    """Turns SQLite's errors into `StoreError` or `IntegrityError` of this operation."""
    try:
        yield
    except sqlite3.Error as error:
        raise _meaning(error, operation) from error


def _wal(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _open(path: Path, mode: str, timeout_s: float, synchronous: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode={mode}",
        uri=True,
        timeout=timeout_s,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.execute(f"PRAGMA synchronous={synchronous}")
    connection.execute("PRAGMA secure_delete=ON")
    return connection


def _create(path: Path) -> None:
    """Makes an empty log under another name and links it into place: whoever opens it finds it whole."""
    if _wal(path).exists() and not path.exists():
        raise IntegrityError(
            f"audit: open: {path.name} is gone and its write-ahead log is not.",
            remedy="Restore both from a backup.",
        )
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))  # it holds queries: its owner's only
        with translated("create"), closing(_open(draft, "rw", 0.0, "FULL")) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("BEGIN IMMEDIATE")
            for statement in (*_TABLES, *_TRIGGERS):
                connection.execute(statement)
            origin = f"lir-agents.audit/{secrets.token_hex(16)}"
            connection.execute("INSERT INTO meta VALUES ('origin', ?)", (origin,))
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={FORMAT}")
            connection.execute("COMMIT")
        with suppress(FileExistsError):  # another opener was first, and its log is as good
            os.link(draft, path)
    except OSError as error:
        raise StoreError(str(error), store="audit", operation="create") from error
    finally:
        for leftover in (draft, _wal(draft), draft.with_name(draft.name + "-shm")):
            leftover.unlink(missing_ok=True)


def _recognise(connection: sqlite3.Connection) -> None:
    """Refuses a foreign or newer file before anything is written to it."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION_ID:
        raise IntegrityError("audit: open: the file is not an audit log.", remedy="Name the log's own file.")
    if version != FORMAT:
        raise IntegrityError(
            f"audit: open: the log has format {version}, this version reads {FORMAT}.",
            remedy="Use the version of lir-agents that wrote it.",
        )


def _origin(connection: sqlite3.Connection) -> str:
    row = connection.execute("SELECT value FROM meta WHERE key='origin'").fetchone()
    if row is None:
        raise IntegrityError("audit: open: the log has lost its name.", remedy="Restore it from a backup.")
    return str(row[0])


class Database:
    """Connections to one log file: one writer, one shared reader, and snapshots for long reads.

    Attributes:
        origin: The log's own name, drawn when it was created; part of every checkpoint.
        flusher: Takes commits to the disk, where they do not go there by themselves.
    """

    def __init__(self, path: Path, *, read_only: bool, timeout_s: float, durability: Durability) -> None:
        self._path, self._read_only, self._timeout_s = path, read_only, timeout_s
        self._synchronous = _SYNCHRONOUS[durability]
        self._closed = False
        self.flusher = Flusher(_wal(path)) if durability == "process" and not read_only else None
        self._reading = threading.Lock()
        self.writing = threading.Lock()
        if not path.exists():
            if read_only:
                raise StoreError(f"{path.name} does not exist", store="audit", operation="open")
            _create(path)
        with translated("open"):
            self.writer = self._connect()
            try:
                _recognise(self.writer)
                self.origin = _origin(self.writer)
                self._reader = self._connect()
            except BaseException:
                self.writer.close()
                raise

    def _connect(self) -> sqlite3.Connection:
        mode = "rw"
        if self._read_only:
            # On a read-only disk SQLite cannot make the index of the write-ahead log, and needs none.
            frozen = not os.access(self._path.parent, os.W_OK) and not _wal(self._path).exists()
            mode = "ro&immutable=1" if frozen else "ro"
        return _open(self._path, mode, self._timeout_s, self._synchronous)

    def rollback(self) -> None:
        """Ends the writer's transaction, if one is open, with nothing kept."""
        with suppress(sqlite3.Error):  # SQLite has already rolled back after some errors; the cause is raised
            if self.writer.in_transaction:
                self.writer.execute("ROLLBACK")

    @contextmanager
    def transaction(self, operation: str) -> Iterator[sqlite3.Connection]:
        """A transaction of the writer: all of it or nothing."""
        with translated(operation), self.writing:
            try:
                self.writer.execute("BEGIN IMMEDIATE")
                yield self.writer
                self.writer.execute("COMMIT")
            finally:
                self.rollback()

    @contextmanager
    def read(self, operation: str) -> Iterator[sqlite3.Connection]:
        """A short consistent read on the shared connection."""
        with translated(operation), self._reading:
            self._reader.execute("BEGIN")
            try:
                yield self._reader
            finally:
                self._reader.execute("COMMIT")

    @contextmanager
    def snapshot(self, operation: str) -> Iterator[sqlite3.Connection]:
        """A long consistent read on a connection of its own, beside appends and short reads."""
        if self._closed:
            raise StoreError("the log is closed", store="audit", operation=operation)
        with translated(operation):
            connection = self._connect()
            try:
                connection.execute("BEGIN")
                yield connection
            finally:
                connection.close()

    def to_disk(self) -> None:
        """Returns once the disk holds everything that was committed, by whichever process.

        Raises:
            StoreError: It does not.
        """
        (self.flusher or Flusher(_wal(self._path))).now()

    def truncate_wal(self, operation: str) -> None:
        """Moves the write-ahead log into the file and empties it, so that no erased byte stays in it.

        Raises:
            StoreError: A reader still needs the old state; a retry helps.
        """
        busy = self.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise StoreError(
                "a reader keeps the erased bytes in the write-ahead log",
                store="audit",
                operation=operation,
                retryable=True,
                remedy="Call compact() once it is done.",
            )

    def close(self) -> None:
        """Closes every connection. Idempotent."""
        if self.flusher is not None:
            self.flusher.close()
        with self.writing, self._reading:
            self._closed = True
            self._reader.close()
            self.writer.close()
