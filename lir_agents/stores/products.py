"""Products of int8 matrices with exact int32 sums, by whatever does them fastest on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["integer_products"]

_Product: TypeAlias = Callable[[NDArray[np.int8], NDArray[np.int8]], NDArray[np.int32]]

_BLOCK_ROWS = 8192
_EXACT_FLOAT32_DIM = 2**24 // 127**2  # up to here a float32 holds every partial sum exactly
_ROWS_ALONE = 50_000  # fewer take one thread a millisecond or two
_ROWS_NEAR = 2048  # so many and their products fit into a core's own cache: a quarter less time
_COLUMNS = 8  # narrower right sides leave the fast kernels of oneDNN: measured 4 times slower


def integer_products(left: NDArray[np.int8], right: NDArray[np.int8]) -> NDArray[np.int32]:
    """``left @ right`` as int32 [n, m]; left: int8 [n, dim], right: int8 [dim, m], values in [-127, 127].

    Every implementation gives the same integers, so the choice between them changes nothing but time.
    """
    return _fastest(left.shape[1])(left, right)


def _by_torch(left: NDArray[np.int8], right: NDArray[np.int8]) -> NDArray[np.int32]:
    import torch

    from lir_agents.threads import alone

    padded = np.zeros((right.shape[0], -(-right.shape[1] // _COLUMNS) * _COLUMNS), np.int8)
    padded[:, : right.shape[1]] = right
    rows, columns = torch.from_numpy(np.ascontiguousarray(left)), torch.from_numpy(padded)
    product = torch.empty((len(left), padded.shape[1]), dtype=torch.int32)
    step = _ROWS_NEAR if len(left) <= _ROWS_ALONE else len(left)
    with alone(len(left) <= _ROWS_ALONE):
        for at in range(0, len(left), step):
            torch._int_mm(rows[at : at + step], columns, out=product[at : at + step])
    result: NDArray[np.int32] = product.numpy()[:, : right.shape[1]]
    return result


def _by_numpy(left: NDArray[np.int8], right: NDArray[np.int8]) -> NDArray[np.int32]:
    kind: Any = np.float32 if left.shape[1] <= _EXACT_FLOAT32_DIM else np.float64
    factor, result = right.astype(kind), np.empty((len(left), right.shape[1]), np.int32)
    for start in range(0, len(left), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        result[block] = left[block].astype(kind) @ factor
    return result


@cache
def _fastest(dim: int) -> _Product:
    """Tries both once, on one block. torch's product is private and has no fast path on some processors: what is
    missing or wrong is not used."""
    rng = np.random.default_rng(0)
    left, right = (rng.integers(-127, 128, shape, dtype=np.int8) for shape in ((_BLOCK_ROWS, dim), (dim, 2)))
    expected = _by_numpy(left, right)
    try:
        if not np.array_equal(_by_torch(left, right), expected):
            return _by_numpy
    except (ImportError, AttributeError, RuntimeError):
        return _by_numpy
    return min((_by_torch, _by_numpy), key=lambda product: _seconds(product, left, right))


def _seconds(product: _Product, left: NDArray[np.int8], right: NDArray[np.int8]) -> float:
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        product(left, right)
        best = min(best, time.perf_counter() - start)
    return best
