"""The vector store: pooled vectors in Chroma, searched through its HNSW index or by an exact scan.

A search over exactly what is held takes the HNSW index once that is more than `hnsw_above` rows; every other
search scans a resident matrix (why: docs/decisions/0002-first-stage-under-a-scope.md). Either way scores come from
the stored vectors, row by row: a passage has one score on every route.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import RowMask, Rows
from lir_agents.errors import InputError
from lir_agents.native.library import paths
from lir_agents.stores.chroma import ChromaCollection, failures
from lir_agents.stores.scan import ResidentMatrix, VectorSource

__all__ = ["ChromaVectors"]

_HNSW_ABOVE = 200_000  # about where HNSW begins to be faster than the scan, which is exact
_HNSW_ABOVE_SLOW = 50_000  # the same where the scan is in NumPy, or in C without wide registers
_UNIT_TOLERANCE = 1e-2


class ChromaVectors:
    """A `VectorStore` in one Chroma collection, for the threads of the one process that owns it.

    Made by `open` (embedded) or `connect` (a server).
    """

    def __init__(
        self, collection: ChromaCollection, dim: int, source: VectorSource | None, hnsw_above: int | None
    ) -> None:
        self._chroma, self._dim = collection, dim
        usual = _HNSW_ABOVE if len(paths()) > 1 else _HNSW_ABOVE_SLOW
        self._hnsw_above = usual if hnsw_above is None else hnsw_above
        self._source = source or collection.vectors
        self._matrix = ResidentMatrix(dim, self._source)
        self._write = threading.RLock()
        self._held: RowMask | None = None

    @classmethod
    def open(
        cls, path: Path, dim: int, *, source: VectorSource | None = None, hnsw_above: int | None = None
    ) -> ChromaVectors:
        """Opens the embedded store in the directory `path`, creating it if there is none.

        One process only: two on one path lose data. Whoever owns the index holds the lock that sees to it.

        Args:
            path: A directory of its own.
            dim: Width of a vector.
            source: Where vectors are read by row for exact search: `TokenStore.pooled`. It must hold a row before
                `upsert` names it, and may hold more (retired rows, for searches of the past). None: Chroma itself,
                which is slower by far.
            hnsw_above: Rows held beyond which a search over all of them uses the HNSW index. None: 200,000, or
                50,000 where the scan is slow: on processors without AVX2, or where it was not compiled.

        Raises:
            IntegrityError: The directory is damaged or foreign, or was made for another width.
            StoreError: Chroma could not open it.
        """
        return cls(ChromaCollection.embedded(Path(path), dim), dim, source, hnsw_above)

    @classmethod
    def connect(
        cls,
        host: str,
        port: int,
        collection: str,
        dim: int,
        *,
        ssl: bool = False,
        source: VectorSource | None = None,
        hnsw_above: int | None = None,
    ) -> ChromaVectors:
        """Opens a collection of a running Chroma server, creating it if there is none; otherwise like `open`.

        `chroma run` has no authentication: keep it on loopback, or behind something that has. One process writes.
        """
        served = ChromaCollection.served(host, port, collection, dim, ssl=ssl)
        return cls(served, dim, source, hnsw_above)

    # ------------------------------------------------------------ writing

    def upsert(self, rows: Rows, vectors: NDArray[np.float32], access_classes: Sequence[int]) -> None:
        """Adds or replaces.

        Args:
            rows: int64 [n], >= 0, distinct.
            vectors: float32 [n, dim], L2-normalised.
            access_classes: One per row; metadata for whoever reads the collection by other means.

        Raises:
            InputError: Shapes or values do not fit.
            StoreError: Chroma failed. Some batches may have been written; writing all again is right.
        """
        self._check(rows, vectors, access_classes)
        with self._write:
            self._holding()
            try:
                self._chroma.upsert(rows, lambda part: vectors[part], access_classes)
            except BaseException:
                self._held = None  # some batches may be there: ask again
                raise
            self._note(rows, present=True)

    def delete(self, rows: Rows) -> None:
        """Removes; unknown rows are ignored. Their bytes leave the disk with `rebuild`."""
        with self._write:
            held = self._holding()
            rows = rows[(rows >= 0) & (rows < len(held))]
            self._chroma.delete(rows[held[rows]])
            self._note(rows, present=False)

    def rebuild(
        self, rows: Rows, access_classes: Sequence[int], vectors: NDArray[np.float32] | None = None
    ) -> None:
        """Replaces everything by `rows`. Nothing else remains, neither in the index nor in the directory's bytes.

        On a server the collection is dropped and made anew; what the server's disk keeps is its own affair.
        Searches go on meanwhile, writes wait.

        Args:
            rows: int64 [n], >= 0, distinct.
            access_classes: One per row.
            vectors: float32 [n, dim], L2-normalised; None reads them from `source`, a batch at a time.

        Raises:
            InputError: Shapes or values do not fit; or `source` lacks a row.
            StoreError: Chroma failed; the old collection stays in use.
        """

        def read(part: slice) -> NDArray[np.float32]:
            chosen = self._source(rows[part]) if vectors is None else vectors[part]
            self._check(rows[part], chosen, access_classes[part])
            return chosen

        if len(access_classes) != len(rows) or len(np.unique(rows)) != len(rows):
            raise InputError("wants distinct rows, and one access class for each", field="rows")
        with self._write:
            self._chroma.renew(rows, read, access_classes)
            self._held = None
            self._matrix.clear()

    def reset(self) -> None:
        """Empties the store; see `rebuild`."""
        self.rebuild(np.empty(0, np.int64), [])

    def close(self) -> None:
        """Releases files, connections and the matrix. Idempotent."""
        with self._write:
            self._chroma.close()
            self._held = None
            self._matrix.clear()

    # ------------------------------------------------------------ reading

    def search(
        self, vector: NDArray[np.float32], k: int, allowed: RowMask | None
    ) -> tuple[Rows, NDArray[np.float32]]:
        """The k nearest rows within `allowed`, best first, ties by row, with cosines in [-1, 1].

        Under a mask the result is exact, and the same to the last bit whatever lies outside the mask. Rows of the
        mask that Chroma no longer holds but `source` does are searched too: a search of the past asks for them.

        Args:
            vector: float32 [dim]; its length does not matter.
            k: >= 1; more than there are gives all there are.
            allowed: None, or a mask of exactly the rows held, searches everything held.

        Raises:
            InputError: `vector` or `k` does not fit.
            StoreError: Chroma or `source` failed.
        """
        (found,) = self.search_batch([vector], k, allowed)
        return found

    def search_batch(
        self, vectors: Sequence[NDArray[np.float32]], k: int, allowed: RowMask | None
    ) -> list[tuple[Rows, NDArray[np.float32]]]:
        """`search` for each of several vectors, in one pass over what is stored. Raises as `search`."""
        units = [self._unit(vector) for vector in vectors]
        if k < 1:
            raise InputError(f"is {k}", field="k", remedy="Ask for at least 1.")
        with failures("search"):
            self._chroma.require_open("search")
            if allowed is not None and np.count_nonzero(allowed) <= self._hnsw_above:
                return self._matrix.search_batch(units, k, allowed)  # Chroma is not asked, and may be away
            held = self._holding()
            count = int(np.count_nonzero(held))
            if count > self._hnsw_above and (allowed is None or _same(allowed, held)):
                near = self._chroma.nearest(units, min(k, count))
                return [self._matrix.rank(unit, rows, k) for unit, rows in zip(units, near, strict=True)]
            return self._matrix.search_batch(units, k, held if allowed is None else allowed)

    def scores(self, vector: NDArray[np.float32], rows: Rows) -> NDArray[np.float32]:
        """Cosine of each row with `vector`, as `search` would give it: float32 [n]; 0 where a row is missing."""
        vector = self._unit(vector)
        with failures("score"):
            return self._matrix.scores(vector, rows)

    def rows(self) -> Rows:
        """Every row held, int64, sorted."""
        return np.flatnonzero(self._holding()).astype(np.int64)

    @property
    def resident_bytes(self) -> int:
        """Bytes of memory that the exact scan holds."""
        return self._matrix.nbytes

    # ------------------------------------------------------------ inside

    def _holding(self) -> RowMask:
        """The rows held. The mask is replaced, never changed: readers keep the one they have."""
        held = self._held
        if held is None:
            with self._write:
                held = self._chroma.held() if self._held is None else self._held
                self._held = held
        return held

    def _note(self, rows: Rows, *, present: bool) -> None:
        held = self._holding()
        changed = np.zeros(max(len(held), int(rows.max(initial=-1)) + 1), np.bool_)
        changed[: len(held)] = held
        changed[rows] = present
        self._held = changed
        self._matrix.forget(rows)

    def _check(self, rows: Rows, vectors: NDArray[np.float32], access_classes: Sequence[int]) -> None:
        if rows.ndim != 1 or (rows.size and int(rows.min()) < 0) or len(np.unique(rows)) != len(rows):
            raise InputError("wants distinct, non-negative row numbers, int64 [n]", field="rows")
        if vectors.shape != (len(rows), self._dim):
            remedy = f"Pass float32 [{len(rows)}, {self._dim}]."
            raise InputError(f"has shape {list(vectors.shape)}", field="vectors", remedy=remedy)
        lengths = np.linalg.norm(vectors, axis=1)
        if not (np.abs(lengths - 1) < _UNIT_TOLERANCE).all():  # also where a length is not a number
            raise InputError("holds a vector that is not L2-normalised", field="vectors", remedy="Normalise them.")
        if len(access_classes) != len(rows):
            raise InputError(f"has {len(access_classes)} for {len(rows)} rows", field="access_classes")

    def _unit(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        vector = np.asarray(vector, np.float32)
        length = float(np.linalg.norm(vector))
        if vector.shape != (self._dim,) or not 0 < length < float("inf"):
            remedy = f"Pass float32 [{self._dim}], finite and not zero."
            raise InputError(f"has shape {list(vector.shape)} and length {length}", field="vector", remedy=remedy)
        return vector / np.float32(length)


def _same(one: RowMask, other: RowMask) -> bool:
    shared = min(len(one), len(other))
    return np.array_equal(one[:shared], other[:shared]) and not one[shared:].any() and not other[shared:].any()
