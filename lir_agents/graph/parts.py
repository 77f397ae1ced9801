"""What a stage asks of a room is one part of it: run whole, or left out with the reason said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

__all__ = ["WHOLE", "Parts"]

T = TypeVar("T")


class Parts:
    """Runs parts one after the other and lets every failure through: for replays, which are complete or nothing.

    A search does the same with an eye on the time, see `Attempt`.
    """

    at_once: int | None = None
    """Passages that are scored between two looks at the clock; None: all of them."""

    def ask(self, room: str, work: Callable[[], T], key: str = "") -> T | None:
        """What a room answers; None where the search goes on without it.

        Args:
            room: "memory", "tools", "encoder", "lexical", "vectors" or "tokens".
            work: Asks it.
            key: Tells several questions of one stage to one room apart.
        """
        return work()

    def once(self, name: str, work: Callable[[], T]) -> T:
        """What a search sees once, however many attempts it takes: what rooms answered belongs to it.

        Args:
            name: Tells it apart within the search.
            work: Makes it.
        """
        return work()

    def note(self, room: str, reason: str) -> None:
        """Says that something was cut short which the search could afford to lose."""

    def check(self) -> None:
        """Ends the work of a search that was given up, by raising."""

    def hurried(self) -> bool:
        """Whether there is less time left than a search usually takes."""
        return False


WHOLE: Final = Parts()
