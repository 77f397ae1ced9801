"""Arrays that travel between rooms: token matrices packed without padding, and what an encoder returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Encoding", "PackedTokens", "RowMask", "Rows"]

Rows: TypeAlias = NDArray[np.int64]
"""Catalog row numbers of passages, int64 [n]."""

RowMask: TypeAlias = NDArray[np.bool_]
"""A set of passages as a bitmap over catalog rows, bool [max_row + 1]. A search is an intersection of such
masks: what is live (or was, at a time), what the principal may read, what the filter asks for."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """One text, encoded by one forward pass.

    Attributes:
        pooled: float32 [dense_dim], L2-normalised: the vector of the whole text.
        tokens: float32 [n, token_dim], rows L2-normalised: one vector per kept token, n >= 1.
        spans: int32 [n, 2], character offsets (start, end) of each kept token in the encoded text; (0, 0)
            where a token stands for no characters (a marker, an expansion token).
    """

    pooled: NDArray[np.float32]
    tokens: NDArray[np.float32]
    spans: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class PackedTokens:
    """The token matrices of n passages, laid end to end; nothing is padded.

    Attributes:
        data: int8 or float32 [total_tokens, dim]; int8 rows are `round(row / scale)`.
        scales: float32 [total_tokens], the scale of each int8 row; all ones for float32 data.
        offsets: int64 [n + 1]; passage i is `data[offsets[i]:offsets[i + 1]]`. A passage without tokens
            (missing from the store) has an empty range.
    """

    data: NDArray[np.int8] | NDArray[np.float32]
    scales: NDArray[np.float32]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens per passage, int64 [n]."""
        return np.diff(self.offsets)

    @classmethod
    def concatenate(cls, parts: Sequence[PackedTokens]) -> PackedTokens:
        """Lays several packs end to end. Raises ValueError on an empty sequence."""
        lengths = np.concatenate([part.lengths for part in parts])
        return cls(
            data=np.concatenate([part.data for part in parts]),
            scales=np.concatenate([part.scales for part in parts]),
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        )
