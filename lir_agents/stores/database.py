"""One SQLite file: one writer at a time, readers that never wait for it, and errors in our own words."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from lir_agents.errors import InputError, IntegrityError, LirError, StoreError

__all__ = ["Database", "chunks", "file_problems", "translate"]

_BUSY_TIMEOUT_S = 30.0
_IDLE_READERS = 8  # connections kept open between reads; more exist only while more threads read
_MAPPED_BYTES = 268_435_456  # of the file, mapped by readers: a passage costs a third of what it costs by read()
_CHUNK = 500  # bound values per statement, far below SQLite's limit of 32,766
_PRAGMAS = (
    "PRAGMA foreign_keys = ON",
    "PRAGMA synchronous = FULL",
    "PRAGMA secure_delete = ON",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA journal_size_limit = 67108864",
    "PRAGMA cache_size = -16000",
)

Value = TypeVar("Value")


def chunks(values: Sequence[Value]) -> Iterator[tuple[Sequence[Value], str]]:
    """Cuts a long list into pieces that fit one statement, each with its `?,?,…` for `IN (…)`."""
    for start in range(0, len(values), _CHUNK):
        piece = values[start : start + _CHUNK]
        yield piece, ",".join("?" * len(piece))


def file_problems(path: Path, *, most: int = 5) -> list[str]:
    """What SQLite's own check finds wrong with any SQLite file, without changing it; empty when it is sound."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            found = [str(line) for (line,) in connection.execute(f"PRAGMA integrity_check({int(most)})")]
    except sqlite3.Error as error:
        return [str(error)]
    return [line for line in found if line != "ok"]


def translate(error: sqlite3.Error, operation: str, path: Path) -> LirError:
    """Turns what SQLite says into what a caller can act on.

    Args:
        error: What SQLite raised.
        operation: What was being done, as a verb.
        path: The file.

    Returns:
        `IntegrityError` where the file is damaged, else `StoreError` with whether a retry helps.
    """
    name = str(getattr(error, "sqlite_errorname", ""))
    damaged = name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or "Could not decode" in str(error)
    if damaged or str(error).startswith("no such table"):
        return IntegrityError(
            f"{path} is damaged: {error} (while it should {operation}).",
            remedy="Run `lir doctor`; restore the file from a backup, or ingest again into a new directory.",
        )
    remedy = ""
    if name == "SQLITE_FULL":
        remedy = f"The disk that holds {path} is full: free some space and try again; nothing was changed."
    elif name.startswith("SQLITE_IOERR"):
        remedy = f"Reading or writing {path} failed: check free space, file size limits and the disk's health."
    elif name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        remedy = f"Check that this user may read and write {path} and its directory."
    busy = name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
    return StoreError(
        f"{error} [{name or type(error).__name__}]",
        store="catalog",
        operation=operation,
        retryable=busy,
        remedy="Another connection is busy with the file: try again." if busy else remedy,
    )


class Database:
    """Connections to one file in WAL mode.

    `read` hands out a pooled connection inside a read transaction: one consistent state, never blocked by a
    writer. `write` is exclusive within the process and all or nothing.

    Attributes:
        revision: How often the file was written, as of the last write through this object.
    """

    def __init__(self, path: Path, *, read_only: bool) -> None:
        self.path = path
        self.read_only = read_only
        self.revision = -1
        self._owner_pid = os.getpid()
        self._closed = False
        self._idle: list[sqlite3.Connection] = []
        self._idle_lock = threading.Lock()
        self._write_lock = threading.RLock()
        self._writer: sqlite3.Connection | None = None

    def close(self) -> None:
        """Releases every connection; the last one out folds the log into the file. Idempotent."""
        with self._write_lock, self._idle_lock:
            self._closed = True
            connections = [*self._idle, *([self._writer] if self._writer else [])]
            self._idle, self._writer = [], None
        with self._translated("close"):
            for connection in connections:
                connection.close()

    @contextmanager
    def read(self, operation: str) -> Iterator[sqlite3.Connection]:
        """A connection inside a read transaction; its state does not move until the block ends."""
        self._require_open(operation)
        with self._translated(operation):
            connection = self._borrow()
            try:
                connection.execute("BEGIN")
                yield connection
            except BaseException:
                connection.close()
                raise
            connection.execute("ROLLBACK")
            self._give_back(connection)

    @contextmanager
    def write(self, operation: str, *, counts: bool = True) -> Iterator[sqlite3.Connection]:
        """A connection inside a write transaction: committed when the block ends, else undone.

        Args:
            operation: What is being done, as a verb; named in errors.
            counts: Whether the write changes documents, so that what was cached of them is out of date.
        """
        self._require_open(operation)
        if self.read_only:
            raise StoreError(
                "the catalog was opened read-only",
                store="catalog",
                operation=operation,
                remedy="Write through the process that owns the index.",
            )
        with self._write_lock, self._translated(operation):
            self._require_open(operation)  # again: it may have been closed while this thread waited
            connection = self._writer = self._writer or self._connect()
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                if counts:
                    update = "UPDATE state SET revision = revision + 1 RETURNING revision"
                    (revision,) = connection.execute(update).fetchone()
                connection.execute("COMMIT")
            except BaseException:
                # Closing undoes whatever was begun, in whatever state the failure left the connection.
                self._writer = None
                connection.close()
                raise
            if counts:
                self.revision = revision

    def compact(self, *, vacuum: bool = True) -> None:
        """Rewrites the file from what is alive and empties the log.

        Args:
            vacuum: Rewrite the whole file. Without, erased cells are overwritten where they stood.

        Raises:
            StoreError: Somebody kept reading the old state for 30 s; retryable.
        """
        self._require_open("compact")
        with self._write_lock, self._translated("compact"):
            self._require_open("compact")
            connection = self._writer = self._writer or self._connect()
            if vacuum:
                connection.execute("VACUUM")
            (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StoreError(
                "a reader kept the log from being emptied",
                store="catalog",
                operation="compact",
                retryable=True,
                remedy="Try again when long reads and read-only processes have ended.",
            )

    # ------------------------------------------------------------ connections

    def _connect(self) -> sqlite3.Connection:
        mode = "ro" if self.read_only else "rw"
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=_BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        try:
            for pragma in _PRAGMAS:
                connection.execute(pragma)
        except BaseException:
            connection.close()
            raise
        return connection

    def _borrow(self) -> sqlite3.Connection:
        with self._idle_lock:
            if self._idle:
                return self._idle.pop()
        connection = self._connect()
        connection.execute("PRAGMA query_only = ON")
        connection.execute(f"PRAGMA mmap_size = {_MAPPED_BYTES}")
        return connection

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with self._idle_lock:
            if not self._closed and len(self._idle) < _IDLE_READERS:
                self._idle.append(connection)
                return
        connection.close()

    def _require_open(self, operation: str) -> None:
        if self._closed:
            raise StoreError("it is closed", store="catalog", operation=operation, remedy="Open the index again.")
        if os.getpid() != self._owner_pid:
            raise StoreError(
                f"it was opened by process {self._owner_pid}, before a fork",
                store="catalog",
                operation=operation,
                remedy="Open the index in the process that uses it; SQLite connections do not survive a fork.",
            )

    @contextmanager
    def _translated(self, operation: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise translate(error, operation, self.path) from error
        except (UnicodeEncodeError, OverflowError) as error:  # what no SQLite value can hold
            raise InputError(
                f"cannot be stored or looked up: {error}",
                field=operation,
                remedy="Pass valid Unicode text and integers of 64 bits.",
            ) from error
