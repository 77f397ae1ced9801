"""Vectors in one byte per dimension: symmetric int8 with a scale, one per vector or one for all of a passage."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import PackedTokens

__all__ = ["dequantise", "pack", "quantise_int8", "quantise_matrix"]


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


def quantise_matrix(tokens: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantises the rows of one passage alike, by the largest magnitude among them.

    Similarities of one passage can then be compared as integers, and only the largest have to be scaled. What the
    common scale costs in precision is little, because the rows have one length.

    Args:
        tokens: float32 [n, dim].

    Returns:
        As `quantise_int8`; all n scales are equal.
    """
    scale = np.abs(tokens).max(initial=0.0).astype(np.float32) / np.float32(127)
    return np.rint(tokens / (scale or np.float32(1))).astype(np.int8), np.full(len(tokens), scale, np.float32)


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
    if not quantise:
        tokens = np.concatenate(matrices).astype(np.float32, copy=False)
        return PackedTokens(data=tokens, scales=np.ones(len(tokens), np.float32), offsets=offsets)
    quantised = [quantise_matrix(matrix) for matrix in matrices]
    data, scales = (np.concatenate(part) for part in zip(*quantised, strict=True))
    return PackedTokens(data=data, scales=scales, offsets=offsets)
