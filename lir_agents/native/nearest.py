"""What vectors can be alike, by int8 codes: `nearest.c`."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import RowMask
from lir_agents.native.library import LANE, address, library, number_of, require, several_processors

__all__ = ["Codes", "Digits", "bounds", "places_of"]


@dataclass(frozen=True, slots=True)
class Codes:
    """Vectors that were rounded to bytes.

    Attributes:
        values: int8 [n, dim].
        scales: float32 [n], a code times its scale is about the vector.
        errors: float32 [n], the length of what rounding lost.
    """

    values: NDArray[np.int8]
    scales: NDArray[np.float32]
    errors: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Digits:
    """A vector in two digits of 8 bits.

    Attributes:
        values: int8 [2, dim], the first digit and the second, which counts 254ths of the first.
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


@functools.cache
def _library() -> Any:
    found = library()
    found.lir_bounds.argtypes = [
        *(ctypes.c_int, ctypes.c_int, ctypes.POINTER(_Codes), ctypes.POINTER(_Vector), ctypes.c_int),
        *(ctypes.c_int64, ctypes.c_float, ctypes.c_void_p, ctypes.c_void_p),
    ]
    found.lir_places.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p]
    found.lir_places.restype = ctypes.c_int64
    return found


def places_of(allowed: RowMask, position: NDArray[np.int32]) -> NDArray[np.int32] | None:
    """Where the allowed rows lie.

    Args:
        allowed: bool [any length].
        position: int32 [rows], where each row lies, -1 where nobody knows, less where it lies nowhere.

    Returns:
        int32 [<= rows], by ascending row, without those that lie nowhere; None if an allowed row is unknown.
    """
    known = min(len(allowed), len(position))
    if allowed[known:].any():
        return None
    mask, where = np.ascontiguousarray(allowed, np.bool_), np.ascontiguousarray(position, np.int32)
    places = np.empty(known + 1, np.int32)
    count = _library().lir_places(address(mask), address(where), known, address(places))
    return None if count < 0 else places[:count]


def bounds(
    codes: Codes,
    places: NDArray[np.int32],
    vectors: Sequence[Digits],
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
        path: One of `library.paths()`; None for the fastest.
        helped: Whether a second thread may help where there is a processor for it. The bits are the same.

    Returns:
        float32 [vectors, m], the most that each product can be; and float32 [vectors], what k of them at least are.

    Raises:
        ValueError: No such path, place or k, or arrays that do not fit together.
        MemoryError: For 8 k bytes a vector.
    """
    n, dim = codes.values.shape
    way, m, line = number_of(path), len(places), -(-dim // LANE) * LANE
    if not 1 <= k <= m:
        raise ValueError(f"k is {k} of {m}")
    if int(places.view(np.uint32).max()) >= n:  # a negative one is large, too
        raise ValueError(f"places of more than {n} codes")
    require(codes.scales, (n,))
    require(codes.errors, (n,))
    kept: tuple[NDArray[Any], ...] = (
        np.ascontiguousarray(codes.values, np.int8),
        np.ascontiguousarray(codes.scales, np.float32),
        np.ascontiguousarray(codes.errors, np.float32),
        np.ascontiguousarray(places, np.int32),
    )
    digits = np.zeros((len(vectors), 2, line), np.int8)
    for i, vector in enumerate(vectors):
        require(vector.values, (2, dim))
        digits[i, :, :dim] = vector.values
    first = address(digits)
    asked = (_Vector * len(vectors))(
        *(_Vector(first + 2 * line * i, vector.unit, vector.lost) for i, vector in enumerate(vectors))
    )
    upper, least = np.empty((len(vectors), m), np.float32), np.empty(len(vectors), np.float32)
    lie = _Codes(*map(address, kept), m, dim)
    failed = _library().lir_bounds(
        *(way, helped and several_processors(), lie, asked, len(vectors), k, rounding),
        *(address(upper), address(least)),
    )
    if failed:
        raise MemoryError("no memory to find the nearest vectors in")
    return upper, least
