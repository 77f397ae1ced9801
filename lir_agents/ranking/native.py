"""The compiled loop of `maxsim.c`, where there is one: made when the package is built (hatch_build.py)."""

from __future__ import annotations

import ctypes
import functools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import LentTokens, PackedTokens
from lir_agents.codes import TokenCodec, rotation
from lir_agents.threads import available_processors

__all__ = ["Digits", "block_maxima", "depth", "paths"]

_NAME: Final = {"win32": "_maxsim.dll", "darwin": "_maxsim.dylib"}.get(sys.platform, "_maxsim.so")
_PATHS: Final = ("portable", "avx2", "avx512_vnni", "amx_int8")

_LANE, _TILE, _SHARE = 64, 16, 96
"""What matrices are padded to and laid out by: the constants of these names in maxsim_paths.h and maxsim_turn.h."""


class _Rotation(ctypes.Structure):
    """`Rotation` of maxsim.c."""

    kept: object  # what it points to
    _fields_ = (*((name, ctypes.c_void_p * 2) for name in ("plain", "tiled", "sums")), ("worth", ctypes.c_float))


class _Query(ctypes.Structure):
    """`Query` of maxsim.c."""

    kept: object  # what it points to
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("digits", "scales", "vectors")),
        ("by", _Rotation),
        ("half_worth", ctypes.c_float),
        *((name, ctypes.c_int32) for name in ("queries", "dim", "width", "bits")),
    )


class _Tokens(ctypes.Structure):
    """`Tokens` of maxsim.c."""

    kept: tuple[int, object, object]  # how many tokens there are, and what it points to
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("addresses", "lengths", "codes", "offsets")),
        ("count", ctypes.c_int64),
    )


@dataclass(frozen=True, slots=True)
class Digits:
    """A query that is rotated and rounded already: with it, what is found can be held to integers.

    Attributes:
        values: int8 [q_len, depth], in planes as the codes are.
        scales: float32 [q_len], what a digit times half a step is worth.
    """

    values: NDArray[np.int8]
    scales: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.values)


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
        *(number, number, ctypes.POINTER(_Query), ctypes.POINTER(_Tokens)),
        *(number, pointer, pointer, pointer),
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
    tokens: PackedTokens | LentTokens,
    query: NDArray[np.float32] | Digits,
    block: int,
    path: str | None = None,
    *,
    helped: bool = True,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """The largest similarities within each block and passage; other threads run meanwhile.

    Args:
        tokens: Passages with codes.
        query: float32 [q_len, dim].
        block: Tokens of a block: 8, 16, 24 or 48.
        path: One of `paths()`; None for the fastest.
        helped: Whether a second thread may help where there is a processor for it. The bits are the same.

    Returns:
        What `kernels.block_maxima` does.

    Raises:
        ValueError: No such block or path, tokens that are vectors, or arrays that do not fit together.
        MemoryError: For some hundred kilobytes, or a few megabytes where a query has hundreds of tokens.
    """
    codec, ways = tokens.codec, paths()
    chosen = ways[-1] if path is None else path
    if chosen not in ways:
        raise ValueError(f"no path {chosen!r} on this processor, but {', '.join(ways)}")
    if block not in (8, 16, 24, 48):
        raise ValueError(f"no blocks of {block} tokens")
    if codec is None:
        raise ValueError("vectors are not compared as codes are")
    asked, lie = _query(query, codec), _tokens(tokens, codec)
    most = lie.kept[0] // block + lie.count
    found = np.empty((most + lie.count, asked.queries), np.float32)
    blocks, passages, offsets = found[:most], found[most:], np.empty(lie.count + 1, np.int64)
    failed = _library().lir_block_maxima(
        *(
            paths().index(paths()[-1] if path is None else path),
            helped and _several_processors(),
            asked,
            lie,
            block,
        ),
        *(found.ctypes.data, passages.ctypes.data, offsets.ctypes.data),
    )
    if failed:
        raise MemoryError("no memory to compare token vectors in")
    return blocks[: offsets[-1]], passages, offsets


@functools.cache
def _several_processors() -> bool:
    return available_processors() > 1


def _query(query: NDArray[np.float32] | Digits, codec: TokenCodec) -> _Query:
    """What the library calls a query."""
    blank = _blank(codec)
    asked = _Query.from_buffer_copy(blank)
    asked.queries = len(query)
    if isinstance(query, Digits):
        values, scales = np.ascontiguousarray(query.values, np.int8), np.ascontiguousarray(query.scales, np.float32)
        _require(values, (asked.queries, depth(codec.bits, codec.width)))
        _require(scales, (asked.queries,))
        asked.digits, asked.scales, asked.kept = values.ctypes.data, scales.ctypes.data, (blank, values, scales)
    else:
        vectors = np.ascontiguousarray(query, np.float32)
        _require(vectors, (asked.queries, codec.dim))
        asked.vectors, asked.kept = vectors.ctypes.data, (blank, vectors)
    return asked


def _require(values: NDArray[Any], shape: tuple[int, ...]) -> None:
    """The library reads what it is told is there."""
    if values.shape != shape:
        raise ValueError(f"an array of {values.shape} where {shape} is wanted")


@functools.cache
def _blank(codec: TokenCodec) -> _Query:
    """A query for these codes, of no tokens yet."""
    by = _rotation(codec.dim)
    blank = _Query(None, None, None, by, codec.half_worth, 0, codec.dim, codec.width, codec.bits)
    blank.kept = by  # two threads at once may each make one, and one of them is in no cache
    return blank


def _tokens(tokens: PackedTokens | LentTokens, codec: TokenCodec) -> _Tokens:
    """Where they lie, as the library wants to know it."""
    if isinstance(tokens, LentTokens):
        addresses, lengths = (np.ascontiguousarray(each, np.int64) for each in (tokens.addresses, tokens.lengths))
        _require(addresses, lengths.shape)
        lie = _Tokens(addresses.ctypes.data, lengths.ctypes.data, None, None, len(lengths))
        lie.kept = int(lengths.sum()), addresses, lengths
        return lie
    codes, offsets = np.ascontiguousarray(tokens.data, np.uint8), np.ascontiguousarray(tokens.offsets, np.int64)
    lie = _Tokens(None, None, codes.ctypes.data, offsets.ctypes.data, len(tokens))
    lie.kept = int(offsets[-1]), codes, offsets
    _require(codes, (lie.kept[0], codec.width))
    return lie


@functools.cache
def _rotation(dim: int) -> _Rotation:
    """The rotation in 16 bits. It keeps what it points to."""
    matrix = rotation(dim)
    largest = 127 * 256  # so that the upper byte is 127 at most
    worth = float(np.abs(matrix).max()) / largest
    columns, rows = -(-dim // _SHARE) * _SHARE, -(-dim // _LANE) * _LANE
    units = np.zeros((columns, rows), np.int32)
    units[:dim, :dim] = np.rint(matrix.T / worth)
    upper = (units + 128) >> 8
    parts = np.stack([upper, units - 256 * upper]).astype(np.int8)
    tiled = parts.reshape(2, columns // _TILE, _TILE, rows // 4, 4).transpose(0, 1, 3, 2, 4)
    plain, tiled, sums = _aligned(parts), _aligned(tiled), _aligned(parts.sum(axis=2, dtype=np.int32))
    found = _Rotation(worth=worth)
    for name, values in (("plain", plain), ("tiled", tiled), ("sums", sums)):
        setattr(found, name, (ctypes.c_void_p * 2)(*(part.ctypes.data for part in values)))
    found.kept = plain, tiled, sums
    return found


def _aligned(values: NDArray[Any]) -> NDArray[Any]:
    """A copy whose first byte begins a line of the cache, as each part of it does then."""
    memory = np.empty(values.nbytes + _LANE, np.uint8)
    start = -memory.ctypes.data % _LANE
    copy = memory[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy
