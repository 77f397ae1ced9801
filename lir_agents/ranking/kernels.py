"""What a query looks like to the tokens it meets, and the two ways to compare them.

`native` multiplies the stored codes as they lie with the query in int8, in compiled code (native/maxsim.c): its
error is that of rounding each query coordinate to 1/127 of the largest. `exact` unpacks the codes and multiplies in
float32 with torch: the reference, and what is left where the package was built without a compiler, or tokens are
vectors.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import LentTokens, PackedTokens
from lir_agents.native import maxsim as native
from lir_agents.native.library import paths
from lir_agents.threads import product

__all__ = ["Kernel", "best_kernel", "block_maxima", "segment_maxima", "similarities"]

Kernel: TypeAlias = Literal["exact", "native"]

_AT_ONCE = 1 << 14
"""Tokens unpacked at a time: bounds the memory of `exact`, which needs 8 times that of 4-bit codes."""


def best_kernel() -> Kernel:
    """The fastest kernel there is here."""
    return "native" if paths() else "exact"


def block_maxima(
    query: NDArray[np.float32], tokens: PackedTokens | LentTokens, block: int, kernel: Kernel | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """The largest similarity of each query token within each block, and within each whole passage.

    Args:
        query: float32 [q_len, dim], rows L2-normalised, q_len >= 1.
        tokens: n passages of the same dim.
        block: Tokens of a block, the last one of a passage may be shorter: 8, 16, 24 or 48.
        kernel: Which kernel; None for the fastest here. Vectors that are no codes are always compared exactly.

    Returns:
        float32 [blocks, q_len], cosines in [-1, 1] up to rounding; float32 [n, q_len], -1 where a passage has no
        tokens; and int64 [n + 1]: passage i, of m tokens, has the ceil(m / block) blocks from `[i]` to `[i + 1]`.
    """
    if tokens.codec is not None and (kernel or best_kernel()) == "native":
        return native.block_maxima(tokens, query, block)
    packed = tokens.copied() if isinstance(tokens, LentTokens) else tokens
    counts = -(-packed.lengths // block)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    if not offsets[-1]:
        return np.empty((0, len(query)), np.float32), np.full((len(counts), len(query)), -1, np.float32), offsets
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
    starts = np.repeat(packed.offsets[:-1], counts) + block * within
    blocks = np.maximum.reduceat(similarities(query, packed), starts, axis=0)
    return blocks, segment_maxima(blocks, offsets, -1.0), offsets


def segment_maxima(values: NDArray[np.float32], offsets: NDArray[np.int64], absent: float) -> NDArray[np.float32]:
    """The largest of `values[offsets[i]:offsets[i + 1]]` along the first axis, `absent` where there are none."""
    out = np.full((len(offsets) - 1, *values.shape[1:]), absent, np.float32)
    # Empty ranges share their start with the next one: leaving them out keeps every segment exact.
    present = np.flatnonzero(np.diff(offsets) > 0)
    if len(present):
        out[present] = np.maximum.reduceat(values, offsets[present], axis=0)
    return out


def similarities(query: NDArray[np.float32], packed: PackedTokens) -> NDArray[np.float32]:
    """Inner products of packed tokens and query tokens, in float32.

    Args:
        query: float32 [q_len, dim], rows L2-normalised.
        packed: Passages of the same dim.

    Returns:
        float32 [total_tokens, q_len], cosines in [-1, 1] up to rounding.
    """
    if packed.codec is None:
        return product(packed.data, query.T)
    turned, codes = packed.codec.rotate(query).T, np.asarray(packed.data, np.uint8)
    starts = range(0, max(1, len(codes)), _AT_ONCE)
    parts = (packed.codec.unpack(codes[at : at + _AT_ONCE]) for at in starts)
    return np.concatenate([product(part, turned) for part in parts])
