"""The token store: token matrices and pooled vectors by catalog row, in LMDB. Mapped, never loaded.

Two databases, both keyed by row as big-endian uint64: ``tokens`` and ``pooled`` (bytes: `TokenLayout`). Pooled
vectors lie apart so that reading all of them touches no page of the tokens.

`gather` checks every header against row and length, but computes checksums only of pooled vectors: over the tokens
of 100 passages (5.9 MB) that takes 1.6 ms where fetching them takes .65. `verify` computes every one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import PackedTokens, Rows
from lir_agents.stores.mapped import MappedFile, put_all
from lir_agents.stores.token_layout import TokenLayout, damaged

__all__ = ["LmdbTokens"]

_TOKENS, _POOLED = b"tokens", b"pooled"
_INITIAL_MAP_BYTES = 256 << 20


class LmdbTokens:
    """A `TokenStore` in one LMDB file, for any number of threads of the one process that writes. Made by `open`."""

    def __init__(self, layout: TokenLayout, file: MappedFile) -> None:
        self._layout = layout
        self._file = file

    @classmethod
    def open(
        cls,
        path: Path,
        token_dim: int,
        dense_dim: int,
        *,
        read_only: bool = False,
        map_bytes: int = _INITIAL_MAP_BYTES,
    ) -> LmdbTokens:
        """Opens the store in the directory `path`, and creates it unless `read_only`.

        Args:
            path: A directory of its own.
            token_dim: Width of a token vector.
            dense_dim: Width of a pooled vector.
            read_only: For a second process. It sees every commit of the owner but no compaction: open again
                after one.
            map_bytes: Address space to begin with, in bytes; it doubles whenever the file fills it.

        Raises:
            IntegrityError: The file is cut short, foreign, or made for other widths. It is left as it is.
            StoreError: It cannot be opened, or `read_only` was asked for and there is none.
        """
        form = {"format": 1, "codec": "int8", "token_dim": token_dim, "dense_dim": dense_dim}
        file = MappedFile(
            Path(path),
            store="tokens",
            databases=(_TOKENS, _POOLED),
            form=form,
            read_only=read_only,
            map_bytes=map_bytes,
        )
        return cls(TokenLayout(token_dim, dense_dim), file)

    # ------------------------------------------------------------ writing

    def put(self, rows: Rows, tokens: PackedTokens, pooled: NDArray[np.float32]) -> None:
        """Adds or replaces in one transaction, on disk when it returns.

        Args:
            rows: int64 [n], >= 0; of a row that comes twice the last stays.
            tokens: int8 data [total, token_dim] with scales, one part of at least one token per row.
            pooled: float32 [n, dense_dim], L2-normalised.

        Raises:
            InputError: Shapes, dtypes or values do not fit the store.
            StoreError: The transaction could not be committed; nothing of it is visible.
        """
        self._layout.check(rows, tokens, pooled)
        keys, numbers, bounds = _keys(rows), rows.tolist(), tokens.offsets.tolist()
        order = np.argsort(rows, kind="stable").tolist()
        data, halves = np.asarray(tokens.data, np.int8), pooled.astype(np.float16)

        def matrix(i: int) -> bytes:
            part = slice(bounds[i], bounds[i + 1])
            return self._layout.pack(numbers[i], data[part], tokens.scales[part])

        def change(txn: Any, databases: dict[bytes, Any]) -> None:
            put_all(txn, databases[_TOKENS], ((keys[i], matrix(i)) for i in order))
            put_all(txn, databases[_POOLED], ((keys[i], self._layout.pack_pooled(halves[i])) for i in order))

        self._file.write("put", change)

    def delete(self, rows: Rows) -> None:
        """Removes in one transaction; unknown rows are ignored. Their bytes leave the file with `compact`."""
        keys = _keys(rows)

        def change(txn: Any, databases: dict[bytes, Any]) -> None:
            for database in databases.values():
                for key in keys:
                    txn.delete(key, db=database)

        self._file.write("delete", change)

    def compact(self) -> None:
        """Rewrites the file so that nothing deleted remains in its bytes. Reads go on meanwhile, writes wait.

        Raises:
            IntegrityError: An entry is damaged; the message names the row, the old file stays in use.
        """

        def approve(database: bytes, key: memoryview, value: memoryview) -> None:
            row = int.from_bytes(key, "big")
            if not (self._layout.whole(row, value) if database == _TOKENS else self._layout.intact_pooled(value)):
                raise damaged([row])

        self._file.compact(approve)

    def close(self) -> None:
        """Releases the file. Idempotent."""
        self._file.close()

    # ------------------------------------------------------------ reading

    def gather(self, rows: Rows, *, multiple: int = 1) -> PackedTokens:
        """All token matrices in one call, in the order asked for; a missing row has an empty range.

        Args:
            rows: int64 [n].
            multiple: Repeats the last token of each passage until their number is a multiple of this, which changes
                no maximum over tokens.

        Raises:
            IntegrityError: An entry is not what it claims to be; the message names the row.
        """
        with self._file.reading("gather") as (txn, databases):
            get, database = txn.get, databases[_TOKENS]
            return self._layout.unpack(rows, [get(key, db=database) for key in _keys(rows)], multiple)

    def pooled(self, rows: Rows) -> NDArray[np.float32]:
        """float32 [n, dense_dim], L2-normalised, in the order asked for; zeros where a row is missing.

        Raises:
            IntegrityError: A vector fails its checksum; the message names the row.
        """
        with self._file.reading("pooled") as (txn, databases):
            get, database = txn.get, databases[_POOLED]
            return self._layout.unpack_pooled(rows, [get(key, db=database) for key in _keys(rows)])

    def rows(self) -> Rows:
        """Every row held, int64, sorted."""
        with self._file.reading("rows") as (txn, databases):
            keys = b"".join(txn.cursor(databases[_POOLED]).iternext(keys=True, values=False))
        return np.frombuffer(keys, ">u8").astype(np.int64)

    def size_bytes(self) -> int:
        """Bytes of the pages that live entries occupy; free pages of the file are not counted."""
        with self._file.reading("size") as (txn, databases):
            stats = [txn.stat(database) for database in databases.values()]
        kinds = ("branch_pages", "leaf_pages", "overflow_pages")
        return int(sum(stat["psize"] * stat[kind] for stat in stats for kind in kinds))

    def verify(self) -> list[int]:
        """Reads everything and computes every checksum; writes wait meanwhile.

        Returns:
            The rows, sorted, whose entry is damaged, or that have tokens without a pooled vector or the reverse.

        Raises:
            IntegrityError: The structure of the file is damaged, so that no list of rows could be trusted.
        """
        layout = self._layout
        with self._file.unchanging(), self._file.reading("verify") as (txn, databases):
            entries = ((int.from_bytes(key, "big"), value) for key, value in txn.cursor(databases[_TOKENS]))
            matrices = {row: layout.whole(row, value) for row, value in entries}
            entries = ((int.from_bytes(key, "big"), value) for key, value in txn.cursor(databases[_POOLED]))
            vectors = {row: layout.intact_pooled(value) for row, value in entries}
        held = matrices.keys() | vectors.keys()
        return sorted(row for row in held if not (matrices.get(row, False) and vectors.get(row, False)))


def _keys(rows: Rows) -> list[bytes]:
    packed = np.asarray(rows, np.int64).astype(">u8").tobytes()
    return [packed[at : at + 8] for at in range(0, len(packed), 8)]
