"""Exact nearest neighbours over any set of rows, from an int8 copy of the vectors that stays in memory.

The scan is in two steps. Integer products of int8 codes give every allowed row a score within a bound that is
known per row (Cauchy-Schwarz on the rounding errors); the rows that could still be among the k best are then
scored from their stored vectors. The result is the exact top k by float32 cosine, ties by row: no recall is lost.
Both steps work on each row by itself (integer sums have no rounding, whatever the order), so that neither scores
nor order depend, to the last bit, on rows that are not allowed or on where in the matrix a row lies.

Memory: dim + 20 bytes per row, and a quarter of that in reserve: 40 to 50 MB for 100,000 rows of 384.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import RowMask, Rows
from lir_agents.native.nearest import UNKNOWN, VectorCodes, VectorDigits, places_of, product_bounds

__all__ = ["ResidentMatrix", "VectorSource"]

VectorSource: TypeAlias = Callable[[Rows], NDArray[np.float32]]
"""Rows to stored vectors: float32 [n, dim], L2-normalised, zeros where a row is missing. `TokenStore.pooled`."""

_Number = TypeVar("_Number", bound=np.generic)

_UNKNOWN, _ABSENT = UNKNOWN, UNKNOWN - 1
_LOAD_ROWS = 8192
_VECTORS_AT_ONCE = 16
_BOUNDS_AT_ONCE = 1 << 22  # of all vectors at once: 16 MB, or what one vector's take
_ROUNDING = 1e-7  # more than float32 loses in each step of a sum, for vectors of about length 1
_STEPS = 32  # beside those of the sum: of bounds, lengths and units
_DIGIT = 127.0
_SECOND_DIGIT = 254.0


@dataclass(frozen=True, slots=True)
class _State:
    """One moment of the matrix. Readers keep the one they began with; positions beyond `count` are not theirs.

    codes: int8 [capacity, dim]; scale: float32 [capacity], a code times its scale is about the vector;
    error: float32 [capacity], length of what rounding lost; row: int64 [capacity];
    position: int32 [max_row + 1] by row: where it lies, or _UNKNOWN, or _ABSENT from the source.
    """

    codes: NDArray[np.int8]
    scale: NDArray[np.float32]
    error: NDArray[np.float32]
    row: Rows
    position: NDArray[np.int32]
    count: int
    live: int


class ResidentMatrix:
    """Vectors by row, read from `source` when a search first needs them. Safe to use from several threads.

    Args:
        dim: Width of a vector.
        source: Where vectors are read from, to fill the matrix and for exact scores.
    """

    def __init__(self, dim: int, source: VectorSource) -> None:
        self._dim = dim
        self._source = source
        self._lock = threading.Lock()
        self._state = self._empty()

    @property
    def nbytes(self) -> int:
        """Bytes held in memory."""
        state = self._state
        return sum(part.nbytes for part in (state.codes, state.scale, state.error, state.row, state.position))

    def forget(self, rows: Rows) -> None:
        """Drops rows that were added, changed or removed; a search that is allowed to see them reads them anew."""
        with self._lock:
            state = self._state
            rows = rows[rows < len(state.position)]
            position = state.position.copy()
            position[rows] = _UNKNOWN
            live = int((position >= 0).sum())
            if live < state.count // 2:
                self._state = self._empty()  # mostly holes: fill anew, densely
            else:
                self._state = replace(state, position=position, live=live)

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._state = self._empty()

    def search(self, vector: NDArray[np.float32], k: int, allowed: RowMask) -> tuple[Rows, NDArray[np.float32]]:
        """The exact k best of the allowed rows that `source` holds.

        Args:
            vector: float32 [dim], L2-normalised.
            k: >= 1.
            allowed: The rows to search, bool [max_row + 1].

        Returns:
            Rows and cosines, best first, ties by row; fewer than k only if fewer exist.
        """
        (found,) = self.search_batch([vector], k, allowed)
        return found

    def search_batch(
        self, vectors: Sequence[NDArray[np.float32]], k: int, allowed: RowMask
    ) -> list[tuple[Rows, NDArray[np.float32]]]:
        """`search` for each vector. What takes the time is reading the codes, and up to sixteen vectors read them
        once; no bit of what one of them finds depends on the others."""
        state, places = self._with(allowed)
        if len(places) <= 2 * k:
            return [self.rank(vector, state.row[places], k) for vector in vectors]
        close = _close(state, places, vectors, k)
        return [self.rank(vector, state.row[places[near]], k) for vector, near in zip(vectors, close, strict=True)]

    def rank(self, vector: NDArray[np.float32], rows: Rows, k: int) -> tuple[Rows, NDArray[np.float32]]:
        """The k best of `rows` by stored vector, best first, ties by row; rows that `source` lacks are left out."""
        vectors = self._source(rows)
        held = vectors.any(axis=1)
        if not held.all():
            rows, vectors = rows[held], vectors[held]
        scores = _cosines(vectors, vector)
        order = np.lexsort((rows, -scores))[:k]
        return rows[order], scores[order]

    def scores(self, vector: NDArray[np.float32], rows: Rows) -> NDArray[np.float32]:
        """Cosine of each row's stored vector, float32 [n], as `search` gives it; 0 where it is missing."""
        return _cosines(self._source(rows), vector)

    # ------------------------------------------------------------ filling

    def _empty(self) -> _State:
        none = np.empty(0, np.float32)
        return _State(
            np.empty((0, self._dim), np.int8), none, none, np.empty(0, np.int64), np.empty(0, np.int32), 0, 0
        )

    def _with(self, allowed: RowMask) -> tuple[_State, NDArray[np.int32]]:
        """A state that knows all allowed rows, read from `source` where none did; and where they lie, by row."""
        state = self._state
        if (places := places_of(allowed, state.position)) is not None:
            return state, places
        with self._lock:
            state, rows = self._state, np.flatnonzero(allowed)
            known = int(np.searchsorted(rows, len(state.position)))
            unknown = np.append(rows[:known][state.position[rows[:known]] == _UNKNOWN], rows[known:])
            if len(unknown):
                state = self._state = self._read(state, unknown)
        places = places_of(allowed, state.position)
        assert places is not None  # what was unknown has been read
        return state, places

    def _read(self, state: _State, unknown: Rows) -> _State:
        state = _with_room(state, len(unknown), int(unknown[-1]) + 1)
        for start in range(0, len(unknown), _LOAD_ROWS):
            rows = unknown[start : start + _LOAD_ROWS]
            vectors = self._source(rows)
            held = vectors.any(axis=1)
            state.position[rows[~held]] = _ABSENT
            state = _append(state, rows[held], vectors[held])
        return state


def _with_room(state: _State, more: int, rows: int) -> _State:
    """A state whose `position` nobody else sees, with `more` free places beyond `count`."""
    position = np.full(max(rows, len(state.position)), _UNKNOWN, np.int32)
    position[: len(state.position)] = state.position
    if state.count + more <= len(state.row):
        return replace(state, position=position)
    capacity = state.count + more + state.count // 4

    def grown(old: NDArray[_Number]) -> NDArray[_Number]:
        new: NDArray[_Number] = np.zeros((capacity, *old.shape[1:]), old.dtype)
        new[: state.count] = old[: state.count]
        return new

    return replace(
        state,
        codes=grown(state.codes),
        scale=grown(state.scale),
        error=grown(state.error),
        row=grown(state.row),
        position=position,
    )


def _append(state: _State, rows: Rows, vectors: NDArray[np.float32]) -> _State:
    start, end = state.count, state.count + len(rows)
    scale = np.abs(vectors).max(axis=1) / np.float32(_DIGIT)
    codes = np.rint(vectors / scale[:, None])
    state.codes[start:end] = codes
    state.scale[start:end] = scale
    state.error[start:end] = np.linalg.norm(vectors - codes * scale[:, None], axis=1)
    state.row[start:end] = rows
    state.position[rows] = np.arange(start, end, dtype=np.int32)
    return replace(state, count=end, live=state.live + len(rows))


# ---------------------------------------------------------------- scoring


def _close(
    state: _State, places: NDArray[np.int32], vectors: Sequence[NDArray[np.float32]], k: int
) -> Iterator[NDArray[np.intp]]:
    """Which of at least k places may be among the k best for each vector, ascending; at least k."""
    codes = VectorCodes(state.codes, state.scale, state.error)
    # Vectors of nearly equal components lose alike at each step, and it adds up.
    rounding = _ROUNDING * (state.codes.shape[1] + _STEPS)
    at_once = max(1, min(_VECTORS_AT_ONCE, _BOUNDS_AT_ONCE // len(places)))
    for start in range(0, len(vectors), at_once):
        some = [_digits(vector) for vector in vectors[start : start + at_once]]
        for upper, least in zip(*product_bounds(codes, places, some, k, rounding), strict=True):
            # A cosine lies within [-1, 1]: what would pass one of them there is no better than what reaches it.
            yield np.flatnonzero(np.maximum(upper, -1) >= np.clip(least, -1, 1))


def _digits(vector: NDArray[np.float32]) -> VectorDigits:
    unit = max(float(np.abs(vector).max()), 1e-12) / _DIGIT
    exact = vector.astype(np.float64) / unit
    first = np.rint(exact)
    second = np.rint((exact - first) * _SECOND_DIGIT)
    lost = unit * float(np.linalg.norm(exact - first - second / _SECOND_DIGIT))
    return VectorDigits(np.stack([first, second]).astype(np.int8), unit, lost)


def _cosines(vectors: NDArray[np.float32], vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Row by row, so that a score does not depend on its neighbours as a matrix product's blocking makes it."""
    scores: NDArray[np.float32] = np.clip(np.einsum("ij,j->i", vectors, vector), -1.0, 1.0)
    return scores
