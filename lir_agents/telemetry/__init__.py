"""Spans and metrics: counts and seconds, never text."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from lir_agents.types import SearchResult, StageCoverage

__all__ = ["Observation", "Observer", "observe", "observe_with"]


class Observation(Protocol):
    """One search, or one stage of it, while it is under way: a context manager, entered in the thread that does the
    work.

    A stage that is given up is ended by whoever waited for it, in another thread and before (or without) its exit:
    `end` has to be safe for that, and only the first call counts.
    """

    def __enter__(self) -> Observation:
        """The work begins."""

    def end(self, outcome: StageCoverage | SearchResult) -> None:
        """What became of it, with status, reason and milliseconds. Not called where it raised."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """The work is over, or raised."""


class Observer(Protocol):
    """Whoever wants to know of searches; it is called in the middle of them and must neither raise nor wait."""

    def __call__(self, name: str) -> Observation:
        """Something begins: "search" for the whole, or the name of a stage ("authorize", "memory", …).

        A stage is begun inside of its search's context (`contextvars`), in whichever thread runs it.
        """


class _Nothing:
    """Observes nothing."""

    def __enter__(self) -> _Nothing:
        return self

    def end(self, outcome: StageCoverage | SearchResult) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass


_NOTHING = _Nothing()
_observer: Observer | None = None


def observe(name: str) -> Observation:
    """Begins to observe a search or a stage; nothing is observed unless somebody asked for it.

    Args:
        name: "search", or the name of a stage.
    """
    return _NOTHING if _observer is None else _observer(name)


def observe_with(observer: Observer | None) -> None:
    """Makes an observer the one that is told of every search of this process; None: nobody."""
    global _observer
    _observer = observer
