"""Circuit breakers: what has failed several times in a row is left alone for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Literal

__all__ = ["Breaker", "Trouble"]

Trouble = Literal["timed_out", "failed"]


class Breaker:
    """Counts failures in a row of one room. Open after `after` of them, it lets nothing through for `open_s`
    seconds; then one call may try (others are still refused), and its end decides.

    Args:
        after: Failures in a row that open it, >= 1.
        open_s: Seconds for which it stays open.
        patience_s: An answer that comes too late for its search, and within these seconds, shows a room that is
            well: the search's budget was short.
        clock: Seconds, never going backwards.
    """

    def __init__(
        self, *, after: int, open_s: float, patience_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._after, self._open_s, self._patience_s, self._clock = after, open_s, patience_s, clock
        self._lock = threading.Lock()
        self._failures = 0
        self._last: Trouble = "failed"
        self._closed_until = 0.0

    def refusal(self) -> tuple[Trouble, str] | None:
        """None where the room may be asked; else how it failed last, and until when it is left alone, in words."""
        if self._failures < self._after:
            return None
        with self._lock:
            left = self._closed_until - self._clock()
            if self._failures < self._after:
                return None
            if left <= 0:
                self._closed_until = self._clock() + self._open_s  # this one tries; the others go on without
                return None
            how = "gave no answer in time" if self._last == "timed_out" else "failed"
            return self._last, f"{how} {self._failures} times in a row; asked again in {left:.1f} s"

    def failed(self, how: Trouble) -> None:
        """The room raised, or was given up on."""
        with self._lock:
            self._failures += 1
            self._last = how
            if self._failures >= self._after:
                self._closed_until = self._clock() + self._open_s

    def answered(self, after_s: float, *, late: bool) -> None:
        """The room answered; `late`: after its search had given up on it."""
        if (late and after_s > self._patience_s) or not self._failures:
            return
        with self._lock:
            self._failures = 0
