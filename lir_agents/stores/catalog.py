"""The catalog: the truth about documents, their versions, who may read them, and which encoder made the vectors.

One SQLite file in WAL mode with `synchronous=FULL`: what a method has returned survives a crash. Versions are
immutable. A version is *staged* (pending, invisible), then *committed* (current, its predecessor retired, the
epoch one higher); retired versions stay as history until they are erased. Rows, version numbers and class
numbers are never used twice.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType

from lir_agents.arrays import Rows
from lir_agents.errors import InputError, StoreError
from lir_agents.stores import catalog_writes
from lir_agents.stores.catalog_reader import CatalogReader, as_rows
from lir_agents.stores.columns import Snapshot
from lir_agents.stores.database import Database, translate
from lir_agents.stores.records import (
    CatalogCounts,
    Change,
    Generation,
    Restored,
    RollbackPlan,
    StagedDocument,
    StagedPassage,
    StoredDocument,
    VersionInfo,
)
from lir_agents.stores.schema import check_file, create_file

__all__ = [
    "Catalog",
    "CatalogCounts",
    "Change",
    "Generation",
    "Restored",
    "RollbackPlan",
    "Snapshot",
    "StagedDocument",
    "StagedPassage",
    "StoredDocument",
    "VersionInfo",
]


class Catalog(CatalogReader):
    """An open catalog. Safe to call from several threads; reads never wait for a write.

    Every method raises `StoreError` when SQLite fails (a full disk, a closed catalog), with nothing half-written,
    and `IntegrityError` when the file is damaged. Arrays that are returned are shared and read-only.
    """

    @classmethod
    def open(cls, path: Path, *, create: bool = True, read_only: bool = False) -> Catalog:
        """Opens the catalog file at `path`.

        Args:
            path: The file, usually `IndexLayout(directory).catalog`.
            create: Whether to make an empty catalog where there is no file.
            read_only: Whether to refuse writes. A read-only catalog may be opened beside the process that owns
                the index, and sees each of its commits.

        Raises:
            InputError: There is no file and none is to be made.
            IntegrityError: The file is truncated, foreign, or of another format; it is left as it was.
            StoreError: The file cannot be read or written.
        """
        path = Path(path)
        try:
            if path.exists():
                check_file(path)
            elif create and not read_only:
                _create(path)
            else:
                raise InputError(f"{path} does not exist", field="path", remedy="Open the index with create=True.")
        except OSError as error:
            raise StoreError(
                f"{path}: {error.strerror or error}",
                store="catalog",
                operation="open",
                remedy="Check that the directory exists and may be written, and that the disk has space.",
            ) from error
        catalog = cls(Database(path, read_only=read_only))
        try:
            catalog.snapshot()
        except BaseException:
            catalog.close()
            raise
        return catalog

    def close(self) -> None:
        """Releases the file. Idempotent."""
        self._database.close()

    def __enter__(self) -> Catalog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def set_meta(self, key: str, value: str) -> None:
        """Stores a setting with the index, durably."""
        with self._database.write("set_meta", counts=False) as connection:
            connection.execute(
                "INSERT INTO meta VALUES (?,?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", (key, value)
            )

    def add_generation(self, *, fingerprint: str, name: str, dense_dim: int, token_dim: int) -> Generation:
        """Records an encoder; the one that has this fingerprint already is returned as it is."""
        with self._database.write("add_generation", counts=False) as connection:
            connection.execute(
                "INSERT INTO generation (fingerprint, name, dense_dim, token_dim) VALUES (?,?,?,?)"
                " ON CONFLICT (fingerprint) DO NOTHING",
                (fingerprint, name, dense_dim, token_dim),
            )
            query = "SELECT * FROM generation WHERE fingerprint = ?"
            return Generation(*connection.execute(query, (fingerprint,)).fetchone())

    def stage(self, documents: Sequence[StagedDocument]) -> list[Rows]:
        """Writes the next version of each document, pending, in one transaction.

        Returns:
            The rows of each document's passages, in the order given; int64 [passages] each.

        Raises:
            InputError: A document has no passages, or something that cannot be stored; nothing is written.
        """
        prepared = [catalog_writes.prepare(document) for document in documents]
        with self._database.write("stage") as connection:
            return catalog_writes.stage(connection, prepared)

    def commit(self, rows: Rows | Sequence[Rows], *, retire: Sequence[str] = ()) -> Rows:
        """Makes staged versions current, in one transaction and one epoch.

        Args:
            rows: Rows of the versions, as `stage` returned them (one row stands for its whole version). Rows
                that are committed already are passed over.
            retire: Documents whose current version ends in the same epoch.

        Returns:
            Rows that are no longer current because of this, sorted: int64 [n].

        Raises:
            StoreError: Some rows were erased or discarded meanwhile; nothing is committed.
        """
        with self._database.write("commit") as connection:
            return catalog_writes.commit(connection, as_rows(rows), retire)

    def discard_pending(self, rows: Rows | Sequence[Rows] | None = None) -> Rows:
        """Removes staged versions: those of `rows`, or, when opening after a crash, all. Returns their rows."""
        with self._database.write("discard") as connection:
            return catalog_writes.discard(connection, None if rows is None else as_rows(rows))

    def retire(self, ids: Sequence[str]) -> Rows:
        """Deletes documents: their current versions become history. Returns the rows; unknown ids are ignored."""
        with self._database.write("retire") as connection:
            return catalog_writes.retire(connection, ids)

    def rollback(self, id: str, version: int) -> Restored:
        """Stages a copy of an old version as the document's next one; its vectors are copied, not encoded.

        Text, title, URI and metadata are the old version's; who may read it stays as it is now, so that a
        rollback never gives back access that was taken away.

        Raises:
            InputError: There is no such committed version.
        """
        with self._database.write("rollback") as connection:
            return catalog_writes.restore(connection, id, version)

    def erase(self, ids: Sequence[str]) -> Rows:
        """Removes documents with every version, pending ones too, and the id itself; `compact` then removes
        their bytes. A document that is added again under the id starts at version 1.

        In the same step the ids, unknown ones too, become names that are `owed`.

        Returns:
            Rows to purge from the derived stores, sorted: int64 [n]. Unknown ids are ignored.
        """
        with self._database.write("erase") as connection:
            gone = catalog_writes.erase(connection, ids)
        self._columns.clear()
        return gone

    def owed(self) -> list[str] | None:
        """Ids of erased documents that have not been forgotten everywhere; None: nothing is left to do.

        The catalog keeps them so that whoever finishes an interrupted erasure knows what others are to forget:
        nothing else can tell any more.
        """
        with self._database.read("owed") as connection:
            return catalog_writes.owed(connection)

    def paid(self, names: Collection[str]) -> None:
        """Drops ids that are forgotten everywhere from those `owed`, and from the bytes of the file.

        Raises:
            StoreError: A read went on for too long; retryable.
        """
        with self._database.write("paid", counts=False) as connection:
            catalog_writes.paid(connection, names)
        self._database.compact(vacuum=False)
        with self._database.write("paid", counts=False) as connection:
            catalog_writes.settle(connection)

    def compact(self) -> None:
        """Rewrites the file so that nothing erased remains in its bytes, and empties the log.

        Raises:
            StoreError: A read went on for too long; retryable.
        """
        self._database.compact()


def _create(path: Path) -> None:
    try:
        create_file(path)
    except sqlite3.Error as error:
        raise translate(error, "create", path) from error
