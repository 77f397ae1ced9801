"""Similarities of every query token with every packed passage token: the inner product that MaxSim maximises.

Two kernels give the same ranking. `exact` multiplies in float32 and is the reference. `int8` multiplies the
stored bytes as they lie, with the query quantised likewise, where the processor multiplies bytes natively
(VNNI, AMX); its error is that of rounding each query element to 1/127 of the largest.
"""

from __future__ import annotations

import functools
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from lir_agents.arrays import PackedTokens
from lir_agents.ranking.quantise import quantise_int8

__all__ = ["Kernel", "best_kernel", "similarities"]

Kernel: TypeAlias = Literal["exact", "int8"]

_LEAST_INT8_DIM = 16
"""Below this width the byte product gains nothing, and at width 1 torch 2.13's `_int_mm` returns garbage."""

_CHUNK_TOKENS = 65_536
"""Tokens turned to float32 at a time by the exact kernel: bounds its memory to about 100 MB at 384 dims."""


@functools.cache
def best_kernel() -> Kernel:
    """The fastest kernel that this processor runs natively, chosen once per process."""
    return "int8" if torch.cpu._is_vnni_supported() else "exact"


def similarities(
    query: NDArray[np.float32], packed: PackedTokens, kernel: Kernel | None = None
) -> NDArray[np.float32]:
    """Inner products of query tokens and packed tokens.

    Args:
        query: float32 [q_len, dim], rows L2-normalised.
        packed: Passages of the same dim.
        kernel: Which kernel; None for the fastest here.

    Returns:
        float32 [q_len, total_tokens], cosines in [-1, 1] up to rounding.
    """
    if packed.data.dtype == np.float32:
        return np.asarray(query @ packed.data.T, dtype=np.float32)
    if (kernel or best_kernel()) == "int8" and query.shape[1] >= _LEAST_INT8_DIM:
        return _int8(query, packed)
    return _exact(query, packed)


def _exact(query: NDArray[np.float32], packed: PackedTokens) -> NDArray[np.float32]:
    out = np.empty((len(query), len(packed.data)), np.float32)
    for start in range(0, len(packed.data), _CHUNK_TOKENS):
        stop = start + _CHUNK_TOKENS
        np.matmul(query, packed.data[start:stop].astype(np.float32).T, out=out[:, start:stop])
    out *= packed.scales
    return out


def _int8(query: NDArray[np.float32], packed: PackedTokens) -> NDArray[np.float32]:
    data, scales = quantise_int8(query)
    # Tall times thin is the shape oneDNN multiplies fastest; the transposed view of its result is free.
    product = torch._int_mm(torch.from_numpy(packed.data), torch.from_numpy(data).T)
    out = product.T.to(torch.float32).contiguous()
    out *= torch.from_numpy(packed.scales)
    out *= torch.from_numpy(scales)[:, None]
    result: NDArray[np.float32] = out.numpy()
    return result
