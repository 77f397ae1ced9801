"""Ports of the derived stores. Each can be dropped and rebuilt from the catalog.

Every store speaks of passages by catalog row (int64, never reused) and of sets of passages by bitmap
(`RowMask`). A row beyond the end of a mask is not in it. All methods raise `StoreError` on failure and are
safe to call from several threads of one process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import LentTokens, PackedTokens, RowMask, Rows
from lir_agents.codes import TokenCodec

__all__ = ["REBUILD", "LexicalStore", "TokenStore", "VectorStore"]

REBUILD: Final = "Run `lir doctor --repair` to rebuild it from the catalog."
"""What to do about a derived store that is damaged."""


class VectorStore(Protocol):
    """Pooled vectors, one per passage, searched by cosine similarity."""

    def upsert(self, rows: Rows, vectors: NDArray[np.float32], access_classes: Sequence[int]) -> None:
        """Adds or replaces. vectors: float32 [n, dense_dim], L2-normalised."""

    def delete(self, rows: Rows) -> None:
        """Removes; unknown rows are ignored."""

    def search(
        self, vector: NDArray[np.float32], k: int, allowed: RowMask | None
    ) -> tuple[Rows, NDArray[np.float32]]:
        """The k nearest rows within `allowed` (None: all rows held), best first, with cosine similarity in
        [-1, 1]. Fewer than k only if fewer exist."""

    def search_batch(
        self, vectors: Sequence[NDArray[np.float32]], k: int, allowed: RowMask | None
    ) -> list[tuple[Rows, NDArray[np.float32]]]:
        """The same for each of several vectors, in one pass."""

    def rebuild(self, rows: Rows, access_classes: Sequence[int]) -> None:
        """Replaces everything by these rows, so that nothing deleted remains in the bytes on disk."""

    def rows(self) -> Rows:
        """Every row held, sorted."""

    def close(self) -> None:
        """Releases files. Idempotent."""


class TokenStore(Protocol):
    """Token codes and pooled vectors by passage: what late interaction reads."""

    @property
    def codec(self) -> TokenCodec:
        """What the codes mean."""

    def put(self, rows: Rows, tokens: PackedTokens, pooled: NDArray[np.float32]) -> None:
        """Adds or replaces in one transaction. tokens: codes of the store's codec, one part per row; pooled:
        float32 [n, dense_dim]."""

    def lent(self, rows: Rows) -> AbstractContextManager[LentTokens | PackedTokens]:
        """The tokens of passages where they lie, in the order asked for, for as long as the context lasts; a
        missing row has none."""

    def gather(self, rows: Rows) -> PackedTokens:
        """The same, copied, and of codes."""

    def pooled(self, rows: Rows) -> NDArray[np.float32]:
        """float32 [n, dense_dim], L2-normalised, in the order asked for; zeros where a row is missing."""

    def delete(self, rows: Rows) -> None:
        """Removes; unknown rows are ignored."""

    def rows(self) -> Rows:
        """Every row held, sorted."""

    def verify(self) -> list[int]:
        """Rows whose stored bytes are damaged; reads everything."""

    def compact(self) -> None:
        """Rewrites the file so that nothing deleted remains in its bytes."""

    def size_bytes(self) -> int:
        """Bytes in use by live entries."""

    def close(self) -> None:
        """Releases files. Idempotent."""


class LexicalStore(Protocol):
    """BM25 over stemmed terms with statistics of the scope that is searched.

    Document frequencies and the average length are those of the passages in `allowed`, so that no score tells
    anything about a passage outside it.
    """

    def add(self, rows: Rows, texts: Sequence[str]) -> None:
        """Adds passages; a row that is already held is replaced."""

    def delete(self, rows: Rows) -> None:
        """Removes the postings; unknown rows are ignored."""

    def analyze(self, text: str) -> list[str]:
        """Text to terms: lower case, stop words out, stemmed."""

    def scores(self, terms: Iterable[tuple[str, float]], allowed: RowMask) -> NDArray[np.float32]:
        """BM25 of every row for weighted terms: float32 [len(allowed)], 0 for rows that match nothing or are
        not in `allowed`."""

    def idf(self, terms: Sequence[str], allowed: RowMask) -> NDArray[np.float32]:
        """Inverse document frequency of each term within `allowed`: float32 [len(terms)], >= 0."""

    def rows(self) -> Rows:
        """Every row held, sorted."""

    def compact(self) -> None:
        """Rewrites the file so that nothing deleted remains in its bytes."""

    def close(self) -> None:
        """Releases files. Idempotent."""
