"""The lexical index: BM25 whose every number is one of the searched scope.

A scope is a bitmap over rows. How many passages it holds, how long they are on average and how many of them hold a
term are counted within it at query time, from the postings themselves; nothing about the corpus as a whole is ever
kept. So a score is, bit for bit, the one that an index of only those passages would give: passages outside the
scope cannot show in scores, order or counts. ``docs/decisions/0001-lexical-search.md`` says why this is not
SQLite FTS5 or tantivy, and what it costs.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import RowMask, Rows
from lir_agents.errors import InputError
from lir_agents.stores.analysis import Analyzer
from lir_agents.stores.base import REBUILD
from lir_agents.stores.bm25 import Bm25, Scope, top
from lir_agents.stores.mapped import MappedFile
from lir_agents.stores.postings import (
    DATABASES,
    MAX_ROW,
    Lengths,
    check_entry,
    content_sum,
    content_sums,
    count,
    inconsistent_rows,
    postings,
    replace,
)

__all__ = ["Bm25", "LmdbLexical", "contents_of", "top"]

T = TypeVar("T")
_INITIAL_MAP_BYTES = 64 << 20
_ROWS_AT_ONCE = 2048


class LmdbLexical:
    """A `LexicalStore` in one LMDB file, for any number of threads of the one process that writes."""

    def __init__(self, file: MappedFile, analyzer: Analyzer, bm25: Bm25) -> None:
        self._file = file
        self._analyzer = analyzer
        self._bm25 = bm25
        self._lengths: Lengths | None = None

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        bm25: Bm25 | None = None,
        read_only: bool = False,
        map_bytes: int = _INITIAL_MAP_BYTES,
    ) -> LmdbLexical:
        """Opens the index in the directory `path`, and creates it unless `read_only`.

        Args:
            path: A directory of its own.
            bm25: The constants of the formula; they can differ from one opening to the next.
            read_only: For a second process. It sees every commit of the owner but no compaction: open again
                after one.
            map_bytes: Address space to begin with, in bytes; it doubles whenever the file fills it.

        Raises:
            IntegrityError: The file is cut short, foreign, or made by another analyser, whose terms would not
                meet those of a query. It is left as it is; the index can be rebuilt from the catalog.
            StoreError: It cannot be opened, or `read_only` was asked for and there is none.
        """
        analyzer = Analyzer()
        form = {"format": 1, "analyzer": analyzer.fingerprint}
        file = MappedFile(
            Path(path),
            store="lexical",
            databases=DATABASES,
            form=form,
            remedy=REBUILD,
            read_only=read_only,
            map_bytes=map_bytes,
        )
        return cls(file, analyzer, bm25 or Bm25())

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of the analyser: equal fingerprints, equal terms."""
        return self._analyzer.fingerprint

    # ------------------------------------------------------------ writing

    def add(self, rows: Rows, texts: Sequence[str]) -> None:
        """Adds passages in one transaction, on disk when it returns; a row that is already held is replaced.

        Args:
            rows: int64 [n], >= 0; of a row that comes twice the last stays.
            texts: What to search in, one per row: title and body.

        Raises:
            InputError: A row is out of range, or there are not as many texts.
            StoreError: The transaction could not be committed; nothing of it is visible.
        """
        numbers = _checked_rows(rows)
        if len(texts) != len(numbers):
            raise InputError(
                f"holds {len(texts)} for {len(numbers)} rows", field="texts", remedy="Pass one per row."
            )
        if not numbers:
            return
        passages = sorted(dict(zip(numbers, texts, strict=True)).items())

        def change(txn: Any, databases: dict[bytes, Any]) -> None:
            for batch in _batches(passages):
                contents = [Counter(self._analyzer.terms(text)) for _, text in batch]
                replace(txn, databases, [row for row, _ in batch], contents)

        self._file.write("add", change)

    def delete(self, rows: Rows) -> None:
        """Removes the postings in one transaction; unknown rows are ignored.

        From then on the rows are in no score and no statistic. Their bytes leave the file with `compact`.
        """
        asked = np.unique(np.asarray(rows, np.int64))
        with self._file.reading("delete") as (txn, databases):
            bitmap = self._current_lengths(txn, databases).held
        asked = asked[(asked >= 0) & (asked < len(bitmap))]
        held: list[int] = asked[bitmap[asked]].tolist()

        def change(txn: Any, databases: dict[bytes, Any]) -> None:
            for batch in _batches(held):
                replace(txn, databases, batch, [None] * len(batch))

        if held:
            self._file.write("delete", change)

    def compact(self) -> None:
        """Rewrites the file so that nothing deleted remains in its bytes. Reads go on meanwhile, writes wait.

        Raises:
            IntegrityError: An entry is damaged; the old file stays in use.
        """
        self._file.compact(check_entry)

    def close(self) -> None:
        """Releases the file. Idempotent."""
        self._file.close()

    # ------------------------------------------------------------ reading

    def analyze(self, text: str) -> list[str]:
        """Text to terms: lower case, stop words out, stemmed; with repetitions, in no promised order."""
        return list(self._analyzer.terms(text))

    def scores(self, terms: Iterable[tuple[str, float]], allowed: RowMask) -> NDArray[np.float32]:
        """BM25 of every row for weighted terms.

        Args:
            terms: Terms as `analyze` gives them, with weights >= 0; those of a repeated term add up.
            allowed: bool [any length], the rows to search and the only ones that count in any statistic.

        Returns:
            float32 [len(allowed)], >= 0; 0 for rows that match nothing, are not held or not in `allowed`.
            The order of `terms` does not matter, to the last bit.

        Raises:
            InputError: A weight is negative or not finite, or `allowed` is not a bitmap.
        """
        weights = _weights(terms)
        scores = np.zeros(len(_checked(allowed)), np.float32)
        with self._file.reading("scores") as (txn, databases):
            lengths = self._current_lengths(txn, databases)
            scope = Scope.within(lengths, allowed)
            slope = np.float32(self._bm25.k1 * self._bm25.b / scope.mean_length)
            floor = np.float32(self._bm25.k1 * (1 - self._bm25.b))
            for term, weight in weights:
                rows, tf = postings(txn, databases, term, scope.blocks)
                rows, tf = scope.select(rows, tf)
                part = lengths.terms[rows].astype(np.float32)
                part *= slope
                part += floor
                part += tf
                np.divide(tf, part, out=part)
                part *= np.float32(weight * scope.idf(len(rows)))
                scores[rows] += part  # a term lists a row once
        return scores

    def scores_for_text(self, text: str, allowed: RowMask) -> NDArray[np.float32]:
        """`scores` of a text's terms, each weighing as often as it occurs."""
        return self.scores(Counter(self._analyzer.terms(text)).items(), allowed)

    def idf(self, terms: Sequence[str], allowed: RowMask) -> NDArray[np.float32]:
        """Inverse document frequency of each term within `allowed`: float32 [len(terms)], > 0, largest for a term
        that occurs nowhere in it."""
        _checked(allowed)
        with self._file.reading("idf") as (txn, databases):
            scope = Scope.within(self._current_lengths(txn, databases), allowed)

            def holding(term: str) -> int:
                if scope.whole:
                    return count(txn, databases, term, scope.blocks)
                return int(np.count_nonzero(scope.mask[postings(txn, databases, term, scope.blocks)[0]]))

            return np.array([scope.idf(holding(term)) for term in terms], np.float32)

    def rows(self) -> Rows:
        """Every row held, int64, sorted."""
        with self._file.reading("rows") as (txn, databases):
            return np.flatnonzero(self._current_lengths(txn, databases).held).astype(np.int64)

    def verify(self) -> list[int]:
        """Compares postings, lists of terms and lengths with each other; writes wait meanwhile.

        Returns:
            The rows, sorted, for which they do not agree: add these again.

        Raises:
            IntegrityError: The file is damaged beyond a list of rows: rebuild it from the catalog.
        """
        with self._file.unchanging(), self._file.reading("verify") as (txn, databases):
            return inconsistent_rows(txn, databases, self._current_lengths(txn, databases))

    def contents(self) -> NDArray[np.uint64]:
        """One number for what each row holds: uint64 [rows], 0 where no row is. Reads the whole file.

        Compared with `contents_of` the texts that were added, it tells a row that has become another one.
        """
        with self._file.unchanging(), self._file.reading("verify") as (txn, databases):
            return content_sums(txn, databases, self._current_lengths(txn, databases))

    def _current_lengths(self, txn: Any, databases: dict[bytes, Any]) -> Lengths:
        lengths = self._lengths = Lengths.read(txn, databases, self._lengths)
        return lengths


def contents_of(texts: Iterable[str]) -> NDArray[np.uint64]:
    """What `LmdbLexical.contents` gives for rows of these texts: uint64 [n]."""
    analyzer = Analyzer()
    return np.array([content_sum(Counter(analyzer.terms(text))) for text in texts], np.uint64)


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Bounds what a change of many rows holds in memory."""
    return (items[at : at + _ROWS_AT_ONCE] for at in range(0, len(items), _ROWS_AT_ONCE))


def _checked_rows(rows: Rows) -> list[int]:
    numbers: list[int] = np.asarray(rows, np.int64).tolist()
    if numbers and not 0 <= min(numbers) <= max(numbers) <= MAX_ROW:
        raise InputError("holds a row out of range", field="rows", remedy=f"Rows lie between 0 and {MAX_ROW}.")
    return numbers


def _weights(terms: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    weights: defaultdict[str, list[float]] = defaultdict(list)
    for term, weight in terms:
        if not (math.isfinite(weight) and weight >= 0):
            raise InputError(f"weight of {term!r} is {weight!r}", field="terms", remedy="Use finite weights >= 0.")
        weights[term].append(weight)
    # Sorted and exactly summed: the order in which a caller names terms must not show in the last bit of a score.
    return [(term, total) for term, parts in sorted(weights.items()) if (total := math.fsum(parts))]


def _checked(allowed: RowMask) -> RowMask:
    if allowed.dtype != np.bool_ or allowed.ndim != 1:
        raise InputError(
            f"is {allowed.dtype} {list(allowed.shape)}", field="allowed", remedy="Pass a bitmap: bool [rows]."
        )
    return allowed
