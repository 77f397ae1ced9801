"""Takes to the disk what the operating system holds: in the background, and at once where somebody waits for it.

A search does not wait for the disk (``durability="process"``): what it recorded outlives the death of the process
as soon as the transaction is committed, and a power cut only once the write-ahead log is synchronised. That is done
here within `DELAY_S`, so that a power cut takes the searches of the last moment and never more.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Final

from lir_agents.errors import StoreError

__all__ = ["DELAY_S", "Flusher", "sync_file"]

DELAY_S: Final = 0.1
"""Seconds for which a recorded search may wait for the disk."""


def sync_file(path: Path) -> None:
    """Returns once the disk holds every byte of the file; a file that is not there has none.

    Raises:
        OSError: The disk did not take them.
    """
    try:
        descriptor = os.open(path, os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        getattr(os, "fdatasync", os.fsync)(descriptor)  # fdatasync is not everywhere
    finally:
        os.close(descriptor)


class Flusher:
    """Synchronises one file soon after each `soon`. One thread, started by the first call. Safe for threads.

    A disk that fails once is not asked again: the kernel forgets the pages it could not write, and the next attempt
    would succeed without them. Every later call is refused instead.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wanted, self._closing = threading.Event(), threading.Event()
        self._failure: OSError | None = None

    def check(self) -> None:
        """Raises StoreError where the disk has failed to take what was recorded."""
        if self._failure is not None:
            raise StoreError(
                f"the disk did not take what was recorded ({self._failure})",
                store="audit",
                operation="sync",
                remedy="Check the disk, then open the index again and verify the log.",
            ) from self._failure

    def soon(self) -> None:
        """Has the file synchronised within `DELAY_S`."""
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="lir-audit-flush", daemon=True)
                    self._thread.start()
        self._wanted.set()

    def now(self) -> None:
        """Returns once the disk holds everything that was written so far.

        Raises:
            StoreError: It does not.
        """
        self.check()
        self._sync()
        self.check()

    def close(self) -> None:
        """Synchronises what still waits, and ends the thread. Idempotent."""
        self._closing.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while self._failure is None:
            self._wanted.wait()
            self._closing.wait(DELAY_S)
            # In this order: what is asked for after the clearing wakes the next round, and a closing before it is
            # seen here, so that nothing waits for ever and nothing recorded before closing is left out.
            self._wanted.clear()
            closing = self._closing.is_set()
            self._sync()
            if closing:
                return

    def _sync(self) -> None:
        try:
            sync_file(self._path)
        except OSError as error:
            self._failure = error
