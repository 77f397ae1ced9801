"""How one passage lies in the token store: bytes in, arrays out, and what tells a damaged value.

A token value is ``header | scales float32 [n] | data int8 [n, token_dim]`` with the header
``magic | token_dim | row | n | crc32 of the rest``. A pooled value is ``crc32 | float16 [dense_dim]``: float16
moves no component by more than 2^-12 of it; brought back to unit length on reading, cosines move by less than 1e-4.
All numbers are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import PackedTokens, Rows
from lir_agents.errors import InputError, IntegrityError

__all__ = ["TokenLayout", "damaged"]

_HEADER = struct.Struct("<4sIQII")
_MAGIC = b"LIRT"
_CRC = struct.Struct("<I")
_SCALE_BYTES = 4
_HALF_BYTES = 2


def damaged(rows: Sequence[int]) -> IntegrityError:
    """The error that names damaged rows."""
    named = ", ".join(str(row) for row in rows[:10]) + (", …" if len(rows) > 10 else "")
    return IntegrityError(
        f"the token store holds damaged entries for rows {named}",
        remedy="Delete these rows from the store and encode their passages again.",
    )


@dataclass(frozen=True, slots=True)
class TokenLayout:
    """The bytes of one passage. Widths are numbers of components."""

    token_dim: int
    dense_dim: int

    # ------------------------------------------------------------ tokens

    def pack(self, row: int, data: NDArray[np.int8], scales: NDArray[np.float32]) -> bytes:
        """data: int8 [n, token_dim], scales: float32 [n]; the value to store under `row`."""
        body = scales.astype("<f4", copy=False).tobytes() + data.tobytes()
        return _HEADER.pack(_MAGIC, self.token_dim, row, len(data), crc32(body)) + body

    def length(self, row: int, value: memoryview | None) -> int:
        """Tokens in a value, 0 where there is none; everything but the checksum is verified.

        Raises:
            IntegrityError: The value is not one of this row and width.
        """
        if value is None:
            return 0
        if len(value) >= _HEADER.size:
            magic, width, owner, count, _ = _HEADER.unpack_from(value)
            size = _HEADER.size + count * (_SCALE_BYTES + width)
            if magic == _MAGIC and width == self.token_dim and owner == row and size == len(value):
                return int(count)
        raise damaged([row])

    def whole(self, row: int, value: memoryview) -> bool:
        """Whether a token value is exactly what `pack` made."""
        try:
            self.length(row, value)
        except IntegrityError:
            return False
        return bool(_HEADER.unpack_from(value)[-1] == crc32(value[_HEADER.size :]))

    def unpack(self, rows: Rows, values: Sequence[memoryview | None], multiple: int = 1) -> PackedTokens:
        """Lays values end to end, each byte copied once; None gives an empty range.

        Args:
            rows: int64 [n].
            values: What is stored under each.
            multiple: Repeats the last token of each passage until their number is a multiple of this.
        """
        lengths = [self.length(row, value) for row, value in zip(rows.tolist(), values, strict=True)]
        data: list[bytes | memoryview] = []
        scales: list[bytes | memoryview] = []
        ends = [0]
        for value, count in zip(values, lengths, strict=True):
            if value is not None:
                split = _HEADER.size + count * _SCALE_BYTES
                scales.append(value[_HEADER.size : split])
                data.append(value[split:])
                if more := -count % multiple:
                    scales.append(bytes(value[split - _SCALE_BYTES : split]) * more)
                    data.append(bytes(value[-self.token_dim :]) * more)
                count += more
            ends.append(ends[-1] + count)
        # Joining more than a megabyte lets other threads run meanwhile, which copying piece by piece would not.
        return PackedTokens(
            np.frombuffer(bytearray().join(data), np.int8).reshape(-1, self.token_dim),
            np.frombuffer(bytearray().join(scales), "<f4"),
            np.array(ends, np.int64),
        )

    # ------------------------------------------------------------ pooled

    def pack_pooled(self, vector: NDArray[np.float16]) -> bytes:
        """vector: float16 [dense_dim]."""
        body = vector.astype("<f2", copy=False).tobytes()
        return _CRC.pack(crc32(body)) + body

    def intact_pooled(self, value: memoryview) -> bool:
        """Whether a pooled value is exactly what `pack_pooled` made."""
        expected = _CRC.size + _HALF_BYTES * self.dense_dim
        return len(value) == expected and bool(_CRC.unpack_from(value)[0] == crc32(value[_CRC.size :]))

    def unpack_pooled(self, rows: Rows, values: Sequence[memoryview | None]) -> NDArray[np.float32]:
        """float32 [n, dense_dim], L2-normalised; zeros where a value is None.

        Raises:
            IntegrityError: A value fails its checksum.
        """
        for row, value in zip(rows.tolist(), values, strict=True):
            if value is not None and not self.intact_pooled(value):
                raise damaged([row])
        size = _HALF_BYTES * self.dense_dim
        absent = bytes(_CRC.size + size)
        packed = b"".join([absent if value is None else value for value in values])
        table = np.frombuffer(packed, np.uint8).reshape(len(values), _CRC.size + size)
        vectors = np.ascontiguousarray(table[:, _CRC.size :]).view("<f2").astype(np.float32)
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
        if tokens.data.dtype != np.int8 or tokens.data.ndim != 2 or tokens.data.shape[1] != self.token_dim:
            raise InputError(
                f"is {tokens.data.dtype} {list(tokens.data.shape)}",
                field="tokens.data",
                remedy=f"This store holds int8 [total, {self.token_dim}]; quantise first.",
            )
        lengths = tokens.lengths
        if len(lengths) != len(rows) or (lengths < 1).any() or int(tokens.offsets[-1]) != len(tokens.data):
            raise InputError("wants one part of at least one token per row", field="tokens.offsets")
        if tokens.scales.shape != (len(tokens.data),) or not np.isfinite(tokens.scales).all():
            raise InputError("wants one finite scale per token", field="tokens.scales")
        if pooled.shape != (len(rows), self.dense_dim) or not np.isfinite(pooled).all():
            raise InputError(
                f"is {list(pooled.shape)}", field="pooled", remedy=f"Pass finite [{len(rows)}, {self.dense_dim}]."
            )
