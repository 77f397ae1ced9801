"""Token vectors in one byte per dimension: symmetric int8 with one scale per vector."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import PackedTokens

__all__ = ["dequantise", "pack", "quantise_int8"]


def quantise_int8(tokens: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantises each row by its largest magnitude.

    Args:
        tokens: float32 [n, dim].

    Returns:
        int8 [n, dim] in [-127, 127] and float32 scales [n], so that `data * scales[:, None]` is within half a
        scale of the input, element by element. A row of zeros gets scale 0.
    """
    scales = np.abs(tokens).max(axis=1, initial=0.0).astype(np.float32) / np.float32(127)
    safe = np.where(scales > 0, scales, np.float32(1))
    return np.rint(tokens / safe[:, None]).astype(np.int8), scales


def dequantise(data: NDArray[np.int8], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """The float32 [n, dim] that `quantise_int8` stands for."""
    return data.astype(np.float32) * scales[:, None]


def pack(matrices: list[NDArray[np.float32]], *, quantise: bool = True) -> PackedTokens:
    """Lays float32 [n_i, dim] matrices end to end, as int8 with scales or as they are.

    Raises:
        ValueError: The list is empty: there is no width to give an empty pack.
    """
    if not matrices:
        raise ValueError("nothing to pack")
    lengths = [len(matrix) for matrix in matrices]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = np.concatenate(matrices).astype(np.float32, copy=False)
    if not quantise:
        return PackedTokens(data=tokens, scales=np.ones(len(tokens), np.float32), offsets=offsets)
    data, scales = quantise_int8(tokens)
    return PackedTokens(data=data, scales=scales, offsets=offsets)
