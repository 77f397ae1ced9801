"""MaxSim over packed tokens: for each query token the best passage token, averaged over the query.

Khattab and Zaharia, "ColBERT" (arXiv:2004.12832), equation 3. The mean instead of the sum keeps scores of short
and long queries on one scale; weights turn it into a weighted mean. Passages are packed, never padded: padding
with zeros would win wherever every similarity is negative.

A long passage collects matches by chance, each query word meeting a different corner of it. So the product's score
reads the same maxima at a second scale: the MaxSim of the best *block*, a stretch of 24 tokens, where the words of
the query meet together (evidence at the level of passages: Callan, SIGIR 1994). What it adds: docs/tuning.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from lir_agents.arrays import PackedTokens
from lir_agents.ranking.kernels import Kernel, QueryTokens
from lir_agents.threads import alone, product

__all__ = ["ABSENT", "BLOCK_TOKENS", "Maxima", "maxsim", "meet"]

ABSENT: Final = np.float32(-1.0)
"""What a passage without stored tokens gets for every query token: the least a cosine can be."""

BLOCK_TOKENS: Final = 24
"""Tokens of a block, about a sentence; 16 does as well, 8 and 48 less (nDCG@10 over the open sets)."""


_AT_ONCE: Final = 2048 * BLOCK_TOKENS
"""Tokens multiplied at a time: bounds the memory of the products, and so few are for one thread. Smaller parts stay
in a core's own cache, but every call takes the interpreter back, and threads that search wait for each other."""


@dataclass(frozen=True, slots=True)
class Maxima:
    """What query tokens found in n passages: the largest similarity of each within each block.

    Attributes:
        blocks: float32 [m, q_len] in [-1, 1]; the blocks of a passage lie side by side, the last may be short.
        offsets: int64 [n + 1]; passage i has the blocks `offsets[i]:offsets[i + 1]`, none where it has no tokens.
    """

    blocks: NDArray[np.float32]
    offsets: NDArray[np.int64]

    def of(self, tokens: slice) -> Maxima:
        """The same for some of the query's tokens."""
        return Maxima(self.blocks[:, tokens], self.offsets)

    @property
    def passages(self) -> NDArray[np.float32]:
        """The largest similarity of each query token within each passage: float32 [n, q_len]."""
        return self._largest(self.blocks)

    def maxsim(self, weights: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """The (weighted) mean of what each token found in a passage.

        Args:
            weights: float32 [q_len], >= 0; None or all zero for equal weights.

        Returns:
            float32 [n] in [-1, 1]: `maxsim_score` as the paper has it.
        """
        return self._mean(self.passages, weights)

    def best_block(self, weights: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """`maxsim` of the block that has the largest: float32 [n] in [-1, 1], never above `maxsim`."""
        best: NDArray[np.float32] = self._largest(self._mean(self.blocks, weights)[:, None])[:, 0]
        return best

    def score(self, weights: NDArray[np.float32] | None = None, *, block_share: float) -> NDArray[np.float32]:
        """`maxsim` and `best_block`, the latter with a share in [0, 1]: float32 [n] in [-1, 1]."""
        if block_share == 0:
            return self.maxsim(weights)
        both = (1 - block_share) * self.maxsim(weights) + block_share * self.best_block(weights)
        return np.asarray(both, np.float32)

    def _mean(self, maxima: NDArray[np.float32], weights: NDArray[np.float32] | None) -> NDArray[np.float32]:
        if maxima.shape[1] == 0:
            return np.zeros(len(maxima), np.float32)
        if weights is None or not np.any(weights > 0):
            return np.asarray(maxima.mean(axis=1), np.float32)
        return product(maxima, (weights / weights.sum()).astype(np.float32))

    def _largest(self, of_blocks: NDArray[np.float32]) -> NDArray[np.float32]:
        out = np.full((len(self.offsets) - 1, of_blocks.shape[1]), ABSENT, np.float32)
        # Empty ranges share their start with the next passage: leaving them out keeps every segment exact.
        present = np.flatnonzero(np.diff(self.offsets) > 0)
        if len(present) and of_blocks.shape[1]:
            out[present] = np.maximum.reduceat(of_blocks, self.offsets[present], axis=0)
        return out


def meet(query: NDArray[np.float32], packed: PackedTokens, *, kernel: Kernel | None = None) -> Maxima:
    """Lets every query token look for its like in every passage.

    Args:
        query: float32 [q_len, dim], rows L2-normalised.
        packed: n passages of the same dim.
        kernel: See `QueryTokens`.

    Fastest where a passage has one scale and a number of tokens that is a multiple of `BLOCK_TOKENS`, as the token
    store gives it: then nothing is copied, and only the maxima are scaled.
    """
    tokens = QueryTokens(query, kernel)
    counts = -(-packed.lengths // BLOCK_TOKENS)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    if len(query) == 0 or offsets[-1] == 0:
        return Maxima(np.zeros((int(offsets[-1]), len(query)), np.float32), offsets)
    # A short block repeats its last token, which changes no maximum and makes all blocks alike.
    members = None if len(packed.data) == offsets[-1] * BLOCK_TOKENS else _members(packed, counts)
    scales = packed.scales if members is None else packed.scales[members]
    with alone(len(scales) <= _AT_ONCE):
        blocks = [
            _block_maxima(tokens, packed.data, scales[at : at + _AT_ONCE], at, members)
            for at in range(0, len(scales), _AT_ONCE)
        ]
    return Maxima(torch.cat(blocks).numpy()[:, : len(query)], offsets)


def _block_maxima(
    tokens: QueryTokens,
    data: NDArray[np.int8] | NDArray[np.float32],
    scales: NDArray[np.float32],
    at: int,
    members: NDArray[np.int64] | None,
) -> torch.Tensor:
    """The largest similarities within each of the blocks from place `at`, float32 [blocks, width]."""
    some = slice(at, at + len(scales))
    if members is None:
        products = tokens.products(data[some])
    else:
        low, high = int(members[at]), int(members[some][-1]) + 1
        products = tokens.products(data[low:high]).index_select(0, torch.from_numpy(members[some] - low))
    by_block = scales.reshape(-1, BLOCK_TOKENS)
    if (by_block == by_block[:, :1]).all():  # of one scale: the largest product is the largest similarity
        largest = products.view(len(by_block), BLOCK_TOKENS, -1).amax(1)
        return tokens.scaled(largest, np.ascontiguousarray(by_block[:, 0]))
    return tokens.scaled(products, scales).view(len(by_block), BLOCK_TOKENS, -1).amax(1)


def _members(part: PackedTokens, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the tokens of each block lie, int64 [blocks * BLOCK_TOKENS]."""
    first = np.concatenate([[0], np.cumsum(counts)])
    within = np.arange(first[-1]) - np.repeat(first[:-1], counts)
    places = (np.repeat(part.offsets[:-1], counts) + BLOCK_TOKENS * within)[:, None] + np.arange(BLOCK_TOKENS)
    members: NDArray[np.int64] = np.minimum(places, np.repeat(part.offsets[1:], counts)[:, None] - 1).ravel()
    return members


def maxsim(
    query: NDArray[np.float32],
    packed: PackedTokens,
    weights: NDArray[np.float32] | None = None,
    *,
    kernel: Kernel | None = None,
) -> NDArray[np.float32]:
    """`meet(query, packed).maxsim(weights)`: the MaxSim score of each passage, float32 [n]."""
    return meet(query, packed, kernel=kernel).maxsim(weights)
