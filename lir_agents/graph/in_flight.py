"""Answers between their last check and the log: whoever erases waits until they have written what they will."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["InFlight"]


class InFlight:
    """Who is about to write the name of a document that it found readable.

    A grace period, as in read-copy-update: whoever makes something unfindable and then waits for those that were
    under way knows that nobody writes of it any more. Nobody is kept out meanwhile, so that an answer which hangs
    costs the one who waits a bounded time, and others nothing.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._under_way: set[object] = set()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Around the last look at what may be read, and all that is written of it."""
        answer = object()
        try:
            with self._changed:
                self._under_way.add(answer)
            yield
        finally:
            with self._changed:
                self._under_way.discard(answer)
                self._changed.notify_all()

    def settled(self, timeout_s: float) -> bool:
        """Waits for all that are under way now; whether they ended in time.

        Args:
            timeout_s: Longest wait, >= 0.
        """
        with self._changed:
            before = frozenset(self._under_way)
            return self._changed.wait_for(lambda: not before & self._under_way, timeout_s)
