"""How the lexical index lies in its file: postings by term, and what finds them again when a row goes.

Rows are grouped in blocks of 16,384 (`BLOCK`), so that a row within its block fits 16 bits. Three databases::

    postings   term · 0 · block (big-endian uint32)  →  uint32 [n], ascending: row in block << 16 | occurrences
    terms      row (big-endian uint64)               →  the row's distinct terms joined by 0: what deleting touches
    lengths    block (big-endian uint32)             →  uint32 [16384]: length of the row + 1, 0 where none is held
               "revision"                            →  counts the changes of this file

All but the revision is canonical: a function of the rows held and their terms, not of the order in which rows came,
went and came back. A change rewrites one array of at most 64 KiB per touched term, in one transaction.
Arrays are little-endian.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lir_agents.errors import IntegrityError
from lir_agents.stores.base import REBUILD

__all__ = [
    "BLOCK",
    "DATABASES",
    "MAX_OCCURRENCES",
    "MAX_ROW",
    "Lengths",
    "content_sum",
    "content_sums",
    "count",
    "inconsistent_rows",
    "postings",
    "replace",
]

POSTINGS, TERMS, LENGTHS = DATABASES = (b"postings", b"terms", b"lengths")
BLOCK = 1 << 14
MAX_ROW = (1 << 31) - 1
"""Lengths and masks are dense arrays over rows, so memory grows with the largest row held."""
MAX_OCCURRENCES = (1 << 16) - 1
"""More occurrences of a term in one row count as this many, for the score and for the row's length."""

_ROW_SHIFT = 16
_MAX_KEY_BYTES = 511 - 5
_REVISION = b"revision"
_WORD = np.dtype("<u4")


@dataclass(frozen=True, slots=True)
class Lengths:
    """The lengths of all rows as of one revision of the file.

    Attributes:
        revision: Which one.
        held: bool [blocks * BLOCK], the rows that are there.
        terms: uint32 [blocks * BLOCK], terms per row with repetitions; 0 where no row is held.
        size: How many rows are held.
        total: Sum of `terms`.
    """

    revision: int
    held: NDArray[np.bool_]
    terms: NDArray[np.uint32]
    size: int
    total: int

    @classmethod
    def read(cls, txn: Any, databases: Mapping[bytes, Any], known: Lengths | None) -> Lengths:
        """Those of the transaction's snapshot: `known` where they are still right, from the file otherwise."""
        revision = _revision(txn, databases)
        if known is not None and known.revision == revision:
            return known
        blocks = {int.from_bytes(k, "big"): _words(v) for k, v in txn.cursor(databases[LENGTHS]) if len(k) == 4}
        stored = np.zeros((max(blocks, default=-1) + 1, BLOCK), np.uint32)
        for block, values in blocks.items():
            if len(values) != BLOCK:
                raise _damaged()
            stored[block] = values
        lengths = stored.reshape(-1)
        held = lengths > 0
        terms = lengths - held
        return cls(revision, held, terms, int(np.count_nonzero(held)), int(terms.sum(dtype=np.uint64)))


def postings(
    txn: Any, databases: Mapping[bytes, Any], term: str, blocks: Iterable[int]
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Where a term occurs.

    Returns:
        rows intp [n], ascending and distinct, of the given ascending blocks; occurrences float32 [n], >= 1.

    Raises:
        IntegrityError: An entry is damaged.
    """
    found = _entries(txn, databases, term, blocks)
    packed = _words(b"".join(value for _, value in found))
    rows = (packed >> _ROW_SHIFT).astype(np.intp)
    start = 0
    for block, value in found:
        end = start + len(value) // _WORD.itemsize
        rows[start:end] += block * BLOCK
        start = end
    return rows, (packed & MAX_OCCURRENCES).astype(np.float32)


def count(txn: Any, databases: Mapping[bytes, Any], term: str, blocks: Iterable[int]) -> int:
    """How many passages of the given blocks hold a term. Raises IntegrityError for a damaged entry."""
    return sum(len(_words(value)) for _, value in _entries(txn, databases, term, blocks))


def _entries(
    txn: Any, databases: Mapping[bytes, Any], term: str, blocks: Iterable[int]
) -> list[tuple[int, memoryview]]:
    stem = _encoded(term)
    get, database = txn.get, databases[POSTINGS]
    return [] if stem is None else [(b, v) for b in blocks if (v := get(_key(stem, b), db=database)) is not None]


def replace(
    txn: Any, databases: Mapping[bytes, Any], rows: Sequence[int], contents: Sequence[Mapping[str, int] | None]
) -> None:
    """Makes `rows` hold `contents`: occurrences by term, or None for a row that goes. Rows ascend and differ."""
    gone: defaultdict[bytes, list[int]] = defaultdict(list)
    come: defaultdict[bytes, list[int]] = defaultdict(list)
    lengths: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for row, content in zip(rows, contents, strict=True):
        block, local = divmod(row, BLOCK)
        key = row.to_bytes(8, "big")
        for stem in _stems(txn.get(key, db=databases[TERMS])):
            gone[_key(stem, block)].append(local)
        if content is None:
            txn.delete(key, db=databases[TERMS])
            lengths[block].append((local, 0))
            continue
        occurrences = {term.encode(): min(count, MAX_OCCURRENCES) for term, count in content.items()}
        for stem, count in occurrences.items():
            come[_key(stem, block)].append(local << _ROW_SHIFT | count)
        txn.put(key, b"\0".join(sorted(occurrences)), db=databases[TERMS])
        lengths[block].append((local, 1 + sum(occurrences.values())))
    for key in sorted(gone.keys() | come.keys()):
        _store(txn, databases[POSTINGS], key, gone.get(key, ()), come.get(key, ()))
    for block, changes in lengths.items():
        _store_lengths(txn, databases[LENGTHS], block.to_bytes(4, "big"), changes)
    txn.put(_REVISION, (_revision(txn, databases) + 1).to_bytes(8, "big"), db=databases[LENGTHS])


def inconsistent_rows(txn: Any, databases: Mapping[bytes, Any], lengths: Lengths) -> list[int]:
    """Rows whose postings, list of terms and length do not agree, sorted. Reads the whole file."""
    distinct, total, listed = (np.zeros(len(lengths.held), np.int64) for _ in range(3))
    for key, value in txn.cursor(databases[POSTINGS]):
        packed = _words(value)
        rows = (packed >> _ROW_SHIFT).astype(np.intp) + int.from_bytes(key[-4:], "big") * BLOCK
        known = rows[rows < len(distinct)]
        if len(known) < len(rows) or np.any(np.diff(rows) <= 0):
            raise _damaged()
        distinct[rows] += 1
        total[rows] += packed & MAX_OCCURRENCES
    present = np.zeros_like(lengths.held)
    for key, value in txn.cursor(databases[TERMS]):
        row = int.from_bytes(key, "big")
        if row >= len(present):
            raise _damaged()
        present[row], listed[row] = True, len(_stems(bytes(value)))
    wrong = (distinct != listed) | (total != lengths.terms) | (present != lengths.held)
    rows_wrong: list[int] = np.flatnonzero(wrong).tolist()
    return rows_wrong


def content_sum(occurrences: Mapping[str, int]) -> int:
    """A 64-bit sum over what a row holds, whatever the order: equal contents, equal sums."""
    stems = [(term.encode(), min(count, MAX_OCCURRENCES)) for term, count in occurrences.items()]
    return sum(int(_mixed(_digest(stem), count)) + int(_mixed(_digest(stem), 0)) for stem, count in stems) % 2**64


def content_sums(txn: Any, databases: Mapping[bytes, Any], lengths: Lengths) -> NDArray[np.uint64]:
    """`content_sum` of each row as the file holds it, uint64 [len(lengths.held)]. Reads the whole file.

    To be called on a file whose rows agree with themselves (`inconsistent_rows`).
    """
    sums = np.zeros(len(lengths.held), np.uint64)
    for key, value in txn.cursor(databases[POSTINGS]):
        packed = _words(value)
        rows = (packed >> _ROW_SHIFT).astype(np.intp) + int.from_bytes(key[-4:], "big") * BLOCK
        sums[rows] += _mixed(_digest(bytes(key[:-5])), packed & MAX_OCCURRENCES)  # a term lists a row once
    for key, value in txn.cursor(databases[TERMS]):
        listed = sum(int(_mixed(_digest(stem), 0)) for stem in _stems(bytes(value)))
        sums[int.from_bytes(key, "big")] += np.uint64(listed % 2**64)
    return sums


def check_entry(database: bytes, key: memoryview, value: memoryview) -> None:
    """Raises IntegrityError where an entry cannot be one of ours."""
    if database == POSTINGS and (len(value) == 0 or len(value) % _WORD.itemsize or len(key) < 6):
        raise _damaged()


def _store(txn: Any, database: Any, key: bytes, gone: Sequence[int], come: Sequence[int]) -> None:
    """Rewrites one array of postings without the local rows `gone` and with the ascending entries `come`."""
    before = txn.get(key, b"", db=database)
    if gone:
        packed = _words(before)
        before = packed[np.isin(packed >> _ROW_SHIFT, gone, invert=True)].tobytes()
    after = before + np.array(come, _WORD).tobytes()
    if before and come and int.from_bytes(before[-4:], "little") > come[0]:
        after = np.sort(_words(after)).tobytes()
    if after:
        txn.put(key, after, db=database)
    else:
        txn.delete(key, db=database)


def _store_lengths(txn: Any, database: Any, key: bytes, changes: Sequence[tuple[int, int]]) -> None:
    before = txn.get(key, db=database)
    values = np.zeros(BLOCK, _WORD) if before is None else _words(before).copy()
    local, stored = np.array(changes, np.int64).T
    values[local] = stored
    if values.any():
        txn.put(key, values.tobytes(), db=database)
    else:
        txn.delete(key, db=database)


@lru_cache(maxsize=1 << 16)
def _digest(stem: bytes) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(stem, digest_size=8).digest(), "little"))


def _mixed(stem: np.uint64, occurrences: Any) -> Any:
    """uint64, one for each number of occurrences."""
    with np.errstate(over="ignore"):
        mixed = stem ^ (np.asarray(occurrences, np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return mixed ^ (mixed >> np.uint64(27))


def _revision(txn: Any, databases: Mapping[bytes, Any]) -> int:
    return int.from_bytes(txn.get(_REVISION, b"", db=databases[LENGTHS]), "big")


def _encoded(term: str) -> bytes | None:
    """The bytes of a term, None where no passage can hold it."""
    stem = term.encode(errors="replace")
    return stem if stem and b"\0" not in stem and len(stem) <= _MAX_KEY_BYTES else None


def _key(stem: bytes, block: int) -> bytes:
    return stem + b"\0" + block.to_bytes(4, "big")


def _stems(value: bytes | None) -> list[bytes]:
    return value.split(b"\0") if value else []


def _words(value: Any) -> NDArray[np.uint32]:
    if len(value) % _WORD.itemsize:
        raise _damaged()
    return np.frombuffer(value, _WORD)


def _damaged() -> IntegrityError:
    return IntegrityError("the lexical index holds a damaged entry", remedy=REBUILD)
