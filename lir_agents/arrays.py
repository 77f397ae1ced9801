"""Arrays that travel between rooms: token matrices packed without padding, and what an encoder returns."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lir_agents.codes import TokenCodec

__all__ = ["Encoding", "LentTokens", "PackedTokens", "RowMask", "Rows"]

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
        data: uint8 [total_tokens, codec.width] codes, or float32 [total_tokens, dim] vectors.
        offsets: int64 [n + 1]; passage i is `data[offsets[i]:offsets[i + 1]]`. A passage without tokens
            (missing from the store) has an empty range.
        codec: What the codes mean; None for float32 vectors.
    """

    data: NDArray[np.uint8] | NDArray[np.float32]
    offsets: NDArray[np.int64]
    codec: TokenCodec | None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens per passage, int64 [n]."""
        return np.diff(self.offsets)

    @classmethod
    def pack(cls, matrices: Sequence[NDArray[Any]], codec: TokenCodec | None) -> PackedTokens:
        """Lays matrices end to end: codes [n_i, codec.width] with their codec, or float32 [n_i, dim] vectors.

        Raises:
            ValueError: The list is empty: there is no width to give an empty pack.
        """
        if not matrices:
            raise ValueError("nothing to pack")
        offsets = np.cumsum([0, *map(len, matrices)]).astype(np.int64)
        data = np.concatenate(matrices)
        return cls(data.astype(np.float32, copy=False) if codec is None else data, offsets, codec)


@dataclass(frozen=True, slots=True)
class LentTokens:
    """Where the codes of n passages lie, in memory that somebody else holds for as long as they are lent.

    Attributes:
        addresses: int64 [n], of each passage's first byte.
        lengths: int64 [n], tokens of each; 0 where there are none, and then no address counts.
        codec: What the codes mean.
    """

    addresses: NDArray[np.int64]
    lengths: NDArray[np.int64]
    codec: TokenCodec

    def __len__(self) -> int:
        return len(self.lengths)

    def copied(self) -> PackedTokens:
        """The same codes in memory of their own, end to end."""
        places = zip(self.addresses.tolist(), (self.lengths * self.codec.width).tolist(), strict=True)
        data = bytearray().join(ctypes.string_at(address, size) for address, size in places if size)
        codes = np.frombuffer(data, np.uint8).reshape(-1, self.codec.width)
        return PackedTokens(codes, np.cumsum([0, *self.lengths.tolist()]).astype(np.int64), self.codec)
