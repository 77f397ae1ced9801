"""The compiled loop of `maxsim.c`, where there is one: made when the package is built (hatch_build.py)."""

from __future__ import annotations

import ctypes
import functools
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import LentTokens

__all__ = ["block_maxima", "depth", "paths"]

_NAME: Final = {"win32": "_maxsim.dll", "darwin": "_maxsim.dylib"}.get(sys.platform, "_maxsim.so")
_PATHS: Final = ("portable", "avx2", "avx512_vnni", "amx_int8")


@functools.cache
def _library() -> Any:
    """The library, or None where the package was built without a compiler."""
    try:
        library = ctypes.CDLL(str(Path(__file__).with_name(_NAME)))
    except OSError:
        return None
    pointer, number, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
    library.lir_depth.argtypes, library.lir_depth.restype = [long, long], long
    library.lir_block_maxima.argtypes = [
        *(number, pointer, pointer, long, number, number),
        *(pointer, pointer, number, number, pointer, pointer),
    ]
    return library


@functools.cache
def paths() -> tuple[str, ...]:
    """The ways through the loop that this processor has, slowest first; none without the library.

    All give the same bits.
    """
    library = _library()
    return () if library is None else _PATHS[: library.lir_best_path() + 1]


def depth(bits: int, width: int) -> int:
    """Bytes of an unpacked token: what a row of query digits has."""
    return int(_library().lir_depth(bits, width))


def block_maxima(
    tokens: LentTokens,
    digits: NDArray[np.int8],
    scales: NDArray[np.float32],
    block: int,
    path: str | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The largest similarities within each block and passage; other threads run meanwhile.

    Args:
        tokens: Passages with codes.
        digits: int8 [q_len, depth], the query in planes as the codes are.
        scales: float32 [q_len], what a digit times half a step is worth.
        block: Tokens of a block: 8, 16, 24 or 48.
        path: One of `paths()`; None for the fastest.

    Returns:
        float32 [blocks, q_len], where a passage of n tokens has ceil(n / block) of them; and float32 [n, q_len], -1
        where a passage has no tokens.
    """
    if block % 8 or 48 % block:
        raise ValueError(f"no blocks of {block} tokens")
    chosen = paths()[-1] if path is None else path
    addresses, lengths = (
        np.ascontiguousarray(tokens.addresses, np.int64),
        np.ascontiguousarray(tokens.lengths, np.int64),
    )
    found = np.empty((int((-(-lengths // block)).sum()), len(digits)), np.float32)
    whole = np.full((len(lengths), len(digits)), -1, np.float32)
    failed = _library().lir_block_maxima(
        *(_PATHS.index(chosen), addresses.ctypes.data, lengths.ctypes.data, len(lengths)),
        *(tokens.codec.bits, tokens.codec.width, digits.ctypes.data, scales.ctypes.data),
        *(len(digits), block, found.ctypes.data, whole.ctypes.data),
    )
    if failed:
        raise MemoryError("no memory to compare token vectors in")
    return found, whole
