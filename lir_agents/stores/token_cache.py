"""Token vectors of texts that no index holds, kept by a hash of the text: the second time costs no encoding.

What is kept is a function of the text alone, so a cache may be shared by everybody who may read the texts. It is
bounded: in memory the texts not used for longest go first; on disk the older of two halves goes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from lir_agents.stores.mapped import MappedFile

__all__ = ["DiskTokenCache", "MemoryTokenCache", "TextVectors", "TokenCache"]

_A, _B, _STATE = b"a", b"b", b"state"


@dataclass(frozen=True, slots=True)
class TextVectors:
    """One text, encoded and quantised.

    Attributes:
        pooled: float32 [dense_dim], L2-normalised.
        codes: uint8 [n, width], token vectors in 8 bits (`TokenCodec`), n >= 1.
    """

    pooled: NDArray[np.float32]
    codes: NDArray[np.uint8]

    @property
    def size_bytes(self) -> int:
        """Bytes of the two arrays."""
        return self.pooled.nbytes + self.codes.nbytes

    def to_bytes(self) -> bytes:
        """`n | pooled | codes`, little-endian."""
        count = np.int64(len(self.codes))
        return b"".join(part.tobytes() for part in (count, self.pooled.astype("<f4"), self.codes))

    @classmethod
    def from_bytes(cls, value: bytes, dense_dim: int) -> TextVectors:
        """Reads what `to_bytes` wrote."""
        count = int.from_bytes(value[:8], "little")
        pooled = np.frombuffer(value, "<f4", dense_dim, 8)
        return cls(pooled, np.frombuffer(value, np.uint8, offset=8 + 4 * dense_dim).reshape(count, -1))


class TokenCache(Protocol):
    """Where text vectors are kept. Keys are 32 bytes; safe to use from several threads."""

    def get(self, keys: Sequence[bytes]) -> dict[bytes, TextVectors]:
        """What is known of the keys."""

    def put(self, entries: Mapping[bytes, TextVectors]) -> None:
        """Keeps the entries for as long as there is room."""


class MemoryTokenCache:
    """Least recently used first out.

    Args:
        max_bytes: Bytes of arrays kept at most. Larger texts are not kept.
    """

    def __init__(self, max_bytes: int = 256 << 20) -> None:
        self._max_bytes = max_bytes
        self._held: OrderedDict[bytes, TextVectors] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def size_bytes(self) -> int:
        """Bytes of arrays kept now."""
        return self._bytes

    def get(self, keys: Sequence[bytes]) -> dict[bytes, TextVectors]:
        """What is known of the keys; they count as used now."""
        with self._lock:
            known = {key: self._held[key] for key in keys if key in self._held}
            for key in known:
                self._held.move_to_end(key)
        return known

    def put(self, entries: Mapping[bytes, TextVectors]) -> None:
        """Keeps the entries, dropping what was not used for longest."""
        with self._lock:
            for key, vectors in entries.items():
                if vectors.size_bytes > self._max_bytes:
                    continue
                if key in self._held:
                    self._bytes -= self._held.pop(key).size_bytes
                self._held[key] = vectors
                self._bytes += vectors.size_bytes
            while self._bytes > self._max_bytes:
                self._bytes -= self._held.popitem(last=False)[1].size_bytes


class DiskTokenCache:
    """In one LMDB file, for any number of threads of one process; survives it.

    Entries carry a checksum: one that fails it, or was written without, is as if it were not there.

    Entries go into the younger of two halves. When it is full, the older one is emptied and becomes the younger:
    no bookkeeping per read, and at least half of the room always holds the latest texts.

    Args:
        path: A directory of its own.
        fingerprint: Of the encoder; a cache made by another one is refused.
        dense_dim: Width of its pooled vectors.
        max_bytes: Bytes on disk at most, roughly.

    Raises:
        IntegrityError: The file is damaged, foreign or another encoder's; it is left as it is.
        StoreError: It cannot be opened.
    """

    def __init__(self, path: str | Path, *, fingerprint: str, dense_dim: int, max_bytes: int = 4 << 30) -> None:
        self._dense_dim = dense_dim
        self._half_bytes = max(max_bytes // 2, 1)
        self._file = MappedFile(
            Path(path),
            store="token-cache",
            databases=(_A, _B, _STATE),
            form={"format": 2, "fingerprint": fingerprint, "dense_dim": dense_dim},
            remedy=f"Remove the directory {str(path)!r}; the cache fills again.",
            read_only=False,
            map_bytes=64 << 20,
        )

    def get(self, keys: Sequence[bytes]) -> dict[bytes, TextVectors]:
        """What is known of the keys."""
        known = {}
        with self._file.reading("get") as (txn, databases):
            for key in keys:
                for half in (_A, _B):  # a damaged entry may lie before the one that took its place
                    body = _checked(key, txn.get(key, db=databases[half]))
                    if body is not None:
                        known[key] = TextVectors.from_bytes(body, self._dense_dim)
                        break
        return known

    def put(self, entries: Mapping[bytes, TextVectors]) -> None:
        """Keeps the entries, in one transaction.

        Raises:
            StoreError: The disk is full, or failed; nothing of it is kept.
        """

        def change(txn: Any, databases: dict[bytes, Any]) -> None:
            young = _B if txn.get(_STATE, db=databases[_STATE]) == _B else _A
            for key, vectors in entries.items():
                body = vectors.to_bytes()
                txn.put(key, body + _checksum(key, body), db=databases[young])
            if _used_bytes(txn, databases[young]) > self._half_bytes:
                old = _A if young == _B else _B
                txn.drop(databases[old], delete=False)
                txn.put(_STATE, old, db=databases[_STATE])

        if entries:
            self._file.write("put", change)

    def close(self) -> None:
        """Releases the file. Idempotent."""
        self._file.close()


def _checksum(key: bytes, body: bytes) -> bytes:
    """Of the entry in its place: under another key the same bytes are damaged."""
    return crc32(body, crc32(key)).to_bytes(4, "little")


def _checked(key: bytes, value: memoryview | None) -> bytes | None:
    """The entry without its checksum, copied: the map may move once the transaction is over. None if damaged."""
    if value is None:
        return None
    body = bytes(value[:-4])
    return body if _checksum(key, body) == value[-4:] else None


def _used_bytes(txn: Any, database: Any) -> int:
    stat = txn.stat(database)
    return int(stat["psize"] * (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]))
