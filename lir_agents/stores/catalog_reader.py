"""The reading half of the catalog: snapshots, sets of passages, lookups.

A search takes one `snapshot` and gets every mask from it, so that they fit each other whatever is written
meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import RowMask, Rows
from lir_agents.codes import DEFAULT_BITS, Bits
from lir_agents.errors import InputError
from lir_agents.stores import catalog_reads
from lir_agents.stores.attributes import ColumnCache
from lir_agents.stores.columns import Snapshot, load_snapshot
from lir_agents.stores.database import Database
from lir_agents.stores.filters import evaluate, parse_filter
from lir_agents.stores.records import (
    CatalogCounts,
    Change,
    Generation,
    RollbackPlan,
    Standing,
    StoredDocument,
    VersionInfo,
)
from lir_agents.types import Filter, Passage

__all__ = ["CatalogReader", "as_rows"]


def as_rows(rows: Rows | Sequence[int] | Sequence[Rows]) -> Rows:
    """One int64 array of an array, a list of numbers, or a list of arrays."""
    if isinstance(rows, np.ndarray):
        return rows.astype(np.int64, copy=False).ravel()
    return np.concatenate([np.empty(0, np.int64), *(np.atleast_1d(np.asarray(part, np.int64)) for part in rows)])


class CatalogReader:
    """What can be asked of a catalog; `Catalog` adds what can be changed. Reads never wait for a write."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._snapshot: Snapshot | None = None
        self._snapshot_lock = threading.Lock()
        self._columns = ColumnCache(database.read)

    @property
    def path(self) -> Path:
        """The file."""
        return self._database.path

    @property
    def read_only(self) -> bool:
        """Whether writes are refused."""
        return self._database.read_only

    # ------------------------------------------------------------ what it knows of itself

    def get_meta(self, key: str) -> str | None:
        """A setting that was stored with the index; None where there is none."""
        with self._database.read("get_meta") as connection:
            row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def token_bits(self) -> Bits:
        """Bits of each coordinate of a stored token vector: what the index was made with."""
        return cast(Bits, int(self.get_meta("token_bits") or DEFAULT_BITS))

    def id_key(self) -> bytes:
        """Key of ids that are made of content; empty where there is none: in an open index that redacts nothing."""
        return bytes.fromhex(self.get_meta("id_key") or "")

    def generation(self) -> Generation | None:
        """The newest encoder generation; None before the first."""
        with self._database.read("generation") as connection:
            row = connection.execute("SELECT * FROM generation ORDER BY id DESC LIMIT 1").fetchone()
        return None if row is None else Generation(*row)

    @property
    def epoch(self) -> int:
        """Counts commits that changed what is current; 0 when nothing ever was."""
        return self.snapshot().epoch

    def epoch_at(self, moment: datetime) -> int:
        """The epoch that was current at a moment (0 before the catalog was made).

        Epochs have strictly rising times even when the clock goes backwards.

        Raises:
            InputError: `moment` has no time zone.
        """
        if moment.tzinfo is None:
            raise InputError("has no time zone", field="as_of", remedy="Use e.g. datetime.now(timezone.utc).")
        with self._database.read("epoch_at") as connection:
            return catalog_reads.epoch_at(connection, moment)

    def counts(self) -> CatalogCounts:
        """How much the catalog holds."""
        state = self.snapshot()
        return CatalogCounts(
            documents=int(((state.born <= state.epoch) & (state.died > state.epoch)).sum()),
            versions=int(state.committed_versions.sum()),
            passages=int(state.committed.sum()),
            live_passages=int(state.live.sum()),
            pending_passages=int(state.pending.sum()),
        )

    def check(self) -> list[str]:
        """What SQLite's own checks find wrong with the file; empty when it is sound. Reads the whole file."""
        with self._database.read("check") as connection:
            return catalog_reads.problems(connection)

    # ------------------------------------------------------------ sets of passages

    def snapshot(self) -> Snapshot:
        """The present state as bitmaps and columns; cached until something is written."""
        revision, state = self._revision(), self._snapshot
        if state is not None and state.revision >= revision:
            return state
        with self._snapshot_lock:
            state = self._snapshot
            if state is None or state.revision < revision:  # else another thread has just read it
                with self._database.read("snapshot") as connection:
                    self._snapshot = state = load_snapshot(connection, state)
            return state

    def live(self) -> RowMask:
        """Passages of current versions: bool [max_row + 1]."""
        return self.snapshot().live

    def live_at(self, epoch: int) -> RowMask:
        """Passages that were current at an epoch: bool [max_row + 1].

        Raises:
            InputError: The epoch is negative or has not happened.
        """
        return self.snapshot().live_at(epoch)

    def access_class_column(self) -> NDArray[np.int32]:
        """Access class of each row's own version: int32 [max_row + 1], -1 where no row is.

        For passages of old versions see also `Snapshot.newest_access_class`.
        """
        return self.snapshot().access_class

    def document_column(self) -> NDArray[np.int64]:
        """Internal document number of each row: int64 [max_row + 1], -1 where no row is."""
        return self.snapshot().document

    def access_classes(self) -> Mapping[int, str]:
        """Access key by access class."""
        return self.snapshot().access_keys

    def match(self, filter: Filter, *, snapshot: Snapshot | None = None) -> RowMask:
        """Passages whose version's metadata matches, current or not: bool [max_row + 1].

        The rules stand at the top of `lir_agents.stores.filters`.

        Args:
            filter: See `lir_agents.types.Filter`.
            snapshot: The state that the other masks come from; the present one by default.

        Raises:
            InputError: The filter is malformed, too deep or too large; `field` is the path to what is wrong.
        """
        expression = parse_filter(filter)
        state = snapshot or self.snapshot()
        size = len(state.born)
        versions = evaluate(
            expression, state.committed_versions, lambda key: self._columns.get(key, size, state.purges)
        )
        return state.rows_of_versions(versions)

    def known_filter_keys(self, within: RowMask | None = None) -> set[str]:
        """Metadata keys of the passages in a mask (all current ones by default): never show a caller keys from
        outside what it may read."""
        state = self.snapshot()
        mask = state.live if within is None else within
        rows = np.flatnonzero(mask[: len(state.row_version)])
        chosen = np.zeros(len(state.born), np.bool_)
        chosen[state.row_version[rows]] = True
        with self._database.read("known_filter_keys") as connection:
            pairs = connection.execute("SELECT key, version FROM attribute")
            numbers = {key for key, version in pairs if version < len(chosen) and chosen[version]}
            return {
                key for number, key in connection.execute("SELECT id, key FROM attribute_key") if number in numbers
            }

    def pending(self) -> Rows:
        """Rows that are staged and not committed, sorted: int64 [n]."""
        return np.flatnonzero(self.snapshot().pending).astype(np.int64)

    # ------------------------------------------------------------ lookups

    def current(self, ids: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Content digest and access key of the current version, by document id; those without one are left out."""
        with self._database.read("current") as connection:
            return catalog_reads.current(connection, ids)

    def reusable(self, encoding_sha256s: Sequence[str]) -> dict[str, int]:
        """A committed row whose vectors may be copied instead of encoding the same text again, by hash."""
        with self._database.read("reusable") as connection:
            return catalog_reads.reusable(connection, encoding_sha256s)

    def rows_of(self, ids: Sequence[str]) -> dict[str, Rows]:
        """Rows of the current version in order of the text, by document id; int64 [n] each."""
        with self._database.read("rows_of") as connection:
            return catalog_reads.rows_of(connection, ids)

    def rows_by_passage_id(self, passage_ids: Sequence[str]) -> dict[str, int]:
        """The row of each passage id, current or not; unknown ids are left out."""
        with self._database.read("rows_by_passage_id") as connection:
            return catalog_reads.rows_by_passage_id(connection, passage_ids)

    def passages(self, rows: Rows | Sequence[int]) -> list[Passage]:
        """Passages in the order asked for; a row that is gone (erased meanwhile) is left out."""
        with self._database.read("passages") as connection:
            return catalog_reads.passages(connection, as_rows(rows))

    def standing(self, id: str, *wanted: int | None) -> Standing | None:
        """Who may read a document, now and in all its versions, with those and the text of the ones wanted.

        All of one moment: read one after the other, a key could belong to another document of that id, one added
        after an erasure. None where there is no such document.

        Args:
            id: The document.
            wanted: Versions; None: the current one.
        """
        with self._database.read("standing") as connection:
            return catalog_reads.standing(connection, id, wanted)

    def document(self, id: str, version: int | None = None) -> StoredDocument | None:
        """A committed version with its text: the current one, or the one named; None where there is none."""
        with self._database.read("document") as connection:
            return catalog_reads.document(connection, id, version)

    def versions(self, id: str) -> list[VersionInfo]:
        """Committed versions of a document, oldest first; empty where it is unknown."""
        with self._database.read("versions") as connection:
            return catalog_reads.versions(connection, id)

    def changes(self, since_epoch: int) -> list[Change]:
        """What each epoch after `since_epoch` did, oldest first. Erased documents are in none of it."""
        with self._database.read("changes") as connection:
            return catalog_reads.changes(connection, since_epoch)

    def rollback_plan(self, epoch: int) -> RollbackPlan:
        """What takes the whole index back to an epoch: `rollback` each of `restore`, then commit all their rows
        with `retire`.

        Raises:
            InputError: The epoch is negative or has not happened.
        """
        self.live_at(epoch)  # raises where there is no such epoch
        with self._database.read("rollback_plan") as connection:
            return catalog_reads.rollback_plan(connection, epoch)

    # ------------------------------------------------------------ inside

    def _revision(self) -> int:
        """The present revision: known where this object is the only writer, else read (some 10 µs)."""
        if not self._database.read_only:
            return self._database.revision
        with self._database.read("revision") as connection:
            return int(connection.execute("SELECT revision FROM state").fetchone()[0])
