"""MaxSim over packed tokens: for each query token the best passage token, averaged over the query.

Khattab and Zaharia, "ColBERT" (arXiv:2004.12832), equation 3. The mean instead of the sum keeps scores of short
and long queries on one scale; weights turn it into a weighted mean. Passages are packed, never padded: padding
with zeros would win wherever every similarity is negative.

A long passage collects matches by chance, each query word meeting a different corner of it. So the product's score
reads the same maxima at a second scale: the MaxSim of the best *block*, a stretch of 24 tokens, where the words of
the query meet together (evidence at the level of passages: Callan, SIGIR 1994). What it adds: docs/tuning.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import LentTokens, PackedTokens
from lir_agents.ranking.kernels import Kernel, block_maxima, segment_maxima

__all__ = ["ABSENT", "BLOCK_TOKENS", "Maxima", "maxsim", "meet"]

ABSENT: Final = np.float32(-1.0)
"""What a passage without stored tokens gets for every query token: the least a cosine can be."""

BLOCK_TOKENS: Final = 24
"""Tokens of a block, about a sentence; 16 does as well, 8 and 48 less (nDCG@10 over the open sets)."""


@dataclass(frozen=True, slots=True)
class Maxima:
    """What query tokens found in n passages: the largest similarity of each.

    Attributes:
        passages: float32 [n, q_len] in [-1, 1], within each passage; `ABSENT` where it has no tokens.
        blocks: float32 [m, q_len], within each block; the blocks of a passage lie side by side, the last may be
            short. Both may be views of one array.
        offsets: int64 [n + 1]; passage i has the blocks `offsets[i]:offsets[i + 1]`, none where it has no tokens.
    """

    passages: NDArray[np.float32]
    blocks: NDArray[np.float32]
    offsets: NDArray[np.int64]

    @classmethod
    def concatenate(cls, parts: Sequence[Maxima]) -> Maxima:
        """The same of several packs, one after the other. Raises ValueError on an empty sequence."""
        counts = np.concatenate([np.zeros(1, np.int64), *(np.diff(part.offsets) for part in parts)])
        passages, blocks = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("passages", "blocks")
        )
        return cls(passages, blocks, np.cumsum(counts))

    def of(self, tokens: slice) -> Maxima:
        """The same for some of the query's tokens."""
        return Maxima(self.passages[:, tokens], self.blocks[:, tokens], self.offsets)

    def maxsim(self, weights: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """The (weighted) mean of what each token found in a passage.

        Args:
            weights: float32 [q_len], >= 0; None or all zero for equal weights.

        Returns:
            float32 [n] in [-1, 1]: `maxsim_score` as the paper has it.
        """
        return _mean(self.passages, weights)

    def best_block(self, weights: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """`maxsim` of the block that has the largest: float32 [n] in [-1, 1], never above `maxsim`."""
        return segment_maxima(_mean(self.blocks, weights), self.offsets, float(ABSENT))

    def score(self, weights: NDArray[np.float32] | None = None, *, block_share: float) -> NDArray[np.float32]:
        """`maxsim` and `best_block`, the latter with a share in [0, 1]: float32 [n] in [-1, 1]."""
        if block_share == 0:
            return self.maxsim(weights)
        both = (1 - block_share) * self.maxsim(weights) + block_share * self.best_block(weights)
        return np.asarray(both, np.float32)


def _mean(maxima: NDArray[np.float32], weights: NDArray[np.float32] | None) -> NDArray[np.float32]:
    if maxima.shape[1] == 0:
        return np.zeros(len(maxima), np.float32)
    total = 0.0 if weights is None else float(weights.sum())
    if weights is None or not total:
        return np.asarray(np.add.reduce(maxima, axis=1) * np.float32(1 / maxima.shape[1]))
    # Not `@`: for some thousand numbers BLAS wakes its threads up.
    return np.asarray(np.einsum("ij,j->i", maxima, (weights / total).astype(np.float32)))


def meet(query: NDArray[np.float32], tokens: PackedTokens | LentTokens, *, kernel: Kernel | None = None) -> Maxima:
    """Lets every query token look for its like in every passage.

    Args:
        query: float32 [q_len, dim], rows L2-normalised.
        tokens: n passages of the same dim. Codes are read where they lie; nothing is copied.
        kernel: See `ranking.kernels`.
    """
    if len(query) == 0:
        offsets = np.cumsum([0, *-(-tokens.lengths // BLOCK_TOKENS)], dtype=np.int64)
        return Maxima(np.zeros((len(tokens), 0), np.float32), np.zeros((offsets[-1], 0), np.float32), offsets)
    blocks, passages, offsets = block_maxima(query, tokens, BLOCK_TOKENS, kernel)
    return Maxima(passages, blocks, offsets)


def maxsim(
    query: NDArray[np.float32],
    tokens: PackedTokens | LentTokens,
    weights: NDArray[np.float32] | None = None,
    *,
    kernel: Kernel | None = None,
) -> NDArray[np.float32]:
    """`meet(query, tokens).maxsim(weights)`: the MaxSim score of each passage, float32 [n]."""
    return meet(query, tokens, kernel=kernel).maxsim(weights)
