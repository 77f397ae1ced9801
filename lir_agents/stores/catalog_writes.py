"""What changes the catalog, each inside a write transaction that the caller has begun."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lir_agents.arrays import Rows
from lir_agents.errors import InputError, StoreError
from lir_agents.stores.attributes import store_value, validate_metadata
from lir_agents.stores.database import chunks
from lir_agents.stores.records import Restored, StagedDocument
from lir_agents.stores.schema import now_us

__all__ = [
    "Prepared",
    "commit",
    "discard",
    "erase",
    "owed",
    "paid",
    "prepare",
    "restore",
    "retire",
    "settle",
    "stage",
]

_OWED = "erasing.owed"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked document, its slow work (serialising, compressing) done before any lock is taken."""

    document: StagedDocument
    metadata: str
    body: bytes


def prepare(document: StagedDocument) -> Prepared:
    """Checks and serialises a document.

    Raises:
        InputError: It has no passages, an offset that does not reproduce its text, or text or metadata that
            cannot be stored.
    """
    if not document.passages:
        raise InputError(
            "has no passages", field=f"document {document.id!r}", remedy="Leave documents without text out."
        )
    validate_metadata(document.metadata, f"document {document.id!r}: metadata")
    for passage in document.passages:
        if document.text[passage.start : passage.end] != passage.text:
            raise InputError(
                f"[{passage.start}:{passage.end}] is not the passage's text",
                field=f"document {document.id!r}: passages[{passage.ordinal}]",
                remedy="Offsets count characters of the document's normalised text.",
            )
    try:
        body = zlib.compress(document.text.encode())
    except UnicodeEncodeError as error:
        raise InputError(
            "holds a lone surrogate", field=f"document {document.id!r}: text", remedy="Pass valid Unicode text."
        ) from error
    return Prepared(document, json.dumps(dict(document.metadata), ensure_ascii=False, allow_nan=False), body)


def stage(connection: sqlite3.Connection, documents: Sequence[Prepared]) -> list[Rows]:
    """Writes new versions, pending; returns each document's rows, in the order given."""
    ids = [prepared.document.id for prepared in documents]
    access = _numbers(connection, "access_class", "id", "access_key", (p.document.access_key for p in documents))
    keys = _numbers(
        connection, "attribute_key", "id", "key", (key for p in documents for key in p.document.metadata)
    )
    document_numbers = _numbers(connection, "document", "number", "id", ids)
    newest = _newest_versions(connection, ids)
    first_version, first_row = _next_number(connection, "version"), _next_number(connection, "passage")
    versions: list[tuple[Any, ...]] = []
    bodies: list[tuple[int, bytes]] = []
    passages: list[tuple[Any, ...]] = []
    attributes: list[tuple[Any, ...]] = []
    result: list[Rows] = []
    for version_number, prepared in enumerate(documents, first_version):
        given = prepared.document
        newest[given.id] = version = newest.get(given.id, 0) + 1
        versions.append(
            (
                version_number,
                document_numbers[given.id],
                version,
                access[given.access_key],
                given.content_sha256,
                given.title,
                given.source,
                given.source_uri,
                prepared.metadata,
            )
        )
        bodies.append((version_number, prepared.body))
        rows = np.arange(len(given.passages), dtype=np.int64) + first_row + len(passages)
        passages += [
            (row, version_number, p.ordinal, p.start, p.end, p.encoding_sha256, p.text)
            for row, p in zip(rows.tolist(), given.passages, strict=True)
        ]
        attributes += [(keys[key], version_number, *store_value(value)) for key, value in given.metadata.items()]
        result.append(rows)
    connection.executemany(
        "INSERT INTO version (number, document, version, access_class, content_sha256, title, source, source_uri,"
        " metadata) VALUES (?,?,?,?,?,?,?,?,?)",
        versions,
    )
    connection.executemany("INSERT INTO body VALUES (?,?)", bodies)
    connection.executemany("INSERT INTO passage VALUES (?,?,?,?,?,?,?)", passages)
    connection.executemany("INSERT INTO attribute VALUES (?,?,?,?)", attributes)
    return result


def commit(connection: sqlite3.Connection, rows: Rows, retire_ids: Sequence[str]) -> Rows:
    """Makes pending versions current, by row; returns the rows that this retired.

    Of several versions of a document, the one with the highest number is current, in whatever order they are
    committed; the others are history at once.
    """
    numbers = _select(connection, "SELECT DISTINCT version FROM passage WHERE row IN ({})", rows.tolist())
    found = _select(connection, "SELECT count(*) FROM passage WHERE row IN ({})", rows.tolist())
    if sum(count for (count,) in found) != len(set(rows.tolist())):
        raise StoreError(
            "some staged rows are gone: they were erased or discarded meanwhile",
            store="catalog",
            operation="commit",
            retryable=True,
            remedy="Stage the documents again.",
        )
    versions = list(dict.fromkeys(number for (number,) in numbers))
    query = "SELECT number, document, version FROM version WHERE born IS NULL AND number IN ({})"
    fresh = _select(connection, query, versions)
    query = (
        "SELECT number, document, version FROM version WHERE born IS NOT NULL AND died IS NULL AND document IN ({})"
    )
    current = _select(connection, query, list({document for _, document, _ in fresh}))
    winners: dict[int, tuple[int, int]] = {}
    for number, document, version in (*current, *fresh):
        winners[document] = max(winners.get(document, (0, 0)), (version, number))
    survivors = {number for _, number in winners.values()}
    dead = [number for number, _, _ in current if number not in survivors]
    dead += _current_versions(connection, retire_ids, without=set(winners))
    born = [number for number, _, _ in fresh]
    if not born and not dead:
        return np.empty(0, np.int64)
    epoch = _next_epoch(connection)
    connection.executemany("UPDATE version SET died = ? WHERE number = ?", [(epoch, number) for number in dead])
    stillborn = [number for number in born if number not in survivors]
    connection.executemany(
        "UPDATE version SET born = ?, died = ? WHERE number = ?",
        [(epoch, None if number in survivors else epoch, number) for number in born],
    )
    return _rows_of_versions(connection, [*dead, *stillborn])


def retire(connection: sqlite3.Connection, ids: Sequence[str]) -> Rows:
    """Ends the current versions of documents; returns their rows."""
    return commit(connection, np.empty(0, np.int64), ids)


def discard(connection: sqlite3.Connection, rows: Rows | None) -> Rows:
    """Removes pending versions (of the rows given, or all) and documents that had nothing else."""
    numbers = [number for (number,) in connection.execute("SELECT number FROM version WHERE born IS NULL")]
    if rows is not None:
        chosen = _select(connection, "SELECT DISTINCT version FROM passage WHERE row IN ({})", rows.tolist())
        numbers = sorted(set(numbers) & {number for (number,) in chosen})
    gone = _rows_of_versions(connection, numbers)
    documents = _select(connection, "SELECT DISTINCT document FROM version WHERE number IN ({})", numbers)
    _purge(connection, "DELETE FROM version WHERE number = ?", numbers)
    connection.executemany(
        "DELETE FROM document WHERE number = ?1 AND NOT EXISTS (SELECT 1 FROM version WHERE document = ?1)",
        documents,
    )
    return gone


def erase(connection: sqlite3.Connection, ids: Sequence[str]) -> Rows:
    """Removes documents with every version, and whatever only they had used; returns the rows that are gone.

    Their names are owed from then on, in the same transaction: see `owed`.
    """
    documents = [number for (number,) in _select(connection, "SELECT number FROM document WHERE id IN ({})", ids)]
    versions = _select(connection, "SELECT number FROM version WHERE document IN ({})", documents)
    gone = _rows_of_versions(connection, [number for (number,) in versions])
    if documents:
        _purge(connection, "DELETE FROM document WHERE number = ?", documents)
        _next_epoch(connection)
    _owe(connection, list(dict.fromkeys([*(owed(connection) or ()), *ids])))
    return gone


def owed(connection: sqlite3.Connection) -> list[str] | None:
    """Names of erased documents that others than the stores may know yet, see `Catalog.owed`."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (_OWED,)).fetchone()
    return None if row is None else list(json.loads(row[0]))


def paid(connection: sqlite3.Connection, names: Collection[str]) -> None:
    """Drops names that nobody knows any more. That something was owed stands yet: their bytes may."""
    if (left := owed(connection)) is not None:
        _owe(connection, [name for name in left if name not in names])


def settle(connection: sqlite3.Connection) -> None:
    """Notes that nothing is owed, where no name is."""
    connection.execute("DELETE FROM meta WHERE key = ? AND value = '[]'", (_OWED,))


def _owe(connection: sqlite3.Connection, names: Sequence[str]) -> None:
    connection.execute(
        "INSERT INTO meta VALUES (?,?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (_OWED, json.dumps(names)),
    )


def restore(connection: sqlite3.Connection, document_id: str, version: int) -> Restored:
    """Stages a copy of an old version, under the access class that the document has now.

    Raises:
        InputError: There is no such committed version.
    """
    old = connection.execute(
        "SELECT v.number, v.document FROM version v JOIN document d ON d.number = v.document"
        " WHERE d.id = ? AND v.version = ? AND v.born IS NOT NULL",
        (document_id, version),
    ).fetchone()
    if old is None:
        raise InputError(
            f"document {document_id!r} has no version {version}", field="version", remedy="See versions(id)."
        )
    number, document = old
    (access_class,) = connection.execute(
        "SELECT access_class FROM version WHERE document = ? AND born IS NOT NULL ORDER BY version DESC LIMIT 1",
        (document,),
    ).fetchone()
    new, first_row = _next_number(connection, "version"), _next_number(connection, "passage")
    (new_version,) = connection.execute(
        "INSERT INTO version SELECT ?1, document, (SELECT max(version) + 1 FROM version WHERE document = ?2), ?3,"
        " NULL, NULL, version, content_sha256, title, source, source_uri, metadata FROM version WHERE number = ?4"
        " RETURNING version",
        (new, document, access_class, number),
    ).fetchone()
    connection.execute("INSERT INTO body SELECT ?, text FROM body WHERE version = ?", (new, number))
    connection.execute(
        "INSERT INTO attribute SELECT key, ?, kind, value FROM attribute WHERE version = ?", (new, number)
    )
    sources = _rows_of_versions(connection, [number])
    rows = np.arange(len(sources), dtype=np.int64) + first_row
    connection.executemany(
        "INSERT INTO passage SELECT ?, ?, ordinal, start_char, end_char, encoding_sha256, text FROM passage"
        " WHERE row = ?",
        [(row, new, source) for row, source in zip(rows.tolist(), sources.tolist(), strict=True)],
    )
    return Restored(document_id, new_version, rows, sources)


# ---------------------------------------------------------------- shared


def _select(connection: sqlite3.Connection, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Runs `query` with `{}` standing for the values, as often as it takes to bind them all."""
    return [row for piece, marks in chunks(values) for row in connection.execute(query.format(marks), tuple(piece))]


def _numbers(
    connection: sqlite3.Connection, table: str, number: str, name: str, values: Iterable[str]
) -> dict[str, int]:
    """The number of each name in a table of names, adding those that are new."""
    names = list(dict.fromkeys(values))
    query = f"SELECT {name}, {number} FROM {table} WHERE {name} IN ({{}})"  # noqa: S608 - names of this module
    found = dict(_select(connection, query, names))
    missing = [value for value in names if value not in found]
    if missing:
        fresh = dict(zip(missing, range(_next_number(connection, table), 2**63), strict=False))
        connection.executemany(
            f"INSERT INTO {table} ({name}, {number}) VALUES (?,?)",  # noqa: S608 - names of this module
            list(fresh.items()),
        )
        found.update(fresh)
    return found


def _next_number(connection: sqlite3.Connection, table: str) -> int:
    """The number that AUTOINCREMENT would give next: above every one that was ever used."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
    return int(row[0]) + 1 if row else 1


def _newest_versions(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, int]:
    query = (
        "SELECT d.id, max(v.version) FROM document d JOIN version v ON v.document = d.number"
        " WHERE d.id IN ({}) GROUP BY d.id"
    )
    return dict(_select(connection, query, list(dict.fromkeys(ids))))


def _next_epoch(connection: sqlite3.Connection) -> int:
    """Begins an epoch. Its time is after the last one's even when the clock has gone backwards."""
    (epoch,) = connection.execute("UPDATE state SET epoch = epoch + 1 RETURNING epoch").fetchone()
    connection.execute("INSERT INTO epoch SELECT ?, max(?, (SELECT max(at_us) + 1 FROM epoch))", (epoch, now_us()))
    return int(epoch)


def _current_versions(connection: sqlite3.Connection, ids: Sequence[str], *, without: set[int]) -> list[int]:
    query = (
        "SELECT v.number, v.document FROM document d JOIN version v ON v.document = d.number"
        " WHERE d.id IN ({}) AND v.born IS NOT NULL AND v.died IS NULL"
    )
    found = _select(connection, query, list(dict.fromkeys(ids)))
    return [number for number, document in found if document not in without]


def _rows_of_versions(connection: sqlite3.Connection, versions: Sequence[int]) -> Rows:
    rows = _select(connection, "SELECT row FROM passage WHERE version IN ({})", versions)
    return np.sort(np.array([row for (row,) in rows], dtype=np.int64))


def _purge(connection: sqlite3.Connection, statement: str, numbers: Sequence[int]) -> None:
    """Deletes by number, with what hangs on it and the names that nothing uses any more."""
    if not numbers:
        return
    connection.executemany(statement, [(number,) for number in numbers])
    connection.execute(
        "DELETE FROM access_class WHERE NOT EXISTS (SELECT 1 FROM version WHERE access_class = access_class.id)"
    )
    connection.execute(
        "DELETE FROM attribute_key WHERE NOT EXISTS (SELECT 1 FROM attribute WHERE key = attribute_key.id)"
    )
    connection.execute("UPDATE state SET purges = purges + 1")
