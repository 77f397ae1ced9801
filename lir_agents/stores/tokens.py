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

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import LentTokens, PackedTokens, Rows
from lir_agents.codes import TokenCodec
from lir_agents.stores.mapped import MappedFile, portions, put_all
from lir_agents.stores.token_layout import Entries, TokenLayout, damaged

__all__ = ["LmdbTokens"]

_PASSAGES, _SEGMENTS, _MEMBERS, _STATE = b"passages", b"segments", b"members", b"state"
_INITIAL_MAP_BYTES = 256 << 20
_SEGMENT_BYTES = 1 << 20
"""Codes of a segment, roughly: the page that its end shares with nothing is then less than .5 % of it."""
_SMALL_BYTES = _SEGMENT_BYTES // 4
_AT_ONCE_BYTES = 16 * _SEGMENT_BYTES
"""Of segments written anew in one transaction."""
_LARGEST_PAGE = 1 << 16
"""LMDB's, in bytes: a larger value has pages of its own, which stay where they are until it is deleted."""
_LARGEST_NUMBER = 2**32 - 1
_MEMBER = np.dtype([("row", "<u8"), ("count", "<u4")])


class LmdbTokens:
    """A `TokenStore` in one LMDB file, for any number of threads of the one process that writes. Made by `open`."""

    def __init__(self, layout: TokenLayout, file: MappedFile) -> None:
        self._layout = layout
        self._file = file
        self._known: tuple[tuple[int, int], dict[int, tuple[int, int]]] = (-1, -1), {}

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
            databases=(_PASSAGES, _SEGMENTS, _MEMBERS, _STATE),
            form=form,
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
            change = _Change(txn, databases, self._layout)
            change.release(list(last))
            change.append(new)

        self._file.write("put", change)

    def delete(self, rows: Rows) -> None:
        """Removes in one transaction; unknown rows are ignored. Their bytes leave the file with `compact`."""

        def change(txn: Any, databases: dict[bytes, Any]) -> None:
            _Change(txn, databases, self._layout).release(rows.tolist())

        self._file.write("delete", change)

    def compact(self) -> None:
        """Rewrites the file so that nothing deleted remains in its bytes. Reads go on meanwhile, writes wait.

        Raises:
            IntegrityError: An entry is damaged; the message names the row, the old file stays in use.
        """

        def renew(segments: Sequence[int]) -> None:
            self._file.write("compact", lambda txn, dbs: _Change(txn, dbs, self._layout).renew(segments))

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
            return self._layout.pooled(self._entries(txn, databases, rows))

    def rows(self) -> Rows:
        """Every row held, int64, sorted."""
        with self._file.reading("rows") as (txn, databases):
            keys = b"".join(txn.cursor(databases[_PASSAGES]).iternext(keys=True, values=False))
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
            The rows, sorted, whose entry or codes are damaged.

        Raises:
            IntegrityError: The structure of the file is damaged, so that no list of rows could be trusted.
        """
        with self._file.unchanging():
            return self._damaged()

    # ------------------------------------------------------------ within a transaction

    def _entries(self, txn: Any, databases: dict[bytes, Any], rows: Rows) -> Entries:
        get, database = txn.get, databases[_PASSAGES]
        found, wrong = self._layout.entries(rows, [get(key, db=database) for key in _keys(rows)])
        if wrong.any():
            raise damaged(np.asarray(rows)[wrong].tolist())
        return found

    def _places(self, txn: Any, databases: dict[bytes, Any], rows: Rows) -> LentTokens:
        codec, entries = self.codec, self._entries(txn, databases, rows)
        segments, which = np.unique(entries["segment"], return_inverse=True)
        spans = self._spans(txn, databases[_SEGMENTS], segments.tolist())
        starts, sizes = np.array(spans, np.int64).reshape(-1, 2)[which].T
        first, counts = entries["first"].astype(np.int64), entries["count"].astype(np.int64)
        if (wrong := (counts > 0) & ((first + counts) * codec.width > sizes)).any():
            raise damaged(np.asarray(rows)[wrong].tolist())
        return LentTokens(starts + first * codec.width, counts, codec)

    def _spans(self, txn: Any, database: Any, segments: Sequence[int]) -> list[tuple[int, int]]:
        """Where segments begin, and how many bytes they have."""
        # Of one state of the file only: a segment that is gone must be missed, not read where it was.
        state, known = self._known
        if state != (self._file.mapping, txn.id()):
            self._known = state, known = (self._file.mapping, txn.id()), {}
        found = []
        for segment in segments:
            span = known.get(segment)
            if span is None:
                span = _span(txn.get(_key(segment), db=database))
                if span[1] > _LARGEST_PAGE:  # what shares a page with others moves when they change
                    known[segment] = span
            found.append(span)
        return found

    def _damaged(self) -> list[int]:
        with self._file.reading("verify") as (txn, databases):
            change, wrong = _Change(txn, databases, self._layout), []
            for key, value in txn.cursor(databases[_PASSAGES]):
                row = int.from_bytes(key, "big")
                entries, broken = self._layout.entries(np.array([row]), [value])
                if broken[0] or not change.whole(row, entries[0]):
                    wrong.append(row)
        return wrong

    def _with_holes(self) -> list[list[int]]:
        """Segments that hold codes of no row, and small ones that could lie together, in portions."""
        with self._file.reading("compact") as (txn, databases):
            change = _Change(txn, databases, self._layout)
            held = [(int.from_bytes(key, "big"), len(value)) for key, value in txn.cursor(databases[_SEGMENTS])]
            holes = {segment for segment, size in held if change.live(segment) * self.codec.width < size}
        small = {segment for segment, size in held if size < _SMALL_BYTES}
        sizes = {
            segment: size for segment, size in held if segment in holes or (segment in small and len(small) > 1)
        }
        return [list(part) for part in portions(sizes, sizes.__getitem__, _AT_ONCE_BYTES)]


class _Change:
    """What can be done within one transaction."""

    def __init__(self, txn: Any, databases: dict[bytes, Any], layout: TokenLayout) -> None:
        self._txn, self._databases, self._layout = txn, databases, layout

    def append(self, new: Sequence[tuple[int, Entries, NDArray[np.uint8]]]) -> None:
        """Puts rows, ascending, with their entries [1] and codes, into new segments. The checksum of the codes is
        the one they were put with: a new one would vouch for what was damaged since."""
        segment = self._newest()
        values: list[tuple[bytes, bytes]] = []
        for part in portions(new, lambda one: one[2].nbytes, _SEGMENT_BYTES):
            segment, first = segment + 1, 0
            for row, entry, codes in part:
                entry = entry.copy()
                entry["segment"], entry["first"], entry["count"] = segment, first, len(codes)
                values.append((_key(row), self._layout.sealed(row, entry)))
                first += len(codes)
            members = np.array([(row, len(codes)) for row, _, codes in part], _MEMBER)
            joined = b"".join(codes.tobytes() for _, _, codes in part)
            self._txn.put(_key(segment), joined, db=self._databases[_SEGMENTS], append=True)
            self._txn.put(_key(segment), members.tobytes(), db=self._databases[_MEMBERS], append=True)
        self._txn.put(_STATE, _key(segment), db=self._databases[_STATE])
        put_all(self._txn, self._databases[_PASSAGES], values)

    def release(self, rows: Iterable[int]) -> None:
        """Removes rows, and segments that nothing is left of; those that are mostly holes are written anew."""
        gone: dict[int, list[int]] = {}
        for row in set(rows):
            entry = self._entry(row)
            if entry is not None:
                gone.setdefault(int(entry["segment"]), []).append(row)
            self._txn.delete(_key(row), db=self._databases[_PASSAGES])
        sparse = []
        for segment, left in gone.items():
            members = self._members(segment)
            kept = members[~np.isin(members["row"], left)]
            if len(kept) == 0:
                self._drop(segment)
                continue
            self._txn.put(_key(segment), kept.tobytes(), db=self._databases[_MEMBERS])
            if self._sparse(segment, kept) and all(self.whole(*one) for one in self._alive(segment)):
                sparse.append(segment)
        self.renew(sparse)

    def renew(self, segments: Sequence[int]) -> None:
        """Writes what is alive of segments into new ones."""
        alive = []
        for segment in segments:
            codes = np.frombuffer(bytes(self._codes(segment)), np.uint8).reshape(-1, self._layout.codec.width)
            for row, entry in self._alive(segment):
                first = int(entry["first"])
                alive.append((row, np.array([entry]), codes[first : first + int(entry["count"])]))
            self._drop(segment)
        self.append(sorted(alive, key=lambda one: one[0]))

    def _sparse(self, segment: int, kept: NDArray[Any]) -> bool:
        return 2 * int(kept["count"].sum()) * self._layout.codec.width < len(self._codes(segment))

    def _newest(self) -> int:
        """The number of the newest segment. A record that is damaged must not make one overwrite another."""
        recorded = int.from_bytes(self._txn.get(_STATE, db=self._databases[_STATE]) or b"", "big")
        numbers = [recorded if recorded < _LARGEST_NUMBER else 0]
        for name in (_SEGMENTS, _MEMBERS):
            cursor = self._txn.cursor(self._databases[name])
            numbers += [int.from_bytes(cursor.key(), "big")] if cursor.last() else []
        return max(numbers)

    def live(self, segment: int) -> int:
        """Tokens of a segment that rows point to."""
        return sum(int(entry["count"]) for _, entry in self._alive(segment))

    def whole(self, row: int, entry: Entries) -> bool:
        """Whether a row's codes are exactly those that were put, and its segment knows of it."""
        codes, width = self._codes(int(entry["segment"])), self._layout.codec.width
        part = codes[int(entry["first"]) * width : (int(entry["first"]) + int(entry["count"])) * width]
        known = row in self._members(int(entry["segment"]))["row"]
        return known and len(part) == int(entry["count"]) * width > 0 and crc32(part) == int(entry["codes"])

    def _alive(self, segment: int) -> Iterator[tuple[int, Entries]]:
        for row in self._members(segment)["row"].tolist():
            entry = self._entry(row)
            if entry is not None and int(entry["segment"]) == segment:
                yield row, entry

    def _entry(self, row: int) -> Entries | None:
        """None where there is none, or none that can be trusted."""
        value = self._txn.get(_key(row), db=self._databases[_PASSAGES])
        entries, wrong = self._layout.entries(np.array([row]), [value])
        return None if value is None or wrong[0] else entries[0]

    def _members(self, segment: int) -> NDArray[Any]:
        value = bytes(self._txn.get(_key(segment), db=self._databases[_MEMBERS]) or b"")
        return np.frombuffer(value[: len(value) // _MEMBER.itemsize * _MEMBER.itemsize], _MEMBER)

    def _codes(self, segment: int) -> memoryview:
        return memoryview(self._txn.get(_key(segment), db=self._databases[_SEGMENTS]) or b"")

    def _drop(self, segment: int) -> None:
        for name in (_SEGMENTS, _MEMBERS):
            self._txn.delete(_key(segment), db=self._databases[name])


def _span(value: memoryview | None) -> tuple[int, int]:
    """Where a value begins and how many bytes it has; nowhere and none where there is no value."""
    if not value:
        return 0, 0
    return np.frombuffer(value, np.uint8).__array_interface__["data"][0], len(value)


def _key(number: int) -> bytes:
    return number.to_bytes(8, "big")


def _keys(numbers: NDArray[Any]) -> list[bytes]:
    packed = np.asarray(numbers, np.int64).astype(">u8").tobytes()
    return [packed[at : at + 8] for at in range(0, len(packed), 8)]
