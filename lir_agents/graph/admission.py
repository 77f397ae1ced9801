"""How many searches are at work, how many may wait, and who is refused at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from lir_agents.errors import Overloaded

__all__ = ["Admission", "Place"]

_NEWEST: Final = 0.1
"""How much the newest search counts in the running mean of how long one takes."""


class Place:
    """Of one search: given, or waited for. Begun with `go`, in whichever thread frees a place for it."""

    __slots__ = ("given", "go")

    def __init__(self, go: Callable[[], None]) -> None:
        self.go = go
        self.given = False


class Admission:
    """Places for searches at work, and a line of bounded length in front of them.

    Args:
        at_work: Searches at a time, >= 1.
        waiting: Searches that may wait, >= 0; more are refused.
    """

    def __init__(self, at_work: int, waiting: int) -> None:
        self._at_work, self._waiting = at_work, waiting
        self._lock = threading.Lock()
        self._working = 0
        self._line: deque[Place] = deque()
        self._usual_s = 0.0

    @property
    def usual_s(self) -> float:
        """How long a search takes, seconds: a running mean; 0 before the first."""
        return self._usual_s

    def claim(self) -> bool:
        """Takes a place where one is free and nobody waits; never waits."""
        with self._lock:
            if self._working >= self._at_work:
                return False
            self._working += 1
            return True

    def enter(self, go: Callable[[], None], *, patience_s: float | None) -> Place:
        """Begins at once where a place is free; else waits in line, and begins when its turn comes.

        Args:
            go: Begins the work; never raises, never waits.
            patience_s: Longest wait that is worth it, in seconds; None: any.

        Raises:
            Overloaded: The line is full, or longer than that.
        """
        place = Place(go)
        with self._lock:
            if self._working >= self._at_work:
                wait_s = (len(self._line) + 1) * self._usual_s / self._at_work
                if len(self._line) >= self._waiting or (patience_s is not None and wait_s > patience_s):
                    raise self._refusal(wait_s)
                self._line.append(place)
                return place
            self._working += 1
            place.given = True
        go()
        return place

    def overloaded(self) -> Overloaded:
        """The refusal of a search whose turn did not come in time."""
        with self._lock:
            return self._refusal(len(self._line) * self._usual_s / self._at_work)

    def leave(self, place: Place | None, took_s: float | None = None) -> None:
        """Gives a place back, or up the wait for one; whoever waits longest begins.

        Args:
            place: From `enter`; None: from `claim`.
            took_s: How long the work took, where it went well.
        """
        with self._lock:
            if place is not None and not place.given:
                if place in self._line:
                    self._line.remove(place)
                return
            if took_s is not None:
                self._usual_s += (took_s - self._usual_s) * (_NEWEST if self._usual_s else 1.0)
            following = self._line.popleft() if self._line else None
            if following is None:
                self._working -= 1
                return
            following.given = True
        following.go()

    def _refusal(self, wait_s: float) -> Overloaded:
        return Overloaded(
            f"{self._working} searches are at work and {len(self._line)} wait.",
            retry_after_s=max(wait_s, self._usual_s, 0.01),
            remedy="Try again after retry_after_s seconds, or raise limits.at_work where the machine has room.",
        )
