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

_STEP = 8
"""Columns of the product come in multiples of this, so that all that is done with them fills vector registers."""


@functools.cache
def best_kernel() -> Kernel:
    """The fastest kernel that this processor runs natively, chosen once per process."""
    return "int8" if torch.cpu._is_vnni_supported() else "exact"


def similarities(query: NDArray[np.float32], packed: PackedTokens, kernel: Kernel | None = None) -> torch.Tensor:
    """Inner products of packed tokens and query tokens.

    Args:
        query: float32 [q_len, dim], rows L2-normalised.
        packed: Passages of the same dim.
        kernel: Which kernel; None for the fastest here.

    Returns:
        float32 [total_tokens, width], cosines in [-1, 1] up to rounding. A row per passage token, as they lie,
        because transposing costs more than the product. The first q_len columns are those of the query; `width` is
        the next multiple of 8, and the columns in between are 0.
    """
    rows = np.zeros((-(-len(query) // _STEP) * _STEP, query.shape[1]), np.float32)
    rows[: len(query)] = query
    quick = (kernel or best_kernel()) == "int8" and query.shape[1] >= _LEAST_INT8_DIM
    return _int8(rows, packed) if quick and packed.data.dtype == np.int8 else _exact(rows, packed)


def _exact(query: NDArray[np.float32], packed: PackedTokens) -> torch.Tensor:
    products = torch.from_numpy(packed.data).to(torch.float32) @ torch.from_numpy(query).T
    return products.mul_(torch.from_numpy(packed.scales)[:, None])


def _int8(query: NDArray[np.float32], packed: PackedTokens) -> torch.Tensor:
    data, scales = quantise_int8(query)
    products = torch._int_mm(torch.from_numpy(packed.data), torch.from_numpy(data).T).to(torch.float32)
    return products.mul_(torch.from_numpy(packed.scales)[:, None]).mul_(torch.from_numpy(scales))
