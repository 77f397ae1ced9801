"""Block maxima of late interaction over packed codes: `maxsim.c`."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import LentTokens, PackedTokens
from lir_agents.codes import TokenCodec, rotation
from lir_agents.native.library import LANE, address, aligned, library, number_of, require, several_processors

__all__ = ["Digits", "block_maxima", "depth"]

_TILE, _SHARE = 16, 96
"""What matrices are laid out by: the constants of these names in maxsim_paths.h and maxsim_turn.h."""


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


def depth(bits: int, width: int) -> int:
    """Bytes of an unpacked token: what a row of query digits has."""
    return int(library().lir_depth(bits, width))


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
    codec, way = tokens.codec, number_of(path)
    if block not in (8, 16, 24, 48):
        raise ValueError(f"no blocks of {block} tokens")
    if codec is None:
        raise ValueError("vectors are not compared as codes are")
    asked, lie = _query(query, codec), _tokens(tokens, codec)
    most = lie.kept[0] // block + lie.count
    found = np.empty((most + lie.count, asked.queries), np.float32)
    blocks, passages, offsets = found[:most], found[most:], np.empty(lie.count + 1, np.int64)
    failed = library().lir_block_maxima(
        *(way, helped and several_processors(), ctypes.byref(asked), ctypes.byref(lie), block),
        *(address(found), address(passages), address(offsets)),
    )
    if failed:
        raise MemoryError("no memory to compare token vectors in")
    return blocks[: offsets[-1]], passages, offsets


def _query(query: NDArray[np.float32] | Digits, codec: TokenCodec) -> _Query:
    """What the library calls a query."""
    blank = _blank(codec)
    asked = _Query.from_buffer_copy(blank)
    asked.queries = len(query)
    if isinstance(query, Digits):
        values, scales = np.ascontiguousarray(query.values, np.int8), np.ascontiguousarray(query.scales, np.float32)
        require(values, (asked.queries, depth(codec.bits, codec.width)))
        require(scales, (asked.queries,))
        asked.digits, asked.scales, asked.kept = address(values), address(scales), (blank, values, scales)
    else:
        vectors = np.ascontiguousarray(query, np.float32)
        require(vectors, (asked.queries, codec.dim))
        asked.vectors, asked.kept = address(vectors), (blank, vectors)
    return asked


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
        require(addresses, lengths.shape)
        lie = _Tokens(address(addresses), address(lengths), None, None, len(lengths))
        lie.kept = int(lengths.sum()), addresses, lengths
        return lie
    codes, offsets = np.ascontiguousarray(tokens.data, np.uint8), np.ascontiguousarray(tokens.offsets, np.int64)
    lie = _Tokens(None, None, address(codes), address(offsets), len(tokens))
    lie.kept = int(offsets[-1]), codes, offsets
    require(codes, (lie.kept[0], codec.width))
    return lie


@functools.cache
def _rotation(dim: int) -> _Rotation:
    """The rotation in 16 bits. It keeps what it points to."""
    matrix = rotation(dim)
    largest = 127 * 256  # so that the upper byte is 127 at most
    worth = float(np.abs(matrix).max()) / largest
    columns, rows = -(-dim // _SHARE) * _SHARE, -(-dim // LANE) * LANE
    units = np.zeros((columns, rows), np.int32)
    units[:dim, :dim] = np.rint(matrix.T / worth)
    upper = (units + 128) >> 8
    parts = np.stack([upper, units - 256 * upper]).astype(np.int8)
    tiled = parts.reshape(2, columns // _TILE, _TILE, rows // 4, 4).transpose(0, 1, 3, 2, 4)
    plain, tiled, sums = aligned(parts), aligned(tiled), aligned(parts.sum(axis=2, dtype=np.int32))
    found = _Rotation(worth=worth)
    for name, values in (("plain", plain), ("tiled", tiled), ("sums", sums)):
        setattr(found, name, (ctypes.c_void_p * 2)(*(address(part) for part in values)))
    found.kept = plain, tiled, sums
    return found
