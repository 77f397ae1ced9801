"""One owner per index directory: Chroma and LMDB lose data when two processes write to one path."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import weakref
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from lir_agents.errors import IndexLocked, StoreError

__all__ = ["IndexLock"]


class IndexLock:
    """The right to write to an index directory, from construction to `close`.

    An exclusive `flock` on a file that also says who holds it. The system drops it when the process dies, however
    it dies. A second handle is refused, in this process as in any other: one handle serves all threads. After a
    fork only the parent holds the lock, so that a child that lives on does not keep it.

    Args:
        path: The lock file; made where there is none, and left behind, empty, on closing.

    Raises:
        IndexLocked: Somebody else holds it; the message says who and since when. Nothing is changed.
        StoreError: The lock file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._guard = threading.Lock()
        self._file: int | None = None
        handle = self._open()
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write(handle, _describe_self())
        except BlockingIOError:
            holder = _read(handle)
            os.close(handle)
            raise _locked(self.path.parent, holder) from None
        except OSError as error:
            os.close(handle)
            raise self._failed(error) from error
        self._file = handle
        _held.add(self)

    @property
    def held(self) -> bool:
        """Whether this handle holds the lock."""
        return self._file is not None

    def close(self) -> None:
        """Gives the lock up. Idempotent."""
        with self._guard:
            handle, self._file = self._file, None
        if handle is not None:
            _held.discard(self)
            # Not being able to blank the note (a full disk) must not keep the lock.
            with contextlib.suppress(OSError):
                os.ftruncate(handle, 0)
            os.close(handle)

    def __enter__(self) -> IndexLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> StoreError:
        return StoreError(
            f"{self.path}: {error.strerror or error}",
            store="lock",
            operation="lock",
            remedy="The directory must be writable, and on a file system with locks.",
        )

    def _forget(self) -> None:
        """Lets go in a forked child. Closing a copy of the handle leaves the parent's lock in place."""
        handle, self._file = self._file, None
        self._guard = threading.Lock()  # another thread of the parent may have held it at the fork
        if handle is not None:
            os.close(handle)


_held: weakref.WeakSet[IndexLock] = weakref.WeakSet()


def _forget_all() -> None:
    for lock in list(_held):
        lock._forget()
    _held.clear()


os.register_at_fork(after_in_child=_forget_all)


def _describe_self() -> dict[str, str | int]:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": since}


def _write(handle: int, note: dict[str, str | int]) -> None:
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(note).encode(), 0)


def _read(handle: int) -> dict[str, str | int]:
    """The holder's note; empty where it is being written just now or makes no sense."""
    try:
        note = json.loads(os.pread(handle, 4096, 0))
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}


def _locked(directory: Path, holder: dict[str, str | int]) -> IndexLocked:
    pid, host = holder.get("pid"), holder.get("host")
    if pid == os.getpid() and host == socket.gethostname():
        who, remedy = "this very process", "Use the open handle (it serves all threads), or close it first."
    else:
        who = f"process {pid} on {host}" if pid else "another process"
        remedy = "Close it there, send requests to that process, or open the index read-only."
    since = f" since {holder['since']}" if "since" in holder else ""
    return IndexLocked(
        f"{directory} is open in {who}{since}",
        store="index",
        operation="open",
        retryable=True,
        remedy=remedy,
    )
