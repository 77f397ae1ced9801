"""MaxSim over packed tokens: for each query token the best passage token, averaged over the query.

Khattab and Zaharia, "ColBERT" (arXiv:2004.12832), equation 3. The mean instead of the sum keeps scores of short
and long queries on one scale; weights turn it into a weighted mean. Passages are packed, never padded: padding
with zeros would win wherever every similarity is negative.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import PackedTokens
from lir_agents.ranking.kernels import Kernel, similarities

__all__ = ["ABSENT", "maxsim", "token_maxima", "weigh"]

ABSENT = np.float32(-1.0)
"""What a passage without stored tokens gets for every query token: the least a cosine can be."""


def token_maxima(
    query: NDArray[np.float32], packed: PackedTokens, *, kernel: Kernel | None = None
) -> NDArray[np.float32]:
    """For each query token, its largest similarity within each passage.

    Args:
        query: float32 [q_len, dim], rows L2-normalised, q_len >= 1.
        packed: n passages of the same dim.
        kernel: See `similarities`.

    Returns:
        float32 [q_len, n] in [-1, 1]; `ABSENT` for a passage without tokens.
    """
    out = np.full((len(query), len(packed)), ABSENT, np.float32)
    present = np.flatnonzero(packed.lengths > 0)
    if len(present) == 0 or len(query) == 0:
        return out
    products = similarities(query, packed, kernel)
    # Empty ranges share their start with the next passage: leaving them out keeps every segment exact.
    out[:, present] = np.maximum.reduceat(products, packed.offsets[present], axis=1)
    return out


def weigh(maxima: NDArray[np.float32], weights: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """The (weighted) mean of token maxima.

    Args:
        maxima: float32 [q_len, n].
        weights: float32 [q_len], >= 0; None or all zero for equal weights.

    Returns:
        float32 [n] in [-1, 1]: `maxsim_score`.
    """
    if len(maxima) == 0:
        return np.zeros(maxima.shape[1], np.float32)
    if weights is None or not np.any(weights > 0):
        return np.asarray(maxima.mean(axis=0), np.float32)
    share = (weights / weights.sum()).astype(np.float32)
    return np.asarray(share @ maxima, np.float32)


def maxsim(
    query: NDArray[np.float32],
    packed: PackedTokens,
    weights: NDArray[np.float32] | None = None,
    *,
    kernel: Kernel | None = None,
) -> NDArray[np.float32]:
    """`weigh(token_maxima(query, packed), weights)`: the MaxSim score of each passage, float32 [n]."""
    return weigh(token_maxima(query, packed, kernel=kernel), weights)
