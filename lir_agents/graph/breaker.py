"""Circuit breakers: what has failed several times in a row is left alone for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Literal

__all__ = ["Breaker", "Trouble"]

Trouble = Literal["timed_out", "failed"]

_SLOWER: Final = 0.1
_FASTER: Final = 0.3
"""How much the newest answer counts in the running mean of how long one takes. The first may load a model."""

_HASTE: Final = 2.0
"""Whoever waits for less than so many times the usual has not waited long enough to say that a room hangs."""


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
        self._usual_s = 0.0
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

    def failed(self, how: Trouble, after_s: float | None = None) -> None:
        """The room raised, or was given up on.

        Args:
            how: Which of the two.
            after_s: How long it was waited for. Where it usually takes as long, the search was in too great a
                hurry: one caller's tiny budgets must not close a room to everybody else.
        """
        if after_s is not None and after_s < _HASTE * self._usual_s:
            return
        with self._lock:
            self._failures += 1
            self._last = how
            if self._failures >= self._after:
                self._closed_until = self._clock() + self._open_s

    def answered(self, after_s: float | None, *, late: bool) -> None:
        """The room answered.

        Args:
            after_s: How long it took; None: it is no measure of how long an answer takes.
            late: Whether its search had given up on it.
        """
        if after_s is not None and not self._measured(after_s, late=late):
            return
        if self._failures:
            with self._lock:
                self._failures = 0

    def _measured(self, after_s: float, *, late: bool) -> bool:
        """Takes a time into account; whether it says that the room is well."""
        if late and after_s > self._patience_s:
            return False
        change = min(after_s, self._patience_s) - self._usual_s  # an update that another thread undoes is no loss
        self._usual_s += change * ((_FASTER if change < 0 else _SLOWER) if self._usual_s else 1.0)
        return True
