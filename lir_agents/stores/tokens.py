"""The token store: token codes and pooled vectors by catalog row, in LMDB. Mapped, never loaded.

Databases with numbers as big-endian uint64 for keys: ``passages`` holds an entry by row, ``segments`` the codes of
many passages end to end, ``members`` the rows of each segment (bytes: `TokenLayout`); ``state`` holds the number of
the newest segment. A segment is never changed, and its number never used again. Pooled vectors lie
in the entries, so that reading all of them touches no page of the codes.

A row that is deleted leaves a hole in its segment. The segment goes with its last row, and is written anew when
more than half of it are holes; `compact` leaves none. Reading checks every entry, and that it lies within its
segment, but not the checksums of codes: computing those of 100 passages takes longer than all the rest. `verify`
computes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import LentTokens, PackedTokens, Rows
from lir_agents.codes import TokenCodec
from lir_agents.stores.base import REBUILD
from lir_agents.stores.mapped import MappedFile, portions
from lir_agents.stores.token_entries import AT_ONCE, LookedUp
from lir_agents.stores.token_layout import Entries, TokenLayout, damaged
from lir_agents.stores.token_segments import DATABASES, PASSAGES, SEGMENT_BYTES, SEGMENTS, Change, key, keys

__all__ = ["LmdbTokens"]

_INITIAL_MAP_BYTES = 256 << 20
_SMALL_BYTES = SEGMENT_BYTES // 4
_AT_ONCE_BYTES = 16 * SEGMENT_BYTES
"""Of segments written anew in one transaction."""


class LmdbTokens:
    """A `TokenStore` in one LMDB file, for any number of threads of the one process that writes. Made by `open`."""

    def __init__(self, layout: TokenLayout, file: MappedFile) -> None:
        self._layout = layout
        self._file = file
        self._looked_up = LookedUp((-1, -1), layout.dense_dim)

    @classmethod
    def open(
        cls,
        path: Path,
        codec: TokenCodec,
        dense_dim: int,
        *,
        read_only: bool = False,
        map_bytes: int = _INITIAL_MAP_BYTES,
    ) -> LmdbTokens:
        """Opens the store in the directory `path`, and creates it unless `read_only`.

        Args:
            path: A directory of its own.
            codec: Of the token vectors.
            dense_dim: Width of a pooled vector.
            read_only: For a second process. It sees every commit of the owner but no compaction: open again
                after one.
            map_bytes: Address space to begin with, in bytes; it doubles whenever the file fills it.

        Raises:
            IntegrityError: The file is cut short, foreign, or made for something else. It is left as it is.
            StoreError: It cannot be opened, or `read_only` was asked for and there is none.
        """
        form = {"format": 2, "bits": codec.bits, "token_dim": codec.dim, "dense_dim": dense_dim}
        file = MappedFile(
            Path(path),
            store="tokens",
            databases=DATABASES,
            form=form,
            remedy=REBUILD,
            read_only=read_only,
            map_bytes=map_bytes,
        )
        return cls(TokenLayout(codec, dense_dim), file)

    @property
    def codec(self) -> TokenCodec:
        """Of the token vectors."""
        return self._layout.codec

    # ------------------------------------------------------------ writing

    def put(self, rows: Rows, tokens: PackedTokens, pooled: NDArray[np.float32]) -> None:
        """Adds or replaces in one transaction, on disk when it returns.

        Args:
            rows: int64 [n], >= 0; of a row that comes twice the last stays.
            tokens: Codes of this store's codec, one part of at least one token per row.
            pooled: float32 [n, dense_dim], L2-normalised.

        Raises:
            InputError: Shapes, dtypes or values do not fit the store.
            StoreError: The transaction could not be committed; nothing of it is visible.
        """
        self._layout.check(rows, tokens, pooled)
        drafts, bounds = self._layout.drafts(pooled), tokens.offsets.tolist()
        last = {row: i for i, row in enumerate(rows.tolist())}
        data = np.ascontiguousarray(tokens.data, np.uint8)
        drafts["codes"] = [crc32(data[start:end].data) for start, end in pairwise(bounds)]
        new = [(row, drafts[i : i + 1], data[bounds[i] : bounds[i + 1]]) for row, i in sorted(last.items())]

        def change(txn: Any, databases: dict[bytes, Any]) -> None:
            change = Change(txn, databases, self._layout)
            change.release(list(last))
            change.append(new)

        self._file.write("put", change)

    def delete(self, rows: Rows) -> None:
        """Removes in one transaction; unknown rows are ignored. Their bytes leave the file with `compact`."""

        def change(txn: Any, databases: dict[bytes, Any]) -> None:
            Change(txn, databases, self._layout).release(rows.tolist())

        self._file.write("delete", change)
        self._looked_up = LookedUp(
            (-1, -1), self._layout.dense_dim
        )  # what may be erased stays in no memory, either

    def compact(self) -> None:
        """Rewrites the file so that nothing deleted remains in its bytes. Reads go on meanwhile, writes wait.

        Raises:
            IntegrityError: An entry is damaged; the message names the row, the old file stays in use.
        """

        def renew(segments: Sequence[int]) -> None:
            self._file.write("compact", lambda txn, dbs: Change(txn, dbs, self._layout).renew(segments))

        def fill_holes() -> None:
            if wrong := self._damaged():
                raise damaged(wrong)
            for segments in self._with_holes():
                renew(segments)

        self._file.compact(prepare=fill_holes)

    def close(self) -> None:
        """Releases the file. Idempotent."""
        self._file.close()

    # ------------------------------------------------------------ reading

    @contextmanager
    def lent(self, rows: Rows) -> Iterator[LentTokens]:
        """The codes of rows where they lie in the mapped file, in the order asked for, until the context ends.

        Within it nothing else may be asked of this store by the same thread: a write that has to map the file anew
        waits until nobody reads, and whoever comes after it waits for the write.

        Args:
            rows: int64 [n]; a missing row has no tokens.

        Raises:
            IntegrityError: An entry is not what it claims to be; the message names the row.
        """
        with self._file.reading("gather") as (txn, databases):
            yield self._places(txn, databases, rows)

    def gather(self, rows: Rows) -> PackedTokens:
        """The same, copied."""
        with self.lent(rows) as tokens:
            return tokens.copied()

    def pooled(self, rows: Rows) -> NDArray[np.float32]:
        """float32 [n, dense_dim], L2-normalised, in the order asked for; zeros where a row is missing.

        Raises:
            IntegrityError: An entry fails its checksum; the message names the row.
        """
        with self._file.reading("pooled") as (txn, databases):
            known, slots = self._look_up(txn, databases, rows)
            return known.pooled.take(slots, axis=0)

    def rows(self) -> Rows:
        """Every row held, int64, sorted."""
        with self._file.reading("rows") as (txn, databases):
            numbers = b"".join(txn.cursor(databases[PASSAGES]).iternext(keys=True, values=False))
        return np.frombuffer(numbers, ">u8").astype(np.int64)

    def size_bytes(self) -> int:
        """Bytes of the pages that live entries occupy; free pages of the file are not counted."""
        with self._file.reading("size") as (txn, databases):
            stats = [txn.stat(database) for database in databases.values()]
        kinds = ("branch_pages", "leaf_pages", "overflow_pages")
        return int(sum(stat["psize"] * stat[kind] for stat in stats for kind in kinds))

    def verify(self) -> list[int]:
        """Reads everything and computes every checksum; writes wait meanwhile.

        Returns:
            The rows, sorted, whose entry or codes are damaged.

        Raises:
            IntegrityError: The structure of the file is damaged, so that no list of rows could be trusted.
        """
        with self._file.unchanging():
            return self._damaged()

    # ------------------------------------------------------------ within a transaction

    def _entries(self, txn: Any, databases: dict[bytes, Any], rows: Rows) -> Entries:
        get, database = txn.get, databases[PASSAGES]
        found, wrong = self._layout.entries(rows, [get(key, db=database) for key in keys(rows)])
        if wrong.any():
            raise damaged(np.asarray(rows)[wrong].tolist())
        return found

    def _places(self, txn: Any, databases: dict[bytes, Any], rows: Rows) -> LentTokens:
        codec = self.codec
        known, slots = self._look_up(txn, databases, rows)
        segment, first, counts = known.places.take(slots, axis=0).astype(np.int64).T
        segments, which = np.unique(segment, return_inverse=True)
        spans = self._spans(txn, databases[SEGMENTS], segments.tolist())
        starts, sizes = np.array(spans, np.int64).reshape(-1, 2)[which].T
        if (wrong := (counts > 0) & ((first + counts) * codec.width > sizes)).any():
            raise damaged(np.asarray(rows)[wrong].tolist())
        return LentTokens(starts + first * codec.width, counts, codec)

    def _spans(self, txn: Any, database: Any, segments: Sequence[int]) -> list[tuple[int, int]]:
        """Where segments begin, and how many bytes they have."""
        known = self._now(txn).spans
        for segment in segments:
            if segment not in known:
                known[segment] = _span(txn.get(key(segment), db=database))
        return [known[segment] for segment in segments]

    def _look_up(self, txn: Any, databases: dict[bytes, Any], rows: Rows) -> tuple[LookedUp, NDArray[np.intp]]:
        """What is known of rows, and in which slots."""
        known, numbers = self._now(txn), rows.tolist()
        if len(numbers) > AT_ONCE:
            known = known.emptied(len(numbers))
        if missing := known.missing(numbers):
            entries = self._entries(txn, databases, np.array(missing, np.int64))
            if not known.add(missing, entries, self._layout.pooled(entries)):
                self._looked_up = known.emptied()
                return self._look_up(txn, databases, rows)
        return known, known.slots(numbers)

    def _now(self, txn: Any) -> LookedUp:
        """Of this state of the file: a row or a segment that is gone must be missed, not read where it was."""
        known, state = self._looked_up, (self._file.mapping, txn.id())
        if known.state != state:
            self._looked_up = known = LookedUp(state, self._layout.dense_dim)
        return known

    def _damaged(self) -> list[int]:
        with self._file.reading("verify") as (txn, databases):
            change, wrong = Change(txn, databases, self._layout), []
            for number, value in txn.cursor(databases[PASSAGES]):
                row = int.from_bytes(number, "big")
                entries, broken = self._layout.entries(np.array([row]), [value])
                if broken[0] or not change.whole(row, entries[0]):
                    wrong.append(row)
        return wrong

    def _with_holes(self) -> list[list[int]]:
        """Segments that hold codes of no row, and small ones that could lie together, in portions."""
        with self._file.reading("compact") as (txn, databases):
            change = Change(txn, databases, self._layout)
            found = txn.cursor(databases[SEGMENTS])
            held = [(int.from_bytes(number, "big"), len(value)) for number, value in found]
            holes = {segment for segment, size in held if change.live(segment) * self.codec.width < size}
        small = {segment for segment, size in held if size < _SMALL_BYTES}
        sizes = {
            segment: size for segment, size in held if segment in holes or (segment in small and len(small) > 1)
        }
        return [list(part) for part in portions(sizes, sizes.__getitem__, _AT_ONCE_BYTES)]


def _span(value: memoryview | None) -> tuple[int, int]:
    """Where a value begins and how many bytes it has; nowhere and none where there is no value."""
    if not value:
        return 0, 0
    return np.frombuffer(value, np.uint8).__array_interface__["data"][0], len(value)
