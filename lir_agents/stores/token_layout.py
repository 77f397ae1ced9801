"""How passages lie in the token store: bytes in, arrays out, and what tells a damaged value.

The codes of up to a megabyte of passages lie end to end in one *segment*, because LMDB gives every large value
whole pages: alone, a passage would waste half a page. What is known of one passage is its *entry*:
``segment u4 | first u4 | count u4 | crc32 of its codes u4 | pooled vector | checksum u4``, with the pooled vector
in float16, which moves no component by more than 2^-12 of it (brought back to unit length on reading, cosines move
by less than 1e-4), or, where tokens have 2 bits, as ``scale f4 | int8 [dense_dim]``. The checksum is the crc32 of
what stands before it, XORed with the row, so that no entry passes for another's. All numbers are little-endian.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import PackedTokens, Rows
from lir_agents.codes import TokenCodec, quantise_int8
from lir_agents.errors import InputError, IntegrityError

__all__ = ["Entries", "TokenLayout", "damaged"]

Entries: TypeAlias = NDArray[Any]
"""Entries by row, structured: `segment`, `first`, `count` (0 where there is none), `codes`, `vector`, `sum`."""


def damaged(rows: Sequence[int]) -> IntegrityError:
    """The error that names damaged rows."""
    named = ", ".join(str(row) for row in rows[:10]) + (", …" if len(rows) > 10 else "")
    return IntegrityError(
        f"the token store holds damaged entries for rows {named}",
        remedy="Run `lir doctor --repair` to encode their passages again.",
    )


@dataclass(frozen=True, slots=True)
class TokenLayout:
    """The bytes of entries.

    Attributes:
        codec: Of the token vectors.
        dense_dim: Width of a pooled vector.
        dtype: An entry.
    """

    codec: TokenCodec
    dense_dim: int
    dtype: np.dtype[Any] = field(init=False)

    def __post_init__(self) -> None:
        numbers = [(name, "<u4") for name in ("segment", "first", "count", "codes")]
        compact = np.dtype([("scale", "<f4"), ("digits", "i1", self.dense_dim)])
        vector = compact if self._compact else np.dtype(("<f2", self.dense_dim))
        object.__setattr__(self, "dtype", np.dtype([*numbers, ("vector", vector), ("sum", "<u4")]))

    @property
    def _compact(self) -> bool:
        """Whether every byte counts: then pooled vectors are rounded further, too."""
        return self.codec.bits == 2

    # ------------------------------------------------------------ entries

    def drafts(self, pooled: NDArray[np.float32]) -> Entries:
        """Entries with pooled vectors, float32 [n, dense_dim], and nothing else yet."""
        entries = np.zeros(len(pooled), self.dtype)
        if self._compact:
            digits, scales = quantise_int8(pooled)
            entries["vector"]["digits"], entries["vector"]["scale"] = digits, scales
        else:
            entries["vector"] = pooled
        return entries

    def sealed(self, row: int, entry: Entries) -> bytes:
        """The value to store under `row` for entry [1], whatever checksum it had."""
        body: bytes = entry.tobytes()[:-4]
        return body + (crc32(body) ^ (row & 0xFFFFFFFF)).to_bytes(4, "little")

    def entries(self, rows: Rows, values: Sequence[memoryview | None]) -> tuple[Entries, NDArray[np.bool_]]:
        """Reads entries.

        Args:
            rows: int64 [n].
            values: What is stored under each.

        Returns:
            The entries [n], all zero where a value is None, and bool [n], which of them are not what `sealed` made.
        """
        size = self.dtype.itemsize
        absent = bytes(size)
        right = np.array([value is None or len(value) == size for value in values], bool)
        joined = b"".join([absent if value is None or len(value) != size else value for value in values])
        view = memoryview(joined)
        sums = [crc32(view[at : at + size - 4]) for at in range(0, len(joined), size)]
        found = np.frombuffer(joined, self.dtype)
        stored = np.array([value is not None for value in values], bool)
        sealed = np.array(sums, np.uint32) ^ (np.asarray(rows, np.int64) & 0xFFFFFFFF).astype(np.uint32)
        return found, stored & ~(right & (found["sum"] == sealed))

    def pooled(self, entries: Entries) -> NDArray[np.float32]:
        """float32 [n, dense_dim], L2-normalised; zeros where there is no entry."""
        vector = entries["vector"]
        vectors: NDArray[np.float32] = (vector["digits"] if self._compact else vector).astype(np.float32)
        norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        norms[norms == 0] = 1
        vectors /= norms[:, None]
        return vectors

    # ------------------------------------------------------------ input

    def check(self, rows: Rows, tokens: PackedTokens, pooled: NDArray[np.float32]) -> None:
        """What `put` accepts.

        Raises:
            InputError: Shapes, dtypes or values do not fit; names the argument.
        """
        if rows.ndim != 1 or rows.dtype.kind not in "iu" or (rows.size and int(rows.min()) < 0):
            raise InputError("wants non-negative row numbers, int64 [n]", field="rows")
        shape = tokens.data.shape
        if tokens.codec != self.codec or tokens.data.dtype != np.uint8 or shape[1:] != (self.codec.width,):
            raise InputError(
                f"is {tokens.data.dtype} {list(shape)} of {tokens.codec}",
                field="tokens.data",
                remedy=f"This store holds uint8 [total, {self.codec.width}] of {self.codec}; encode with that.",
            )
        lengths = tokens.lengths
        if len(lengths) != len(rows) or (lengths < 1).any() or int(tokens.offsets[-1]) != len(tokens.data):
            raise InputError("wants one part of at least one token per row", field="tokens.offsets")
        if pooled.shape != (len(rows), self.dense_dim) or not np.isfinite(pooled).all():
            raise InputError(
                f"is {list(pooled.shape)}", field="pooled", remedy=f"Pass finite [{len(rows)}, {self.dense_dim}]."
            )
