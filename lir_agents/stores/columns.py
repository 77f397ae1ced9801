"""The catalog's rows as columns in memory: what makes a bitmap cost microseconds.

A `Snapshot` is one consistent state. Its arrays are shared and read-only; a newer state reads only what has been
added since (rows and versions are numbered upwards and never reused) and copies the rest.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from functools import cached_property
from itertools import chain
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import RowMask, Rows
from lir_agents.errors import InputError

__all__ = ["NEVER", "Snapshot", "load_snapshot"]

NEVER = np.iinfo(np.int64).max
"""The epoch of what has not happened: not committed, or not retired."""

VersionMask = NDArray[np.bool_]
Scalar = TypeVar("Scalar", bound=np.generic)


class Snapshot:
    """One consistent state of the catalog, in memory. All masks and columns of one snapshot have equal length,
    so a search that takes them from one snapshot can join them whatever is written meanwhile.

    Attributes:
        epoch: The catalog's epoch.
        revision: How often it had been written.
        purges: How often rows had vanished.
        row_version: int64 [max_row + 1], internal version number of each row; 0 where no row is.
        version_document: int64 [max_version + 1], internal document number; -1 where no version is.
        version_class: int32 [max_version + 1], access class; -1 where no version is.
        born: int64 [max_version + 1], epoch of the commit; NEVER while pending.
        died: int64 [max_version + 1], epoch of the retirement; NEVER while current or pending.
        access_keys: Access key by access class.
    """

    def __init__(
        self,
        *,
        epoch: int,
        revision: int,
        purges: int,
        row_version: NDArray[np.int64],
        version_document: NDArray[np.int64],
        version_class: NDArray[np.int32],
        born: NDArray[np.int64],
        died: NDArray[np.int64],
        access_keys: Mapping[int, str],
    ) -> None:
        self.epoch = epoch
        self.revision = revision
        self.purges = purges
        self.row_version = _sealed(row_version)
        self.version_document = _sealed(version_document)
        self.version_class = _sealed(version_class)
        self.born = _sealed(born)
        self.died = _sealed(died)
        self.access_keys = access_keys

    @classmethod
    def empty(cls) -> Snapshot:
        """Nothing at all: version 0 stands for "no version", row 0 for "no row"."""
        return cls(
            epoch=-1,
            revision=-1,
            purges=-1,
            row_version=np.zeros(1, np.int64),
            version_document=np.full(1, -1, np.int64),
            version_class=np.full(1, -1, np.int32),
            born=np.full(1, NEVER, np.int64),
            died=np.full(1, NEVER, np.int64),
            access_keys=MappingProxyType({}),
        )

    # Each is computed at most a few times (two threads may meet) and then shared.

    @cached_property
    def live(self) -> RowMask:
        """Passages of current versions."""
        return self._rows_of((self.born <= self.epoch) & (self.died > self.epoch))

    @cached_property
    def committed_versions(self) -> VersionMask:
        """Versions, current or not, that are not pending: bool [max_version + 1]."""
        return _sealed(self.born != NEVER)

    @cached_property
    def committed(self) -> RowMask:
        """Passages of committed versions, current or not."""
        return self._rows_of(self.committed_versions)

    @cached_property
    def pending(self) -> RowMask:
        """Passages that are staged and not committed."""
        return self._rows_of((self.born == NEVER) & (self.version_document >= 0))

    @cached_property
    def access_class(self) -> NDArray[np.int32]:
        """Access class of each row's own version: int32 [max_row + 1], -1 where no row is."""
        return _sealed(self.version_class[self.row_version])

    @cached_property
    def newest_access_class(self) -> NDArray[np.int32]:
        """Access class of the newest committed version of each row's document: int32 [max_row + 1], -1 where
        there is none. Whoever may not read a document now must not read an old version of it either."""
        newest = np.full(int(self.version_document.max(initial=0)) + 1, -1, np.int32)
        versions = np.flatnonzero(self.committed_versions)  # ascending, so the newest of a document is written last
        newest[self.version_document[versions]] = self.version_class[versions]
        documents = self.document
        return _sealed(np.where(documents >= 0, newest[documents], np.int32(-1)))

    @cached_property
    def document(self) -> NDArray[np.int64]:
        """Internal document number of each row: int64 [max_row + 1], -1 where no row is."""
        return _sealed(self.version_document[self.row_version])

    def live_at(self, epoch: int) -> RowMask:
        """Passages that were current at an epoch.

        Raises:
            InputError: The epoch is negative or has not happened.
        """
        if not 0 <= epoch <= self.epoch:
            raise InputError(
                f"is {epoch}, outside 0 … {self.epoch}", field="epoch", remedy="Ask for an epoch that has happened."
            )
        return self.live if epoch == self.epoch else self._rows_of((self.born <= epoch) & (self.died > epoch))

    def rows_of_versions(self, versions: VersionMask) -> RowMask:
        """Passages of the versions in a mask, bool [max_version + 1]."""
        return self._rows_of(versions)

    def _rows_of(self, versions: VersionMask) -> RowMask:
        return _sealed(versions[self.row_version])


def load_snapshot(connection: sqlite3.Connection, previous: Snapshot | None) -> Snapshot:
    """Reads the state that `connection`'s transaction sees, building on an earlier one where nothing vanished."""
    epoch, revision, purges = connection.execute("SELECT epoch, revision, purges FROM state").fetchone()
    old = previous if previous is not None and previous.purges == purges else Snapshot.empty()
    known = len(old.born) - 1
    number, document, access, born, died = _table(
        connection,
        "SELECT number, document, access_class, coalesce(born, ?2), coalesce(died, ?2) FROM version"
        " WHERE number > ?1 ORDER BY number",
        (known, NEVER),
        columns=5,
    )
    size = int(number[-1]) + 1 if len(number) else known + 1
    births, deaths = _extended(old.born, size, NEVER), _extended(old.died, size, NEVER)
    if known and epoch > old.epoch:
        changed, changed_born, changed_died = _changes(connection, old.epoch, known)
        births[changed], deaths[changed] = changed_born, changed_died
    births[number], deaths[number] = born, died
    return Snapshot(
        epoch=epoch,
        revision=revision,
        purges=purges,
        row_version=_row_versions(connection, old.row_version),
        version_document=_filled(old.version_document, size, number, document),
        version_class=_filled(old.version_class, size, number, access.astype(np.int32)),
        born=births,
        died=deaths,
        access_keys=_access_keys(connection, old.access_keys),
    )


def _changes(connection: sqlite3.Connection, epoch: int, known: int) -> tuple[Rows, Rows, Rows]:
    """Versions among the known ones that were committed or retired after an epoch: numbers, births, deaths."""
    number, born, died = _table(
        connection,
        "SELECT number, coalesce(born, ?3), coalesce(died, ?3) FROM version WHERE born > ?1 AND number <= ?2"
        " UNION"
        " SELECT number, coalesce(born, ?3), coalesce(died, ?3) FROM version WHERE died > ?1 AND number <= ?2",
        (epoch, known, NEVER),
        columns=3,
    )
    return number, born, died


def _row_versions(connection: sqlite3.Connection, old: NDArray[np.int64]) -> NDArray[np.int64]:
    known = len(old) - 1
    # From nothing, the covering index is read instead of the table, whose pages are full of text.
    source, where = (
        ("passage", "WHERE row > ?") if known else ("passage INDEXED BY passage_of_version", "WHERE ? = 0")
    )
    row, version = _table(
        connection,
        f"SELECT row, version FROM {source} {where}",  # noqa: S608 - two constants
        (known,),
        columns=2,
    )
    return _filled(old, int(row.max(initial=known)) + 1, row, version)


def _access_keys(connection: sqlite3.Connection, old: Mapping[int, str]) -> Mapping[int, str]:
    fresh = connection.execute(
        "SELECT id, access_key FROM access_class WHERE id > ?", (max(old, default=0),)
    ).fetchall()
    return MappingProxyType({**old, **dict(fresh)}) if fresh else old


def _table(
    connection: sqlite3.Connection, query: str, values: tuple[Any, ...], *, columns: int
) -> tuple[NDArray[np.int64], ...]:
    """Runs a query over integers and returns its columns, int64 [n] each."""
    flat = np.fromiter(chain.from_iterable(connection.execute(query, values)), dtype=np.int64)
    return tuple(np.ascontiguousarray(column) for column in flat.reshape(-1, columns).T)


def _extended(old: NDArray[Scalar], size: int, fill: int) -> NDArray[Scalar]:
    new = np.full(size, fill, dtype=old.dtype)
    new[: len(old)] = old
    return new


def _filled(old: NDArray[Scalar], size: int, where: NDArray[np.int64], values: NDArray[Scalar]) -> NDArray[Scalar]:
    """`old`, grown to `size` with its own "nothing here" (what it holds at 0), and `values` written in."""
    if not len(where):
        return old
    new = _extended(old, size, int(old[0]))
    new[where] = values
    return new


def _sealed(array: NDArray[Scalar]) -> NDArray[Scalar]:
    array.setflags(write=False)
    return array
