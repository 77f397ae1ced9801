"""What is done to segments and entries of the token store within one transaction (bytes: `token_layout`).

Damage never spreads: what cannot be trusted is not written anew, a checksum is the one that codes were put with,
and a number is never used for two segments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from lir_agents.stores.mapped import portions, put_all
from lir_agents.stores.token_layout import Entries, TokenLayout

__all__ = ["DATABASES", "PASSAGES", "SEGMENTS", "SEGMENT_BYTES", "Change", "key", "keys"]

PASSAGES, SEGMENTS, _MEMBERS, _STATE = DATABASES = b"passages", b"segments", b"members", b"state"
SEGMENT_BYTES = 1 << 20
"""Codes of a segment, roughly: the page that its end shares with nothing is then less than .5 % of it."""
_MOST_SEGMENTS = 2**31
"""More there never are (two petabytes): a larger number is damage. Entries have room for twice as many."""
_MEMBER = np.dtype([("row", "<u8"), ("count", "<u4")])


class Change:
    """What can be done within one transaction."""

    def __init__(self, txn: Any, databases: dict[bytes, Any], layout: TokenLayout) -> None:
        self._txn, self._databases, self._layout = txn, databases, layout

    def append(self, new: Sequence[tuple[int, Entries, NDArray[np.uint8]]]) -> None:
        """Puts rows, ascending, with their entries [1] and codes, into new segments. The checksum of the codes is
        the one they were put with: a new one would vouch for what was damaged since."""
        segment = self._newest()
        values: list[tuple[bytes, bytes]] = []
        for part in portions(new, lambda one: one[2].nbytes, SEGMENT_BYTES):
            segment, first = segment + 1, 0
            for row, entry, codes in part:
                entry = entry.copy()
                entry["segment"], entry["first"], entry["count"] = segment, first, len(codes)
                values.append((key(row), self._layout.sealed(row, entry)))
                first += len(codes)
            members = np.array([(row, len(codes)) for row, _, codes in part], _MEMBER)
            joined = b"".join(codes.tobytes() for _, _, codes in part)
            self._txn.put(key(segment), joined, db=self._databases[SEGMENTS], append=True)
            self._txn.put(key(segment), members.tobytes(), db=self._databases[_MEMBERS], append=True)
        self._txn.put(_STATE, key(segment), db=self._databases[_STATE])
        put_all(self._txn, self._databases[PASSAGES], values)

    def release(self, rows: Iterable[int]) -> None:
        """Removes rows, and segments that nothing is left of; those that are mostly holes are written anew."""
        gone: dict[int, list[int]] = {}
        for row in set(rows):
            entry = self._entry(row)
            if entry is not None:
                gone.setdefault(int(entry["segment"]), []).append(row)
            self._txn.delete(key(row), db=self._databases[PASSAGES])
        sparse = []
        for segment, left in gone.items():
            members = self._members(segment)
            kept = members[~np.isin(members["row"], left)]
            if len(kept) == 0:
                self._drop(segment)
                continue
            self._txn.put(key(segment), kept.tobytes(), db=self._databases[_MEMBERS])
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
        numbers = [recorded if recorded < _MOST_SEGMENTS else 0]
        for name in (SEGMENTS, _MEMBERS):
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
        value = self._txn.get(key(row), db=self._databases[PASSAGES])
        entries, wrong = self._layout.entries(np.array([row]), [value])
        return None if value is None or wrong[0] else entries[0]

    def _members(self, segment: int) -> NDArray[Any]:
        value = bytes(self._txn.get(key(segment), db=self._databases[_MEMBERS]) or b"")
        return np.frombuffer(value[: len(value) // _MEMBER.itemsize * _MEMBER.itemsize], _MEMBER)

    def _codes(self, segment: int) -> memoryview:
        return memoryview(self._txn.get(key(segment), db=self._databases[SEGMENTS]) or b"")

    def _drop(self, segment: int) -> None:
        for name in (SEGMENTS, _MEMBERS):
            self._txn.delete(key(segment), db=self._databases[name])


def key(number: int) -> bytes:
    """How LMDB finds a row or a segment."""
    return number.to_bytes(8, "big")


def keys(numbers: NDArray[Any]) -> list[bytes]:
    """`key` of many."""
    packed = np.asarray(numbers, np.int64).astype(">u8").tobytes()
    return [packed[at : at + 8] for at in range(0, len(packed), 8)]
