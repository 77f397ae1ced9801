"""The catalog's tables, how a catalog file is made, and how one is told from any other file.

A catalog is created under another name and renamed, so that a file called `catalog.sqlite` is either whole or
not there. It is recognised by reading its first 100 bytes (https://sqlite.org/fileformat2.html, section 1.3):
nothing is opened, so nothing on disk changes when the file turns out to be foreign.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import time
from pathlib import Path

from lir_agents.errors import IntegrityError, StoreError

__all__ = ["APPLICATION_ID", "FORMAT_VERSION", "check_file", "create_file", "now_us"]

APPLICATION_ID = 0x4C495231
"""SQLite's `application_id` of a catalog: the letters "LIR1"."""

FORMAT_VERSION = 1
"""SQLite's `user_version` of a catalog; one more for every change that older code cannot read."""

_MAGIC = b"SQLite format 3\x00"
_OLDEST_SQLITE = (3, 37, 0)  # the first with STRICT tables

_TABLES = """
CREATE TABLE state (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    epoch INTEGER NOT NULL,      -- +1 whenever what is current changes
    revision INTEGER NOT NULL,   -- +1 whenever any row is written
    purges INTEGER NOT NULL      -- +1 whenever rows vanish: what was cached must be read anew
) STRICT;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE epoch (number INTEGER PRIMARY KEY, at_us INTEGER NOT NULL UNIQUE) STRICT;
CREATE TABLE generation (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    fingerprint TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    dense_dim INTEGER NOT NULL,
    token_dim INTEGER NOT NULL
) STRICT;
CREATE TABLE access_class (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    access_key TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE document (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE version (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    document INTEGER NOT NULL REFERENCES document (number) ON DELETE CASCADE,
    version INTEGER NOT NULL,
    access_class INTEGER NOT NULL REFERENCES access_class (id),
    born INTEGER REFERENCES epoch (number),   -- epoch of its commit; NULL while pending
    died INTEGER REFERENCES epoch (number),   -- epoch of its retirement; NULL while pending or current
    restored_from INTEGER,
    content_sha256 TEXT NOT NULL,
    title TEXT NOT NULL,
    source TEXT NOT NULL,
    source_uri TEXT NOT NULL,
    metadata TEXT NOT NULL,
    UNIQUE (document, version),
    CHECK (died IS NULL OR died >= born)
) STRICT;
CREATE INDEX version_born ON version (born);
CREATE INDEX version_died ON version (died);
CREATE INDEX version_access ON version (access_class);
CREATE UNIQUE INDEX version_current ON version (document) WHERE born IS NOT NULL AND died IS NULL;
CREATE TABLE body (
    version INTEGER PRIMARY KEY REFERENCES version (number) ON DELETE CASCADE,
    text BLOB NOT NULL            -- zlib over UTF-8
) STRICT;
CREATE TABLE passage (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    version INTEGER NOT NULL REFERENCES version (number) ON DELETE CASCADE,
    ordinal INTEGER NOT NULL,
    start_char INTEGER NOT NULL,
    end_char INTEGER NOT NULL,
    encoding_sha256 TEXT NOT NULL,
    text TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX passage_of_version ON passage (version, ordinal);
CREATE INDEX passage_by_encoding ON passage (encoding_sha256, version);
CREATE TABLE attribute_key (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE attribute (
    key INTEGER NOT NULL REFERENCES attribute_key (id),
    version INTEGER NOT NULL REFERENCES version (number) ON DELETE CASCADE,
    kind INTEGER NOT NULL,        -- see attributes.py
    value ANY NOT NULL,
    PRIMARY KEY (key, version)
) STRICT, WITHOUT ROWID;
CREATE INDEX attribute_of_version ON attribute (version);
"""


def now_us() -> int:
    """Wall-clock time, microseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1000


def create_file(path: Path) -> None:
    """Makes an empty catalog at `path`, wholly or not at all.

    Raises:
        sqlite3.Error: SQLite could not write it.
        OSError: The directory could not be written.
        StoreError: SQLite itself is too old.
    """
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise StoreError(
            f"SQLite {sqlite3.sqlite_version} has no STRICT tables",
            store="catalog",
            operation="create",
            remedy="Use a Python built with SQLite 3.37 or later.",
        )
    draft = path.with_name(path.name + ".new")
    _remove(draft)
    try:
        connection = sqlite3.connect(draft, isolation_level=None)
        try:
            connection.executescript(
                f"PRAGMA secure_delete = ON; PRAGMA synchronous = FULL; BEGIN; {_TABLES}"  # noqa: S608
                f"INSERT INTO epoch VALUES (0, {now_us()}); INSERT INTO state VALUES (1, 0, 0, 0);"
                f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT_VERSION}; COMMIT;"
                "PRAGMA journal_mode = WAL;"
            )
        finally:
            connection.close()
        draft.rename(path)
        _sync_directory(path.parent)
    except BaseException:
        _remove(draft)
        raise


def check_file(path: Path) -> None:
    """Refuses a file that is not a catalog this code can read. Touches nothing on disk.

    Raises:
        IntegrityError: Empty, truncated, no SQLite database, another program's database, or another format.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        header = file.read(100)
        size_bytes = os.fstat(file.fileno()).st_size
    restore = "Restore it from a backup, or move the directory away and ingest again."
    if size_bytes < 512 and (not header or _MAGIC.startswith(header[:16])):
        raise IntegrityError(f"{path} is truncated: {size_bytes} bytes are left.", remedy=restore)
    if not header.startswith(_MAGIC):
        raise IntegrityError(
            f"{path} is no SQLite database: it begins with {header[:16]!r}.",
            remedy="Is this the right directory? " + restore,
        )
    page_bytes, pages = struct.unpack(">H", header[16:18])[0], struct.unpack(">I", header[28:32])[0]
    user_version, application_id = struct.unpack(">I", header[60:64])[0], struct.unpack(">I", header[68:72])[0]
    if application_id != APPLICATION_ID:
        raise IntegrityError(
            f"{path} is a SQLite database of another program (application id {application_id:#x}).",
            remedy="Name another directory; this one was left as it is.",
        )
    if user_version != FORMAT_VERSION:
        age = "newer" if user_version > FORMAT_VERSION else "older"
        raise IntegrityError(
            f"{path} has format {user_version}; this version of lir-agents reads format {FORMAT_VERSION}.",
            remedy=f"Open it with the {age} version of lir-agents that wrote it, or ingest into a new directory.",
        )
    wanted_bytes = (65536 if page_bytes == 1 else page_bytes) * pages
    if size_bytes < wanted_bytes and not _has_log(path):
        raise IntegrityError(f"{path} is truncated: {size_bytes} of {wanted_bytes} bytes are left.", remedy=restore)


def _has_log(path: Path) -> bool:
    """Whether a write-ahead log waits: a crash while it was copied may have left the file short, lawfully."""
    log = path.with_name(path.name + "-wal")
    return log.exists() and log.stat().st_size > 0


def _remove(draft: Path) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        draft.with_name(draft.name + suffix).unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    """Makes the rename itself durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
