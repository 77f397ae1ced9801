"""The order of the steps, written once, and the one function that runs each of them.

::

    authorize ──┬── memory ──┬── first_stage ── rerank ── record
                └── tools ───┘

Memory and tools both steer the first stage, so it waits for them. A search walks the steps by itself, in this
order; `build_graph` wires the same declaration as a LangGraph `StateGraph`, where memory and tools run side by
side. It is the same work either way; walking saves the milliseconds that an engine for graphs takes each time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from langchain_core.runnables import RunnableConfig

from lir_agents.errors import StoreError
from lir_agents.graph.context import RetrievalContext
from lir_agents.graph.state import Staged
from lir_agents.telemetry import observe
from lir_agents.types import StageCoverage

__all__ = ["CHANNELS", "STEPS", "Run", "run_stage"]

T = TypeVar("T")

STEPS: Final[Mapping[str, tuple[str, ...]]] = {
    "authorize": (),
    "memory": ("authorize",),
    "tools": ("authorize",),
    "first_stage": ("memory", "tools"),
    "rerank": ("first_stage",),
    "record": ("rerank",),
}
"""Each step, and the steps that it waits for; in an order in which they can be walked."""

CHANNELS: Final[Mapping[str, str]] = {
    "authorize": "admitted",
    "memory": "recalled",
    "tools": "signals",
    "first_stage": "found",
    "rerank": "ranked",
    "record": "result",
}
"""Where each step leaves what it made."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a step is told besides the state.

    Attributes:
        runtime: Carries the context: LangGraph's `Runtime`, or anything with a `context`.
        config: LangGraph's; None where no graph runs.
    """

    runtime: Any
    config: RunnableConfig | None = None

    @property
    def context(self) -> RetrievalContext:
        """Who asks; see `RetrievalContext.of_run`."""
        return RetrievalContext.of_run(self.runtime)

    def tell(self, name: str, coverage: StageCoverage) -> None:
        """Streams that a stage is over, to whoever runs the graph with `stream_mode="custom"`."""
        if self.config is not None:
            self.runtime.stream_writer(
                {"stage": name, "status": coverage.status, "elapsed_ms": coverage.elapsed_ms}
            )


def run_stage(
    name: str,
    run: Run,
    work: Callable[[], T],
    *,
    otherwise: T | None = None,
    judge: Callable[[T], StageCoverage] | None = None,
) -> Staged[T]:
    """Runs one stage: times it, and says what became of it.

    Args:
        name: The stage's.
        run: The run it belongs to.
        work: What it does.
        otherwise: With it, a store that fails leaves the stage out instead of ending the search.
        judge: What became of a stage that ended, where that can be something else than "ok"; its time is filled in.
    """
    started = time.perf_counter()
    with observe(name) as observation:
        value, outcome = otherwise, StageCoverage("ok")
        try:
            value = work()
            outcome = judge(value) if judge is not None else outcome
        except StoreError as error:
            if otherwise is None:
                raise
            outcome = StageCoverage("failed", str(error))
        elapsed_ms = (time.perf_counter() - started) * 1000
        coverage = StageCoverage(outcome.status, outcome.reason, elapsed_ms)
        observation.end(coverage)
    run.tell(name, coverage)
    return Staged(value, coverage)
