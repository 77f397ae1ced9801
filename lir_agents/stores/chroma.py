"""One Chroma collection, embedded or on a server: opening, checking, replacing, and naming what fails.

The only user of `chromadb`. Ids are catalog rows in decimal; metadata is ``{"access_class": int}``. Chroma keeps
the bytes of what was deleted; so a directory holds one numbered Chroma directory, and `renew` fills the next one,
swaps it in and removes the old. A crash in between leaves the old one, or both, of which the newer is whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import chromadb
import httpx
import numpy as np
from chromadb.config import Settings
from chromadb.errors import ChromaError, NotFoundError
from numpy.typing import NDArray

from lir_agents.arrays import RowMask, Rows
from lir_agents.errors import IntegrityError, LirError, StoreError
from lir_agents.stores.base import REBUILD
from lir_agents.stores.gate import Gate
from lir_agents.stores.hnsw_file import blank_unused

__all__ = ["ChromaCollection", "Reader", "failures"]

Reader: TypeAlias = Callable[[slice], NDArray[np.float32]]
"""A slice of the rows being written to their vectors, float32 [n, dim]: a batch at a time, so memory stays flat."""

_NAME = "passages"
_NEXT = ".next"
# recall@100 against exact search, 100,000 vectors: .9996 (ef_search 100, the default: .989 at 20,000)
_HNSW = {"space": "cosine", "ef_construction": 200, "ef_search": 400, "max_neighbors": 16}
_READ_ROWS = 5000
_SIGNS_OF_DAMAGE = ("malformed", "not a database", "hnsw segment", "HNSW")


@contextmanager
def failures(operation: str) -> Iterator[None]:
    """Turns what Chroma and its parts raise (SQLite, HNSW, HTTP, Rust panics) into this package's errors."""
    try:
        yield
    except LirError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # an interrupt, not a failure
        if any(sign in str(error) for sign in _SIGNS_OF_DAMAGE):
            raise IntegrityError(f"vectors: {operation}: {error}", remedy=REBUILD) from error
        away = isinstance(error, httpx.TransportError) or "Could not connect" in str(error)
        remedy = (
            "Start the Chroma server, or check its address." if away else "Check free disk space and permissions."
        )
        raise StoreError(str(error), store="vectors", operation=operation, retryable=away, remedy=remedy) from error


class ChromaCollection:
    """The vectors of one index. Any number of threads may read and write; one thread at a time may `renew`.

    Made by `embedded` or `served`.
    """

    def __init__(self, client: Any, collection: Any, dim: int, home: Path | None) -> None:
        self._client, self._collection, self._dim, self._home = client, collection, dim, home
        self._gate = Gate()

    @classmethod
    def embedded(cls, path: Path, dim: int) -> ChromaCollection:
        """Opens the collection in the directory `path`, creating it if there is none."""
        with failures("open"):
            path.mkdir(parents=True, exist_ok=True)
            entries = list(path.iterdir())
            numbers = [int(entry.name) for entry in entries if entry.name.isdecimal()]
            if entries and not numbers and any(entry.suffix != ".partial" for entry in entries):
                raise IntegrityError(f"vectors: {path.name!r} holds something else", remedy=REBUILD)
            home = path / str(max(numbers, default=1))
            if home.exists() and not (home / "chroma.sqlite3").is_file():
                raise IntegrityError("vectors: Chroma's database is missing", remedy=REBUILD)
            for entry in entries:
                if entry != home and (entry.name.isdecimal() or entry.suffix == ".partial"):
                    shutil.rmtree(entry)
            return cls(*_embedded(home, dim), dim, home)

    @classmethod
    def served(cls, host: str, port: int, name: str, dim: int, *, ssl: bool) -> ChromaCollection:
        """Opens the collection `name` of a running server, creating it if there is none."""
        with failures("connect"):
            settings = Settings(anonymized_telemetry=False)
            client: Any = chromadb.HttpClient(host=host, port=port, ssl=ssl, settings=settings)
            _drop(client, name + _NEXT)
            return cls(client, _collection(client, name, dim), dim, None)

    # ------------------------------------------------------------ reading

    def held(self) -> RowMask:
        """The rows held, bool [max_row + 1]."""
        with self._using("rows") as collection:
            ids = collection.get(include=[])["ids"]
        if not all(name.isdecimal() for name in ids):
            raise IntegrityError("vectors: the collection holds ids that are not row numbers", remedy=REBUILD)
        rows = np.array(ids, dtype=np.int64)
        mask = np.zeros(int(rows.max()) + 1 if len(rows) else 0, np.bool_)
        mask[rows] = True
        return mask

    def nearest(self, vectors: Sequence[NDArray[np.float32]], k: int) -> list[Rows]:
        """About the k nearest rows of each vector, by HNSW, in no order; at least k rows must be held."""
        if not vectors:
            return []
        with self._using("search") as collection:
            found = collection.query(query_embeddings=list(vectors), n_results=k, include=[])["ids"]
        if few := [names for names in found if len(names) < k]:  # Chroma says nothing when its files are gone
            raise IntegrityError(f"vectors: the index returned {len(few[0])} of {k} rows", remedy=REBUILD)
        return [np.array(names, dtype=np.int64) for names in found]

    def vectors(self, rows: Rows) -> NDArray[np.float32]:
        """Stored vectors, float32 [n, dim], L2-normalised; zeros where a row is missing."""
        result = np.zeros((len(rows), self._dim), np.float32)
        for part in _parts(len(rows), _READ_ROWS):
            ids = _ids(rows[part])
            with self._using("read") as collection:
                got = collection.get(ids=list(dict.fromkeys(ids)), include=["embeddings"])
            if got["ids"]:
                known = dict(zip(got["ids"], np.asarray(got["embeddings"], np.float32), strict=True))
                for i, name in enumerate(ids, part.start):
                    if name in known:
                        result[i] = known[name] / np.linalg.norm(known[name])
        return result

    def access_classes(self, rows: Rows) -> NDArray[np.int64]:
        """The access class that is kept with each row, int64 [n]; -1 where there is none."""
        result = np.full(len(rows), -1, np.int64)
        for part in _parts(len(rows), _READ_ROWS):
            with self._using("read") as collection:
                got = collection.get(ids=_ids(rows[part]), include=["metadatas"])
            kept = {
                int(name): (data or {}).get("access_class")
                for name, data in zip(got["ids"], got["metadatas"], strict=True)
            }
            result[part] = [
                number if isinstance(number := kept.get(row), int) else -1 for row in rows[part].tolist()
            ]
        return result

    # ------------------------------------------------------------ writing

    def upsert(self, rows: Rows, read: Reader, access_classes: Sequence[int]) -> None:
        """Adds or replaces, in as many batches as Chroma wants."""
        with self._using("upsert") as collection:
            _fill(self._client, collection, rows, read, access_classes)
            if self._home is not None:
                blank_unused(self._home)

    def delete(self, rows: Rows) -> None:
        """Removes; unknown rows are ignored."""
        with self._using("delete") as collection:
            for part in _parts(len(rows), int(self._client.get_max_batch_size())):
                collection.delete(ids=_ids(rows[part]))

    def renew(self, rows: Rows, read: Reader, access_classes: Sequence[int]) -> None:
        """Replaces everything by `rows`: beside the old, then in its place."""
        self.require_open("rebuild")
        with failures("rebuild"):
            if self._home is None:
                self._renew_on_server(rows, read, access_classes)
            else:
                self._renew_on_disk(self._home, rows, read, access_classes)

    def close(self) -> None:
        """Releases files and connections. Idempotent."""
        with self._gate.exclusive():
            if self._client is not None:
                self._client.close()
                self._client = self._collection = None
                if self._home is not None:
                    blank_unused(self._home)

    def require_open(self, operation: str) -> None:
        """Raises StoreError once `close` was called."""
        if self._collection is None:
            raise StoreError("the store is closed", store="vectors", operation=operation, remedy="Open it again.")

    # ------------------------------------------------------------ inside

    @contextmanager
    def _using(self, operation: str) -> Iterator[Any]:
        with failures(operation), self._gate.shared():
            if self._collection is None:
                raise StoreError(
                    "the store is closed", store="vectors", operation=operation, remedy="Open it again."
                )
            yield self._collection

    def _renew_on_server(self, rows: Rows, read: Reader, access_classes: Sequence[int]) -> None:
        name = self._collection.name
        _drop(self._client, name + _NEXT)
        fresh = _collection(self._client, name + _NEXT, self._dim)
        _fill(self._client, fresh, rows, read, access_classes)
        with self._gate.exclusive():
            self._client.delete_collection(name)
            fresh.modify(name=name)
            self._collection = fresh

    def _renew_on_disk(self, home: Path, rows: Rows, read: Reader, access_classes: Sequence[int]) -> None:
        partial = home.with_name(f"{int(home.name) + 1}.partial")
        if partial.exists():
            shutil.rmtree(partial)
        client, collection = _embedded(partial, self._dim)
        try:
            _fill(client, collection, rows, read, access_classes)
        finally:
            client.close()
        blank_unused(partial)
        fresh = partial.rename(partial.with_suffix(""))
        client, collection = _embedded(fresh, self._dim)
        with self._gate.exclusive():
            self._client.close()
            self._client, self._collection, self._home = client, collection, fresh
        shutil.rmtree(home)


def _embedded(home: Path, dim: int) -> tuple[Any, Any]:
    client: Any = chromadb.PersistentClient(str(home), settings=Settings(anonymized_telemetry=False))
    try:
        collection = _collection(client, _NAME, dim)
        with suppress(ChromaError):  # a damaged index is named by the search that needs it; `rebuild` needs it open
            collection.get(limit=1, include=[])  # the first use is what writes the file of a small index anew
        blank_unused(home)
        return client, collection
    except BaseException:
        client.close()
        raise


def _collection(client: Any, name: str, dim: int) -> Any:
    try:
        collection = client.get_collection(name, embedding_function=None)
    except NotFoundError:
        collection = client.create_collection(
            name, embedding_function=None, metadata={"dim": dim}, configuration={"hnsw": _HNSW}
        )
    made_for = (collection.metadata or {}).get("dim")
    if made_for != dim:
        raise IntegrityError(f"vectors: the collection holds {made_for} dimensions, not {dim}", remedy=REBUILD)
    return collection


def _drop(client: Any, name: str) -> None:
    if any(collection.name == name for collection in client.list_collections()):
        client.delete_collection(name)


def _fill(client: Any, collection: Any, rows: Rows, read: Reader, access_classes: Sequence[int]) -> None:
    for part in _parts(len(rows), min(_READ_ROWS, int(client.get_max_batch_size()))):
        collection.upsert(
            ids=_ids(rows[part]),
            embeddings=np.ascontiguousarray(read(part), np.float32),
            metadatas=[{"access_class": int(number)} for number in access_classes[part]],
        )


def _ids(rows: Rows) -> list[str]:
    return [str(row) for row in rows.tolist()]


def _parts(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(count, start + size)) for start in range(0, count, size))
