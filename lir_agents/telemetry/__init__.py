"""Spans and metrics: counts and seconds, never text.

A window, not a room: whoever searches says `observe` and `count`, and nobody listens unless `switch_on` (or
`observe_with`) was called. Nothing of OpenTelemetry is imported before that.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from lir_agents.types import SearchResult, StageCoverage

if TYPE_CHECKING:
    from lir_agents.config import TelemetrySettings
    from lir_agents.telemetry.switch import Telemetry

__all__ = ["Countable", "Observation", "Observer", "count", "observe", "observe_with", "switch_on"]

Countable = Literal["cache.hits", "cache.misses", "leaks.caught"]
"""What is counted besides searches and their stages; `lir.` comes before it in a metric's name."""


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
_counter: Callable[[Countable, int], None] | None = None


def observe(name: str) -> Observation:
    """Begins to observe a search or a stage; nothing is observed unless somebody asked for it.

    Args:
        name: "search", or the name of a stage.
    """
    return _NOTHING if _observer is None else _observer(name)


def count(what: Countable, amount: int = 1) -> None:
    """Adds to a counter, where somebody listens."""
    if _counter is not None and amount:
        _counter(what, amount)


def observe_with(observer: Observer | None, counter: Callable[[Countable, int], None] | None = None) -> None:
    """Makes an observer the one that is told of every search of this process, and a counter of all that is counted;
    None: nobody is."""
    global _observer, _counter
    _observer, _counter = observer, counter


def switch_on(
    settings: TelemetrySettings | None = None, *, tracer_provider: Any = None, meter_provider: Any = None
) -> Telemetry:
    """Traces and measures every search of this process from now on, with OpenTelemetry.

    Opening an index with the setting `telemetry.enabled` does the same. Calling it again with the same arguments
    changes nothing.

    Args:
        settings: What is emitted, and where to; None: the defaults, with the providers of the process.
        tracer_provider: An OpenTelemetry `TracerProvider` of your own; None: as the settings say.
        meter_provider: A `MeterProvider` of your own; None: as the settings say.

    Returns:
        The handle to `shutdown`.

    Raises:
        MissingExtra: The extra `telemetry` is not installed.
        ConfigError: It is on already, with other settings; or the port is taken.
    """
    from lir_agents.telemetry.switch import begin

    return begin(settings, tracer_provider=tracer_provider, meter_provider=meter_provider)
