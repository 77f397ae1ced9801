"""What happens inside a search when somebody listens: clocks are read, and what they said is handed over.

Spans, metrics and lines of the log are made elsewhere, by a thread of their own (`telling`): making them here would
take a third of a millisecond of every search. Only what work inside may want as its parent is begun at once: the
span of the search, and that of tools.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, TypeAlias

from opentelemetry import context as contexts
from opentelemetry import trace

from lir_agents.telemetry.naming import SEARCH, TOOLS, fixed
from lir_agents.types import SearchResult, StageCoverage

__all__ = ["Observing", "Outcome", "Told"]

Outcome: TypeAlias = StageCoverage | SearchResult | type[BaseException] | None
"""What became of it: its own word, or the class of what it raised."""

_WITHIN: Final = contexts.create_key("lir-search")


@dataclass(slots=True)
class Told:
    """A search or a stage that is over.

    Attributes:
        name: "search", or the stage's.
        started_ns: Nanoseconds since 1970.
        elapsed_ms: Milliseconds that it took.
        outcome: What became of it.
        parent: The OpenTelemetry context that it began in.
        span: Its span, where it was begun already.
        stages: Of a search, its stages.
        alone: Whether it is a stage that no search was observed around: of a graph that somebody else runs.
    """

    name: str
    started_ns: int
    elapsed_ms: float
    outcome: Outcome
    parent: Any
    span: Any
    stages: list[Told]
    alone: bool


class Observing:
    """An `Observer`.

    Args:
        tracer: An OpenTelemetry `Tracer`.
        hand_over: Takes each search that is over, and each stage that belongs to none; it must not wait.
    """

    def __init__(self, tracer: Any, hand_over: Callable[[Told], None]) -> None:
        self.tracer, self.hand_over = tracer, hand_over

    def __call__(self, name: str) -> _Observed:
        return _Observed(self, name)


class _Observed:
    """Ended once, by whoever comes first: `end`, or leaving the block."""

    __slots__ = (
        "_begun",
        "_by",
        "_ended",
        "_name",
        "_parent",
        "_search",
        "_span",
        "_stages",
        "_started_ns",
        "_token",
    )

    def __init__(self, by: Observing, name: str) -> None:
        self._by, self._name, self._ended = by, name, False
        self._stages: list[Told] | None = []
        self._span: Any = None
        self._token: Any = None

    def __enter__(self) -> _Observed:
        here = self._parent = contexts.get_current()
        self._search = here.get(_WITHIN)
        if self._name in (SEARCH, TOOLS):
            self._span = self._by.tracer.start_span(f"lir.{self._name}", context=here, attributes=fixed(self._name))
            inside = trace.set_span_in_context(self._span, here)
            self._token = contexts.attach(
                contexts.set_value(_WITHIN, self, inside) if self._name == SEARCH else inside
            )
        self._started_ns, self._begun = time.time_ns(), time.perf_counter()
        return self

    def end(self, outcome: StageCoverage | SearchResult) -> None:
        self._over(outcome)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over(kind)
        if self._token is not None:
            contexts.detach(self._token)

    def _over(self, outcome: Outcome) -> None:
        if self._ended:
            return
        self._ended = True
        elapsed_ms = (time.perf_counter() - self._begun) * 1000
        stages, self._stages = self._stages or [], None
        search = self._search if isinstance(self._search, _Observed) else None
        told = Told(
            self._name,
            self._started_ns,
            elapsed_ms,
            outcome,
            self._parent,
            self._span,
            stages,
            alone=search is None,
        )
        # Without stages, the search has gone on without this one and is over.
        around = None if search is None else search._stages
        if around is not None:
            around.append(told)  # a list's append is atomic: memory and tools may end at the same moment
        else:
            self._by.hand_over(told)
