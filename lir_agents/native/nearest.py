"""Which vectors can be alike, by int8 codes: `nearest.c`, or the same bits by NumPy where nothing was compiled."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import RowMask
from lir_agents.native.library import LANE, address, library, number_of, paths, require, several_processors

__all__ = ["UNKNOWN", "VectorCodes", "VectorDigits", "places_of", "product_bounds"]


UNKNOWN: Final = -1
"""The place of a row that nobody has read yet."""

_AT_ONCE: Final = 8192
"""Codes that NumPy multiplies at a time."""


@dataclass(frozen=True, slots=True)
class VectorCodes:
    """Vectors that were rounded to bytes.

    Attributes:
        values: int8 [n, dim], in [-127, 127]; dim <= 130,000, so that sums fit 32 bits.
        scales: float32 [n], a code times its scale is about the vector.
        errors: float32 [n], the length of what rounding lost.
    """

    values: NDArray[np.int8]
    scales: NDArray[np.float32]
    errors: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class VectorDigits:
    """A vector in two digits of 8 bits.

    Attributes:
        values: int8 [2, dim], in [-127, 127]: the first digit and the second, which counts 254ths of the first.
        unit: What a first digit is worth.
        lost: The length of what both lose.
    """

    values: NDArray[np.int8]
    unit: float
    lost: float


class _Codes(ctypes.Structure):
    """`Codes` of nearest.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("codes", "scales", "errors", "places")),
        ("count", ctypes.c_int64),
        ("dim", ctypes.c_int32),
    )


class _Vector(ctypes.Structure):
    """`Vector` of nearest.c."""

    _fields_ = (("digits", ctypes.c_void_p), ("unit", ctypes.c_float), ("lost", ctypes.c_float))


def places_of(allowed: RowMask, position: NDArray[np.int32]) -> NDArray[np.int32] | None:
    """Where the allowed rows lie.

    Args:
        allowed: bool [any length].
        position: int32 [rows], where each row lies, UNKNOWN, or less where it lies nowhere.

    Returns:
        int32 [<= rows], by ascending row, without those that lie nowhere; None if an allowed row is unknown.
    """
    known = min(len(allowed), len(position))
    if allowed[known:].any():
        return None
    if not paths():
        return _places_by_numpy(allowed[:known], position[:known])
    mask, where = np.ascontiguousarray(allowed, np.bool_), np.ascontiguousarray(position, np.int32)
    places = np.empty(known + 1, np.int32)
    count = library().lir_places(address(mask), address(where), known, address(places))
    return None if count < 0 else places[:count]


def product_bounds(
    codes: VectorCodes,
    places: NDArray[np.int32],
    vectors: Sequence[VectorDigits],
    k: int,
    rounding: float,
    path: str | None = None,
    *,
    helped: bool = True,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Between what a vector's product with each code must lie, by Cauchy-Schwarz on what rounding lost of both.

    Args:
        codes: Vectors of length 1 at most.
        places: int32 [m], which of them.
        vectors: Of length 1.
        k: Between 1 and m.
        rounding: A bound on what float32 loses.
        path: One of `library.paths()`; None for the fastest, or NumPy where there is none.
        helped: Whether a second thread may help where there is a processor for it. The bits are the same.

    Returns:
        float32 [vectors, m], the most that each product can be; and float32 [vectors], what k of them at least are.

    Raises:
        ValueError: No such path, place or k, or arrays that do not fit together.
        MemoryError: For 8 k bytes a vector, beside the 4 m of what is returned.
    """
    _require_fitting(codes, places, vectors, k)
    if path is None and not paths():
        return _bounds_by_numpy(codes, places, vectors, k, rounding)
    way, m = number_of(path), len(places)
    lie, held = _lie(codes, places)
    asked, digits = _asked(vectors, codes.values.shape[1])
    upper, least = np.empty((len(vectors), m), np.float32), np.empty(len(vectors), np.float32)
    failed = library().lir_product_bounds(
        *(way, helped and several_processors(), ctypes.byref(lie), asked, len(vectors), k, rounding),
        *(address(upper), address(least)),
    )
    del held, digits  # what the library was told the addresses of had to last until here
    if failed:
        raise MemoryError("no memory to find the nearest vectors in")
    return upper, least


def _require_fitting(
    codes: VectorCodes, places: NDArray[np.int32], vectors: Sequence[VectorDigits], k: int
) -> None:
    """The library reads what it is told is there."""
    n, dim = codes.values.shape
    if not 1 <= k <= len(places):
        raise ValueError(f"k is {k} of {len(places)}")
    if places.dtype != np.int32 or int(places.view(np.uint32).max()) >= n:  # a negative one is large, too
        raise ValueError(f"places that are {places.dtype}, or of more than {n} codes")
    require(codes.scales, (n,))
    require(codes.errors, (n,))
    for vector in vectors:
        require(vector.values, (2, dim))


def _lie(codes: VectorCodes, places: NDArray[np.int32]) -> tuple[_Codes, tuple[NDArray[Any], ...]]:
    """Codes as the library wants to know them, and the arrays that it then reads."""
    held: tuple[NDArray[Any], ...] = (
        np.ascontiguousarray(codes.values, np.int8),
        np.ascontiguousarray(codes.scales, np.float32),
        np.ascontiguousarray(codes.errors, np.float32),
        np.ascontiguousarray(places, np.int32),
    )
    return _Codes(*map(address, held), len(places), codes.values.shape[1]), held


def _asked(vectors: Sequence[VectorDigits], dim: int) -> tuple[Any, NDArray[np.int8]]:
    """Vectors as the library wants to know them, and the array that it then reads."""
    line = -(-dim // LANE) * LANE
    digits = np.zeros((len(vectors), 2, line), np.int8)
    for i, vector in enumerate(vectors):
        digits[i, :, :dim] = vector.values
    each = (_Vector(address(digits) + 2 * line * i, one.unit, one.lost) for i, one in enumerate(vectors))
    return (_Vector * len(vectors))(*each), digits


def _places_by_numpy(allowed: RowMask, position: NDArray[np.int32]) -> NDArray[np.int32] | None:
    found = position[allowed]
    return None if (found == UNKNOWN).any() else found[found >= 0]


def _bounds_by_numpy(
    codes: VectorCodes, places: NDArray[np.int32], vectors: Sequence[VectorDigits], k: int, rounding: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    upper, lower = np.empty((2, len(vectors), len(places)), np.float32)
    digits = np.concatenate([vector.values for vector in vectors]).T
    for start in range(0, len(places), _AT_ONCE):
        block = slice(start, start + _AT_ONCE)
        some = places[block]
        products, errors = _products(codes.values.take(some, axis=0), digits), codes.errors.take(some)
        for i, vector in enumerate(vectors):
            scores = products[:, 2 * i + 1].astype(np.float32)
            scores *= np.float32(1 / 254)
            scores += products[:, 2 * i].astype(np.float32)
            scores *= codes.scales.take(some)
            scores *= np.float32(vector.unit)
            # Codes stand for no more than 1 + error.
            bound = errors + np.float32(vector.lost) * (1 + errors) + np.float32(rounding)
            lower[i, block], upper[i, block] = scores - bound, scores + bound
    cut = len(places) - k
    return upper, np.partition(lower, cut, axis=1)[:, cut]


def _products(left: NDArray[np.int8], right: NDArray[np.int8]) -> NDArray[np.int32]:
    """``left @ right``, exact: up to some 1,000 dimensions a float32 holds every partial sum."""
    kind: Any = np.float32 if left.shape[1] <= 2**24 // 127**2 else np.float64
    found: NDArray[np.int32] = (left.astype(kind) @ right.astype(kind)).astype(np.int32)
    return found
