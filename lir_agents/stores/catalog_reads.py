"""What is looked up in the catalog, each inside a read transaction that the caller has begun."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import numpy as np

from lir_agents.arrays import Rows
from lir_agents.errors import IntegrityError
from lir_agents.readonly import ReadOnly
from lir_agents.stores.database import chunks
from lir_agents.stores.records import (
    Change,
    RollbackPlan,
    Standing,
    StoredDocument,
    VersionInfo,
    parse_passage_id,
    passage_id,
)
from lir_agents.types import Passage

__all__ = [
    "changes",
    "current",
    "document",
    "epoch_at",
    "passages",
    "problems",
    "reusable",
    "rollback_plan",
    "rows_by_passage_id",
    "rows_of",
    "standing",
    "versions",
]

_UNIX = datetime(1970, 1, 1, tzinfo=UTC)
_NAMES_AT_ONCE = 200


def current(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Content digest and access key of the current version, by document id."""
    query = (
        "SELECT d.id, v.content_sha256, a.access_key FROM document d JOIN version v ON v.document = d.number"
        " JOIN access_class a ON a.id = v.access_class"
        " WHERE d.id IN ({}) AND v.born IS NOT NULL AND v.died IS NULL"
    )
    return {id: (digest, key) for id, digest, key in _each(connection, query, ids)}


def reusable(connection: sqlite3.Connection, hashes: Sequence[str]) -> dict[str, int]:
    """The oldest committed row with each encoding hash."""
    query = (
        "SELECT p.row FROM passage p JOIN version v ON v.number = p.version"
        " WHERE p.encoding_sha256 = ? AND v.born IS NOT NULL ORDER BY p.version LIMIT 1"
    )
    found = ((key, connection.execute(query, (key,)).fetchone()) for key in dict.fromkeys(hashes))
    return {key: row[0] for key, row in found if row}


def rows_of(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, Rows]:
    """Rows of the current version, in order of the text, by document id."""
    query = (
        "SELECT d.id, p.row FROM document d JOIN version v ON v.document = d.number"
        " JOIN passage p ON p.version = v.number"
        " WHERE d.id IN ({}) AND v.born IS NOT NULL AND v.died IS NULL ORDER BY d.id, p.ordinal"
    )
    rows: dict[str, list[int]] = {}
    for document_id, row in _each(connection, query, ids):
        rows.setdefault(document_id, []).append(row)
    return {document_id: np.array(numbers, dtype=np.int64) for document_id, numbers in rows.items()}


def rows_by_passage_id(connection: sqlite3.Connection, passage_ids: Sequence[str]) -> dict[str, int]:
    """The row of each passage id of a committed version, current or not."""
    query = (
        "WITH wanted(id, version, ordinal) AS (VALUES {})"
        " SELECT w.id, w.version, w.ordinal, p.row FROM wanted w CROSS JOIN document d ON d.id = w.id"
        " CROSS JOIN version v ON v.document = d.number AND v.version = w.version"
        " CROSS JOIN passage p ON p.version = v.number AND p.ordinal = w.ordinal WHERE v.born IS NOT NULL"
    )
    names = {parts: name for name in dict.fromkeys(passage_ids) if (parts := parse_passage_id(name))}
    parsed = list(names)
    found: dict[str, int] = {}
    for start in range(0, len(parsed), _NAMES_AT_ONCE):
        some = parsed[start : start + _NAMES_AT_ONCE]
        marks = ",".join(["(?,?,?)"] * len(some))
        rows = connection.execute(query.format(marks), tuple(chain.from_iterable(some)))
        found |= {names[document, version, ordinal]: row for document, version, ordinal, row in rows}
    return found


def passages(connection: sqlite3.Connection, rows: Rows) -> list[Passage]:
    """Passages in the order asked for; a row that is gone is left out."""
    query = (
        "SELECT p.row, p.version, p.ordinal, p.start_char, p.end_char, p.text, d.id, v.version, v.title, v.source,"
        " v.source_uri, v.content_sha256, v.access_class, v.metadata"
        " FROM passage p JOIN version v ON v.number = p.version JOIN document d ON d.number = v.document"
        " WHERE p.row IN ({})"
    )
    metadata: dict[int, Mapping[str, Any]] = {}
    found: dict[int, Passage] = {}
    for row in _each(connection, query, rows.tolist()):
        number, version_number, ordinal, start, end, text, document_id, version, title, source, uri, digest = row[
            :12
        ]
        if version_number not in metadata:
            metadata[version_number] = ReadOnly(json.loads(row[13]))
        found[number] = Passage(
            row=number,
            passage_id=passage_id(document_id, version, ordinal),
            document_id=document_id,
            version=version,
            ordinal=ordinal,
            start=start,
            end=end,
            text=text,
            title=title,
            source=source,
            source_uri=uri,
            content_sha256=digest,
            access_class=row[12],
            metadata=metadata[version_number],
        )
    return [found[row] for row in rows.tolist() if row in found]


def document(connection: sqlite3.Connection, document_id: str, version: int | None) -> StoredDocument | None:
    """A committed version with its text: the current one, or the one named.

    Raises:
        IntegrityError: The stored text is damaged.
    """
    infos = {info.version: info for info in versions(connection, document_id)}
    info = infos.get(version) if version is not None else next((i for i in infos.values() if i.live), None)
    if info is None:
        return None
    body, source, uri, metadata = connection.execute(
        "SELECT b.text, v.source, v.source_uri, v.metadata FROM document d"
        " JOIN version v ON v.document = d.number JOIN body b ON b.version = v.number"
        " WHERE d.id = ? AND v.version = ?",
        (document_id, info.version),
    ).fetchone()
    try:
        text = zlib.decompress(body).decode()
    except (zlib.error, UnicodeDecodeError) as error:
        raise IntegrityError(
            f"The stored text of document {document_id!r}, version {info.version}, is damaged: {error}.",
            remedy="Add the document again, or restore the index from a backup.",
        ) from error
    return StoredDocument(
        id=document_id,
        text=text,
        title=info.title,
        source=source,
        source_uri=uri,
        metadata=ReadOnly(json.loads(metadata)),
        info=info,
    )


def access_key(connection: sqlite3.Connection, document_id: str, version: int | None = None) -> str | None:
    """The access key of a committed version, or of the newest: that says who may read the document."""
    row = connection.execute(
        "SELECT a.access_key FROM document d JOIN version v ON v.document = d.number"
        " JOIN access_class a ON a.id = v.access_class WHERE d.id = ?1 AND v.born IS NOT NULL"
        " AND (?2 IS NULL OR v.version = ?2) ORDER BY v.version DESC LIMIT 1",
        (document_id, version),
    ).fetchone()
    return None if row is None else str(row[0])


def standing(connection: sqlite3.Connection, document_id: str, wanted: Sequence[int | None]) -> Standing | None:
    """A document with those of its versions that are wanted; None where there is no such document."""
    newest = access_key(connection, document_id)
    if newest is None:
        return None
    found = tuple(document(connection, document_id, version) for version in wanted)
    history = tuple(versions(connection, document_id))
    restored = {version.version: version.restored_from for version in history}

    def added_under(one: StoredDocument | None) -> str | None:
        if one is None:
            return None
        version = one.version
        while (before := restored[version]) is not None:
            version = before
        return access_key(connection, document_id, version)

    return Standing(newest, history, found, tuple(map(added_under, found)))


def versions(connection: sqlite3.Connection, document_id: str) -> list[VersionInfo]:
    """Committed versions of a document, oldest first."""
    rows = connection.execute(
        "SELECT v.version, v.content_sha256, v.title, v.restored_from, v.born, b.at_us,"
        " v.died, e.at_us, (SELECT count(*) FROM passage WHERE version = v.number)"
        " FROM document d JOIN version v ON v.document = d.number JOIN epoch b ON b.number = v.born"
        " LEFT JOIN epoch e ON e.number = v.died WHERE d.id = ? ORDER BY v.version",
        (document_id,),
    )
    return [
        VersionInfo(
            version=version,
            content_sha256=digest,
            title=title,
            passages=passage_count,
            added_epoch=born,
            added_at=_utc(born_us),
            retired_epoch=died,
            retired_at=None if died_us is None else _utc(died_us),
            restored_from=restored_from,
        )
        for version, digest, title, restored_from, born, born_us, died, died_us, passage_count in rows
    ]


def changes(connection: sqlite3.Connection, since_epoch: int) -> list[Change]:
    """What each epoch after `since_epoch` did, oldest first."""
    sides: dict[tuple[int, str], list[int | None]] = {}
    for side, column in enumerate(("born", "died")):
        # A version that was never current (born and died in one epoch) changed nothing.
        query = (
            f"SELECT v.{column}, d.id, v.version FROM version v JOIN document d ON d.number = v.document"  # noqa: S608
            f" WHERE v.{column} > ? AND v.born IS NOT v.died"
        )
        for epoch, document_id, version in connection.execute(query, (since_epoch,)):
            sides.setdefault((epoch, document_id), [None, None])[side] = version
    times = dict(connection.execute("SELECT number, at_us FROM epoch WHERE number > ?", (since_epoch,)))
    return [
        Change(
            epoch=epoch,
            at=_utc(times[epoch]),
            kind="retired" if version is None else "added" if previous is None else "updated",
            document_id=document_id,
            version=version,
            previous=previous,
        )
        for (epoch, document_id), (version, previous) in sorted(sides.items())
    ]


def epoch_at(connection: sqlite3.Connection, moment: datetime) -> int:
    """The epoch that was current at a moment; 0, when nothing was, before the catalog was made."""
    at_us = (moment - _UNIX) // timedelta(microseconds=1)
    (epoch,) = connection.execute("SELECT max(number) FROM epoch WHERE at_us <= ?", (at_us,)).fetchone()
    return int(epoch or 0)


def rollback_plan(connection: sqlite3.Connection, epoch: int) -> RollbackPlan:
    """What makes current again what was current at an epoch; equal content under equal access stays as it is."""
    then = _current_at(connection, epoch)
    (latest,) = connection.execute("SELECT epoch FROM state").fetchone()
    now = _current_at(connection, latest)
    restore = tuple(
        (document_id, version)
        for document_id, (version, digest, _) in then.items()
        if document_id not in now or (now[document_id][1] != digest and now[document_id][2] != version)
    )
    return RollbackPlan(
        restore=restore, retire=tuple(document_id for document_id in now if document_id not in then)
    )


def problems(connection: sqlite3.Connection) -> list[str]:
    """What SQLite's own checks find wrong with the file; empty when it is sound."""
    found = [str(line) for (line,) in connection.execute("PRAGMA integrity_check(20)") if line != "ok"]
    orphans = connection.execute("PRAGMA foreign_key_check").fetchmany(20)
    return found + [
        f"{table}: row {row} refers to a {parent} that is not there" for table, row, parent, _ in orphans
    ]


# ---------------------------------------------------------------- shared


def _current_at(connection: sqlite3.Connection, epoch: int) -> dict[str, tuple[int, str, int | None]]:
    """(version, digest, the version it repeats) of what was current at an epoch, by document id."""
    rows = connection.execute(
        "SELECT d.id, v.version, v.content_sha256, v.restored_from"
        " FROM version v JOIN document d ON d.number = v.document"
        " WHERE v.born <= ?1 AND (v.died IS NULL OR v.died > ?1) ORDER BY d.id",
        (epoch,),
    )
    return {document_id: (version, digest, repeats) for document_id, version, digest, repeats in rows}


def _each(connection: sqlite3.Connection, query: str, values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    for piece, marks in chunks(list(dict.fromkeys(values))):
        yield from connection.execute(query.format(marks), tuple(piece))


def _utc(at_us: int) -> datetime:
    return _UNIX + timedelta(microseconds=at_us)
