"""After a crash: makes the derived stores hold what the catalog says, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lir_agents.arrays import Rows
from lir_agents.encoding.base import Encoder
from lir_agents.ingest.anew import prepared_anew
from lir_agents.ingest.compose import Composer
from lir_agents.ingest.erasing import drop_unknown, finish_erasure
from lir_agents.ingest.writing import DerivedStores, PassageWriter
from lir_agents.stores.base import LexicalStore, TokenStore, VectorStore
from lir_agents.stores.catalog import Catalog

__all__ = ["ReconcileReport", "reconcile"]

_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class ReconcileReport:
    """What was mended, in passages.

    Attributes:
        discarded: Pending passages of an interrupted run, removed.
        dropped: Entries of derived stores that the catalog does not know.
        written: Passages whose vectors, tokens or words were missing and are there again.
    """

    discarded: int = 0
    dropped: int = 0
    written: int = 0

    @property
    def clean(self) -> bool:
        return not (self.discarded or self.dropped or self.written)


def reconcile(
    catalog: Catalog,
    tokens: TokenStore,
    vectors: VectorStore,
    lexical: LexicalStore,
    *,
    encoder: Encoder,
    composer: Composer,
    progress: Callable[[int, int], None] | None = None,
) -> ReconcileReport:
    """Brings the derived stores in line with the catalog. Cheap where they are already.

    Pending versions are discarded; rows the catalog does not know leave every store; rows that a store
    lacks, of history too, are written again, from stored vectors where they exist and by encoding where not; an
    erasure that was interrupted is finished. After each slab `progress` is told (passages written, passages to
    write).

    Raises:
        StoreError: A store failed; calling again continues.
    """
    stores = DerivedStores(tokens=tokens, vectors=vectors, lexical=lexical)
    discarded = catalog.discard_pending()
    snapshot = catalog.snapshot()
    committed, live = np.flatnonzero(snapshot.committed), np.flatnonzero(snapshot.live)
    dropped = drop_unknown(catalog, stores)
    whole = np.intersect1d(tokens.rows(), lexical.rows())
    missing = np.setdiff1d(committed, whole).astype(np.int64)
    for start in range(0, len(missing), _CHUNK):
        _write(catalog, encoder, stores, missing[start : start + _CHUNK], composer)
        if progress:
            progress(min(len(missing), start + _CHUNK), len(missing))
    unlisted = np.setdiff1d(live, vectors.rows()).astype(np.int64)
    for start in range(0, len(unlisted), _CHUNK):
        rows = unlisted[start : start + _CHUNK]
        vectors.upsert(rows, tokens.pooled(rows), snapshot.access_class[rows].tolist())
    finish_erasure(catalog, stores)
    return ReconcileReport(len(discarded), dropped, len(np.union1d(missing, unlisted)))


def _write(catalog: Catalog, encoder: Encoder, stores: DerivedStores, rows: Rows, composer: Composer) -> None:
    passages = list(prepared_anew(catalog, composer, rows))
    there = np.array([passage.row for passage, _ in passages], np.int64)
    PassageWriter(catalog, encoder, stores).write(there, [prepared for _, prepared in passages])
    # What was written again may be history: only live rows belong in Chroma.
    retired = np.setdiff1d(rows, np.flatnonzero(catalog.live()))
    if len(retired):
        stores.vectors.delete(retired.astype(np.int64))
