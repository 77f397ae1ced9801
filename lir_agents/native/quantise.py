"""Coordinates to codes of few bits: `quantise.c`, or the same bits by NumPy where nothing was compiled."""

from __future__ import annotations

import ctypes
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lir_agents.native.library import address, library, paths

__all__ = ["quantise"]

# The constants of these names in quantise.c.
_BETWEEN: Final = np.float32(0.25)
"""Steps from the nearest code at which a coordinate lies between two. What codes stand for lies nowhere between."""

_MOVES: Final = 24
"""Most coordinates of a vector that get the second nearest code."""

_SUMS: Final = 16
"""Lanes of a sum."""

_ROWS: Final = 512
"""Vectors at a time by NumPy, so that they stay in a core's own cache."""


class _Vectors(ctypes.Structure):
    """`Vectors` of quantise.c."""

    _fields_ = (
        ("steps", ctypes.c_void_p),
        ("data", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("dim", "width", "bits")),
        ("kept", ctypes.c_float),
    )


def quantise(steps: NDArray[np.float32], bits: int, kept: float | None) -> NDArray[np.uint8]:
    """The codes of vectors: the nearest ones, but for a few coordinates that lie between two.

    Those are chosen so that each vector's inner product with its codes is the same part of its square.

    Args:
        steps: float32 [n, dim], finite. Code c of 0 .. 2^bits - 1 stands for c - (2^bits - 1) / 2 steps.
        bits: 2, 4 or 8.
        kept: The part of the square, > 0; None: each coordinate gets the nearest code.

    Returns:
        uint8 [n, width] with width = ceil(dim bits / 8): the lowest bits of byte j are code j, the next ones code
        width + j, and so on.

    Raises:
        MemoryError: For 20 bytes a dimension, beside what is returned.
    """
    n, dim = steps.shape
    width = -(-dim * bits // 8)
    if not paths():
        return _packed(_codes_by_numpy(steps, (1 << bits) - 1, kept), bits, width)
    held, data = np.ascontiguousarray(steps, np.float32), np.empty((n, width), np.uint8)
    vectors = _Vectors(address(held), address(data), n, dim, width, bits, kept or 0.0)
    if library().lir_quantise(ctypes.byref(vectors)):
        raise MemoryError("no memory to make codes in")
    return data


def _codes_by_numpy(steps: NDArray[np.float32], levels: int, kept: float | None) -> NDArray[np.float32]:
    """float32 [n, dim] to whole numbers in 0 .. levels, float32 [n, dim]."""
    codes: NDArray[np.float32] = np.floor(steps + np.float32((levels + 1) / 2))
    np.clip(codes, 0, levels, out=codes)
    for at in range(0, len(codes) if kept else 0, _ROWS):
        _align(steps[at : at + _ROWS], codes[at : at + _ROWS], levels, np.float32(kept or 0))
    return codes


def _align(steps: NDArray[np.float32], codes: NDArray[np.float32], levels: int, kept: np.float32) -> None:
    """Moves a few codes, in place, to the other neighbour, those first that cost least for what they bring.

    Args:
        steps: float32 [n, dim], coordinates in steps.
        codes: float32 [n, dim], the nearest codes.
        levels: The largest code.
        kept: What part of a vector's square its inner product with its codes should be.
    """
    values = codes - np.float32(levels / 2)
    wanted = kept * _sums(steps * steps) - _sums(values * steps)
    rest = steps - values
    way = np.sign(rest)
    gain = way * steps * np.sign(wanted)[:, None]
    np.abs(rest, out=rest)
    moved = codes + way
    useful = (rest >= _BETWEEN) & (gain > 0) & (moved >= 0) & (moved <= levels)
    price = np.where(useful, np.maximum(1 - 2 * rest, 0) / np.where(useful, gain, 1), np.float32(np.inf))
    # No price is negative: its bits are in the order of what they stand for, and equal ones in that of coordinates.
    order = price.view(np.int32).astype(np.int64) << 32 | np.arange(codes.shape[1])
    most = min(_MOVES, codes.shape[1])
    at = np.sort(np.partition(order, most - 1, axis=1)[:, :most], axis=1) & 0xFFFFFFFF
    gains = np.where(np.take_along_axis(useful, at, 1), np.take_along_axis(gain, at, 1), np.float32(0))
    # As long as half of the next step still brings it nearer.
    move = (gains > 0) & (np.cumsum(gains, axis=1) - gains / 2 < np.abs(wanted)[:, None])
    chosen = np.where(move, np.take_along_axis(moved, at, 1), np.take_along_axis(codes, at, 1))
    np.put_along_axis(codes, at, chosen, 1)


def _sums(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of each row, in lanes: float32 [n, dim] to [n]."""
    lanes = np.zeros((len(values), _SUMS), np.float32)
    for start in range(0, values.shape[1], _SUMS):
        part = values[:, start : start + _SUMS]
        lanes[:, : part.shape[1]] += part
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    found: NDArray[np.float32] = lanes[:, 0]
    return found


def _packed(codes: NDArray[np.float32], bits: int, width: int) -> NDArray[np.uint8]:
    """float32 [n, dim] to uint8 [n, width]."""
    flat = np.zeros((len(codes), 8 // bits * width), np.uint8)
    flat[:, : codes.shape[1]] = codes
    data = flat[:, :width].copy()
    for plane in range(1, 8 // bits):
        data |= flat[:, plane * width : (plane + 1) * width] << np.uint8(plane * bits)
    return data
