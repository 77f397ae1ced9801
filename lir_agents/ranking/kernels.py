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

__all__ = ["Kernel", "QueryTokens", "best_kernel", "similarities"]

Kernel: TypeAlias = Literal["exact", "int8"]

_LEAST_INT8_DIM = 16
"""Below this width the byte product gains nothing, and at width 1 torch 2.13's `_int_mm` returns garbage."""

_STEP = 8
"""Columns of the product come in multiples of this, so that all that is done with them fills vector registers."""


@functools.cache
def best_kernel() -> Kernel:
    """The fastest kernel that this processor runs natively, chosen once per process."""
    return "int8" if torch.cpu._is_vnni_supported() else "exact"


class QueryTokens:
    """A query made ready for its kernel once, to be multiplied with any number of packs.

    Args:
        query: float32 [q_len, dim], rows L2-normalised.
        kernel: Which kernel; None for the fastest here.
    """

    def __init__(self, query: NDArray[np.float32], kernel: Kernel | None = None) -> None:
        rows = np.zeros((-(-len(query) // _STEP) * _STEP, query.shape[1]), np.float32)
        rows[: len(query)] = query
        self._exact = torch.from_numpy(rows).T
        self._digits: torch.Tensor | None = None
        self._scales = torch.ones(len(rows))
        if (kernel or best_kernel()) == "int8" and query.shape[1] >= _LEAST_INT8_DIM:
            digits, scales = quantise_int8(rows)
            scales[scales == 0] = 1
            self._digits, self._scales = torch.from_numpy(digits).T.contiguous(), torch.from_numpy(scales)

    def products(self, data: NDArray[np.int8] | NDArray[np.float32]) -> torch.Tensor:
        """Products with stored rows before any scale: to be compared within rows of one scale.

        Args:
            data: [n, dim].

        Returns:
            int32 or float32 [n, width]. A row per stored row, as they lie, because transposing costs more than the
            product. The first q_len columns are those of the query, the others are 0.
        """
        if self._digits is None:
            return torch.from_numpy(data).to(torch.float32) @ self._exact
        if data.dtype != np.int8:  # rows that were never rounded: nor is the query
            return (torch.from_numpy(data) @ self._exact).div_(self._scales)
        return torch._int_mm(torch.from_numpy(data), self._digits)

    def scaled(self, products: torch.Tensor, row_scales: NDArray[np.float32]) -> torch.Tensor:
        """Similarities, float32 [n, width], of products and the scales of their rows, float32 [n]."""
        return products.to(torch.float32).mul_(torch.from_numpy(row_scales)[:, None]).mul_(self._scales)


def similarities(query: NDArray[np.float32], packed: PackedTokens, kernel: Kernel | None = None) -> torch.Tensor:
    """Inner products of packed tokens and query tokens.

    Args:
        query: float32 [q_len, dim], rows L2-normalised.
        packed: Passages of the same dim.
        kernel: Which kernel; None for the fastest here.

    Returns:
        float32 [total_tokens, width], cosines in [-1, 1] up to rounding; see `QueryTokens.products`.
    """
    tokens = QueryTokens(query, kernel)
    return tokens.scaled(tokens.products(packed.data), packed.scales)
