"""Erasure, finished even where it was interrupted: a mark in the catalog stands until no byte is left."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lir_agents.arrays import Rows
from lir_agents.ingest.writing import DerivedStores
from lir_agents.stores.catalog import Catalog

__all__ = ["demand_erasure", "drop_unknown", "erase_documents", "finish_erasure"]

_MARK = "ingest.erasing"


def erase_documents(catalog: Catalog, stores: DerivedStores, ids: Sequence[str]) -> Rows:
    """Removes every version of the documents from every store, and their bytes from disk.

    Returns:
        The rows that are gone from the catalog. It owes their names until others have forgotten them, see
        `Catalog.owed`.

    Raises:
        StoreError: A store failed, or was being read for too long. The documents are invisible already; calling
            again, or opening the index again, removes what is left.
    """
    demand_erasure(catalog)
    rows = catalog.erase(ids)
    finish_erasure(catalog, stores)
    return rows


def demand_erasure(catalog: Catalog) -> None:
    """Marks that bytes may be left of what the catalog does not know: the next `finish_erasure` removes them."""
    catalog.set_meta(_MARK, "unfinished")


def finish_erasure(catalog: Catalog, stores: DerivedStores) -> bool:
    """Does what an interrupted erasure left undone. Nothing may be pending.

    Returns:
        Whether there was such an erasure.
    """
    if catalog.get_meta(_MARK) != "unfinished":
        return False
    drop_unknown(catalog, stores)
    snapshot = catalog.snapshot()
    live = np.flatnonzero(snapshot.live).astype(np.int64)
    catalog.compact()
    stores.tokens.compact()
    stores.lexical.compact()
    stores.vectors.rebuild(live, snapshot.access_class[live].tolist())
    catalog.set_meta(_MARK, "done")
    return True


def drop_unknown(catalog: Catalog, stores: DerivedStores) -> int:
    """Removes from each derived store the rows that the catalog does not give it; returns how many there were."""
    snapshot = catalog.snapshot()
    committed, live = np.flatnonzero(snapshot.committed), np.flatnonzero(snapshot.live)
    strange = (
        (stores.tokens.delete, np.setdiff1d(stores.tokens.rows(), committed)),
        (stores.lexical.delete, np.setdiff1d(stores.lexical.rows(), committed)),
        (stores.vectors.delete, np.setdiff1d(stores.vectors.rows(), live)),
    )
    for delete, rows in strange:
        if len(rows):
            delete(rows)
    return len(np.unique(np.concatenate([rows for _, rows in strange])))
