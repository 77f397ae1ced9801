"""One LMDB environment that grows, is compacted and is checked before it is trusted; the only user of `lmdb` here.

A directory holds one file ``<name>.<n>.mdb``. Compaction writes ``<n + 1>`` beside it and then removes ``<n>``:
a crash in between leaves a whole file, and a reader in another process keeps the one it has mapped.

What LMDB does not do by itself: a file cut short kills the process that maps it (SIGBUS), so its length is
compared with its own page count before anything is read; a map that is full must be enlarged while nobody reads
(`Gate`); and its compacting copy takes over whole pages with what lay in them, so live entries are copied instead.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import lmdb
from lmdb.verify import VerifyError, verify

from lir_agents.errors import IntegrityError, LirError, StoreError
from lir_agents.stores.gate import Gate

__all__ = ["MappedFile", "portions", "put_all"]

T = TypeVar("T")

_structural_problems: Callable[..., list[str]] = verify
_FORMAT = b"format"
_COPY_BYTES = 16 << 20
"""Of values in one transaction of a copy: LMDB holds what a transaction writes in memory."""
_BROKEN = (
    lmdb.CorruptedError,
    lmdb.IncompatibleError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.VersionMismatchError,
)


def put_all(txn: Any, database: Any, entries: Iterable[tuple[bytes, bytes]]) -> None:
    """Puts entries sorted by key; those beyond the last key are appended, which fills pages to the brim."""
    cursor = txn.cursor(database)
    last = cursor.key() if cursor.last() else b""
    for key, value in entries:
        txn.put(key, value, db=database, append=key > last)
        last = max(last, key)


def portions(items: Iterable[T], size: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """Items in their order, in runs of at most so many bytes; a larger item makes a run of its own."""
    run: list[T] = []
    held = 0
    for item in items:
        if run and held + size(item) > most:
            yield run
            run, held = [], 0
        run.append(item)
        held += size(item)
    if run:
        yield run


class MappedFile:
    """The environment of one store, for any number of threads of the one process that writes.

    Args:
        path: A directory of its own.
        store: The store's name, in errors and file names.
        databases: Names of its databases, at most 15.
        form: What the file is made for; a file made for anything else is refused.
        remedy: What to do about a file that is damaged or made for something else.
        read_only: For a second process.
        map_bytes: Address space to begin with, in bytes; it doubles whenever the file fills it.

    Raises:
        IntegrityError: The file is cut short, foreign, or made for another form. It is left as it is.
        StoreError: It cannot be opened, or `read_only` was asked for and there is none.
    """

    def __init__(
        self,
        path: Path,
        *,
        store: str,
        databases: Sequence[bytes],
        form: Mapping[str, Any],
        remedy: str,
        read_only: bool,
        map_bytes: int,
    ) -> None:
        self._path, self._store, self._names, self._read_only = path, store, tuple(databases), read_only
        self._form = json.dumps(form, sort_keys=True).encode()
        self._remedy = remedy
        self._gate = Gate()
        self._writer = threading.RLock()
        self._handles: dict[bytes, Any] = {}
        self._mapping = 0
        with self.failures("open"):
            self._file = self._newest()
            self._env: Any = self._attach(self._file, map_bytes)

    # ------------------------------------------------------------ transactions

    @property
    def mapping(self) -> int:
        """Changes whenever the file is mapped anew. Within a transaction it does not: until it changes, what no
        transaction removes stays at its address."""
        return self._mapping

    @contextmanager
    def reading(self, operation: str) -> Iterator[tuple[Any, dict[bytes, Any]]]:
        """A read transaction and the databases by name. Memory views die with it: return copies only."""
        with self.failures(operation):
            if self._read_only:
                self._follow_growth(operation)
            with self._gate.shared(), self._live(operation).begin(buffers=True) as txn:
                yield txn, self._handles

    def write(self, operation: str, change: Callable[[Any, dict[bytes, Any]], None]) -> None:
        """Runs `change` in one transaction, on disk when this returns; repeated where the map was full."""
        with self.failures(operation), self._writer:
            env = self._writable(operation)
            while True:
                try:
                    with env.begin(write=True) as txn:
                        change(txn, self._handles)
                    break
                except lmdb.MapFullError:
                    with self._gate.exclusive():
                        env.set_mapsize(2 * env.info()["map_size"])
                        self._mapping += 1
            # Pages that a transaction took and gave back are counted but never written: make the length honest.
            if _length(self._file) < _extent(env):
                os.truncate(self._file, _extent(env))

    def compact(
        self,
        approve: Callable[[bytes, memoryview, memoryview], None] | None = None,
        *,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        """Copies live entries into a new file and swaps it in. Reads go on meanwhile, writes wait.

        Args:
            approve: Called with (database, key, value) of each entry; what it raises stops the compaction and
                leaves the old file in use.
            prepare: Called first, and may write; nobody else does between it and the copy. Raises likewise.
        """
        with self.failures("compact"), self._writer:
            self._writable("compact")
            if prepare is not None:
                prepare()
            fresh = self._numbered(self._number(self._file) + 1)
            partial = fresh.with_suffix(".partial")
            partial.unlink(missing_ok=True)
            self._copy(partial, approve)
            partial.replace(fresh)
            _sync_directory(self._path)
            with self._gate.exclusive():
                self._env.close()
                self._env, stale = None, self._file
                self._env, self._file = self._attach(fresh, 2 * _length(fresh)), fresh
                self._mapping += 1
            self._discard(stale)

    @contextmanager
    def unchanging(self) -> Iterator[None]:
        """Keeps writers of this process out, readers not, after the file's structure was found whole.

        Raises:
            IntegrityError: The structure is damaged; the message says where first.
        """
        with self.failures("verify"), self._writer:
            self._live("verify")
            if not self._read_only:  # the owner may be writing: a walk over the pages would see halves
                try:
                    problems = _structural_problems(str(self._file), subdir=False)
                except VerifyError as error:
                    problems = [str(error)]
                if problems:
                    raise self._damage(f"the file's structure is damaged: {problems[0]}")
            yield

    def close(self) -> None:
        """Releases the file. Idempotent."""
        with self._writer, self._gate.exclusive():
            if self._env is not None:
                self._env.close()
                self._env = None

    # ------------------------------------------------------------ opening

    def _attach(self, file: Path, map_bytes: int) -> Any:
        env = lmdb.open(
            str(file),
            subdir=False,
            map_size=max(map_bytes, 1 << 20),
            max_dbs=16,
            max_readers=1024,
            max_spare_txns=16,
            readonly=self._read_only,
        )
        try:
            if _length(file) < _extent(env):
                raise self._damage("the file has been cut short")
            # Whoever made the file may have died before writing the format: what holds nothing is new.
            if env.stat()["entries"] == 0 and not self._read_only:
                with env.begin(write=True) as txn:
                    for name in self._names:
                        env.open_db(name, txn=txn)
                    txn.put(_FORMAT, self._form, db=env.open_db(b"meta", txn=txn))
            self._check_form(env)
            self._handles = {name: env.open_db(name, create=False) for name in self._names}
        except BaseException:
            env.close()
            raise
        return env

    def _check_form(self, env: Any) -> None:
        try:
            meta = env.open_db(b"meta", create=False)
            with env.begin() as txn:
                form = txn.get(_FORMAT, db=meta)
        except (lmdb.NotFoundError, lmdb.IncompatibleError):
            form = None
        if form is None:
            raise self._damage("this is somebody else's LMDB file")
        if form != self._form:
            raise self._damage(f"the file was made for {form.decode(errors='replace')}, not {self._form.decode()}")

    def _copy(self, target: Path, approve: Callable[[bytes, memoryview, memoryview], None] | None) -> None:
        copy = lmdb.open(
            str(target), subdir=False, map_size=_extent(self._env) + (64 << 20), max_dbs=16, sync=False, lock=False
        )
        try:
            with copy.begin(write=True) as txn:
                txn.put(_FORMAT, self._form, db=copy.open_db(b"meta", txn=txn))
            with self.reading("compact") as (source, handles):
                for name in self._names:
                    database = copy.open_db(name)
                    for batch in portions(source.cursor(handles[name]), _weight, _COPY_BYTES):
                        for key, value in batch:
                            if approve is not None:
                                approve(name, key, value)
                        with copy.begin(write=True) as txn:
                            for key, value in batch:
                                txn.put(key, value, db=database, append=True)
            copy.sync(True)
        finally:
            copy.close()

    def _newest(self) -> Path:
        if not self._read_only:
            self._path.mkdir(parents=True, exist_ok=True)
        found = sorted(self._path.glob(f"{self._store}.*.mdb"), key=self._number)
        if not found and self._read_only:
            raise StoreError(
                "there is none yet", store=self._store, operation="open", remedy="Add documents first."
            )
        if not self._read_only:
            for stale in (*found[:-1], *self._path.glob(f"{self._store}.*.partial")):
                self._discard(stale)
        return found[-1] if found else self._numbered(1)

    def _number(self, file: Path) -> int:
        try:
            return int(file.name.split(".")[1])
        except ValueError as error:
            raise self._damage(f"{file.name!r} does not belong here") from error

    def _numbered(self, number: int) -> Path:
        return self._path / f"{self._store}.{number}.mdb"

    def _discard(self, file: Path) -> None:
        file.unlink(missing_ok=True)
        file.with_name(file.name + "-lock").unlink(missing_ok=True)

    # ------------------------------------------------------------ failing

    @contextmanager
    def failures(self, operation: str) -> Iterator[None]:
        """Turns what LMDB and the file system raise into this package's errors."""
        try:
            yield
        except LirError:
            raise
        except _BROKEN as error:
            raise self._damage(f"{operation}: {error}") from error
        except (lmdb.MapResizedError, lmdb.ReadersFullError) as error:
            raise StoreError(str(error), store=self._store, operation=operation, retryable=True) from error
        except (lmdb.Error, OSError) as error:
            remedy = "Check free disk space and permissions, then repeat."
            if "already open in this process" in str(error):
                remedy = "Share the object that has it open, or give each a folder of its own."
            raise StoreError(str(error), store=self._store, operation=operation, remedy=remedy) from error

    def _damage(self, message: str) -> IntegrityError:
        return IntegrityError(f"{self._store}: {message}", remedy=self._remedy)

    def _live(self, operation: str) -> Any:
        if self._env is None:
            raise StoreError("the store is closed", store=self._store, operation=operation, remedy="Open it again.")
        return self._env

    def _writable(self, operation: str) -> Any:
        if self._read_only:
            remedy = "Write in the process that owns the index."
            raise StoreError("the store is open read-only", store=self._store, operation=operation, remedy=remedy)
        return self._live(operation)

    def _follow_growth(self, operation: str) -> None:
        """Adopts the owner's map size where its file has outgrown the map of this process."""
        try:
            with self._gate.shared(), self._live(operation).begin():
                return
        except lmdb.MapResizedError:
            with self._gate.exclusive():
                self._live(operation).set_mapsize(0)
                self._mapping += 1


def _weight(entry: tuple[memoryview, memoryview]) -> int:
    return len(entry[1]) + 64


def _extent(env: Any) -> int:
    """Bytes that the pages of the last commit span."""
    return int((env.info()["last_pgno"] + 1) * env.stat()["psize"])


def _length(file: Path) -> int:
    return file.stat().st_size


def _sync_directory(path: Path) -> None:
    if os.name == "posix":  # elsewhere a directory cannot be opened for syncing, and need not be
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
