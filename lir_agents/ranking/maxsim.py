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
from numpy.typing import NDArray

from lir_agents.arrays import LentTokens, PackedTokens
from lir_agents.ranking.kernels import Kernel, block_maxima
from lir_agents.threads import product

__all__ = ["ABSENT", "BLOCK_TOKENS", "Maxima", "maxsim", "meet"]

ABSENT: Final = np.float32(-1.0)
"""What a passage without stored tokens gets for every query token: the least a cosine can be."""

BLOCK_TOKENS: Final = 24
"""Tokens of a block, about a sentence; 16 does as well, 8 and 48 less (nDCG@10 over the open sets)."""


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


def meet(query: NDArray[np.float32], tokens: PackedTokens | LentTokens, *, kernel: Kernel | None = None) -> Maxima:
    """Lets every query token look for its like in every passage.

    Args:
        query: float32 [q_len, dim], rows L2-normalised.
        tokens: n passages of the same dim. Codes are read where they lie; nothing is copied.
        kernel: See `ranking.kernels`.
    """
    counts = -(-tokens.lengths // BLOCK_TOKENS)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    if len(query) == 0 or offsets[-1] == 0:
        return Maxima(np.zeros((int(offsets[-1]), len(query)), np.float32), offsets)
    return Maxima(block_maxima(query, tokens, BLOCK_TOKENS, kernel), offsets)


def maxsim(
    query: NDArray[np.float32],
    tokens: PackedTokens | LentTokens,
    weights: NDArray[np.float32] | None = None,
    *,
    kernel: Kernel | None = None,
) -> NDArray[np.float32]:
    """`meet(query, tokens).maxsim(weights)`: the MaxSim score of each passage, float32 [n]."""
    return meet(query, tokens, kernel=kernel).maxsim(weights)
