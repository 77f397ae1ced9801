"""The arithmetic of BM25 within a scope; numbers only.

With N passages in the scope, df of them holding the term, tf its occurrences in the passage and dl the passage's
length in terms (Robertson & Zaragoza 2009, *The Probabilistic Relevance Framework*, in Lucene's form)::

    score = Σ weight · idf · tf / (tf + k1 · (1 - b + b · dl / avgdl))
    idf   = ln(1 + (N - df + 0.5) / (df + 0.5))
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import RowMask, Rows
from lir_agents.errors import ConfigError, InputError
from lir_agents.stores.postings import BLOCK, Lengths

__all__ = ["Bm25", "Scope", "top"]


@dataclass(frozen=True, slots=True)
class Bm25:
    """The two constants of BM25.

    Args:
        k1: How slowly repetitions of a term saturate, >= 0.
        b: How much long passages are held back, in [0, 1].
    """

    k1: float = 1.2
    b: float = 0.75

    def __post_init__(self) -> None:
        if not (math.isfinite(self.k1) and self.k1 >= 0):
            raise ConfigError(f"k1 is {self.k1!r}", setting="k1", remedy="Use a number >= 0.")
        if not 0 <= self.b <= 1:
            raise ConfigError(f"b is {self.b!r}", setting="b", remedy="Use a number in [0, 1].")


@dataclass(frozen=True, slots=True)
class Scope:
    """What BM25 needs to know of the rows searched.

    Attributes:
        mask: bool [blocks * BLOCK], the rows that are held and allowed.
        size: How many those are.
        mean_length: Their mean length in terms; 1 where all are empty.
        blocks: Those blocks of rows that hold any of them, ascending.
        whole: Whether every row held is in the scope.
    """

    mask: RowMask
    size: int
    mean_length: float
    blocks: list[int]
    whole: bool

    @classmethod
    def within(cls, lengths: Lengths, allowed: RowMask) -> Scope:
        mask = np.zeros(len(lengths.held), np.bool_)
        n = min(len(mask), len(allowed))
        np.logical_and(lengths.held[:n], allowed[:n], out=mask[:n])
        size = int(np.count_nonzero(mask))
        # Integers, so that the order of summation (and with it the length of the arrays) cannot show.
        total = lengths.total if size == lengths.size else int((lengths.terms * mask).sum(dtype=np.uint64))
        blocks = np.flatnonzero(mask.reshape(-1, BLOCK).any(axis=1)).tolist()
        return cls(mask, size, total / size if total else 1.0, blocks, size == lengths.size)

    def select(
        self, rows: NDArray[np.intp], tf: NDArray[np.float32]
    ) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Those of a term's postings that lie in the scope."""
        if self.whole:
            return rows, tf
        inside = self.mask[rows].nonzero()[0]  # five times faster than a boolean index over a scattered mask
        return rows[inside], tf[inside]

    def idf(self, df: int) -> float:
        """Inverse document frequency of a term that `df` passages of the scope hold."""
        return math.log1p((self.size - df + 0.5) / (df + 0.5))


def top(scores: NDArray[np.float32], k: int) -> tuple[Rows, NDArray[np.float32]]:
    """The k best rows, best first, ties by row; rows that score 0 are never among them.

    Args:
        scores: float32 [rows], as `LmdbLexical.scores` gives them.
        k: How many, >= 1.

    Returns:
        rows int64 [<= k] and their scores float32 [<= k].
    """
    if k < 1:
        raise InputError(f"is {k}", field="k", remedy="Ask for at least one.")
    rows = np.flatnonzero(scores > 0)
    if len(rows) > k:
        found = scores[rows]
        rows = rows[found >= np.partition(found, len(found) - k)[len(found) - k]]
    best = rows[np.argsort(-scores[rows], kind="stable")[:k]]
    return best.astype(np.int64), scores[best]
