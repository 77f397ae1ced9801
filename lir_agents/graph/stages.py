"""The order of the steps, written once, and the one function that runs each of them.

::

    authorize ──┬── memory ──┬── first_stage ── rerank ── record
                └── tools ───┘

Memory and tools both steer the first stage, so it waits for them. A search walks the steps by itself, in this
order; `build_graph` wires the same declaration as a LangGraph `StateGraph`, where memory and tools run side by
side. It is the same work either way; walking saves the milliseconds that an engine for graphs takes each time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from langchain_core.runnables import RunnableConfig

from lir_agents.graph.attempt import Attempt
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
    attempt: Attempt,
    work: Callable[[], T],
    *,
    judge: Callable[[T], StageCoverage] | None = None,
) -> Staged[T]:
    """Runs one stage: times it, and says what became of it.

    Args:
        name: The stage's.
        run: The run it belongs to.
        attempt: The attempt, which knows what the stage had to do without.
        work: What it does.
        judge: What became of a stage that ended and had all it asked for; its time is filled in.

    Raises:
        GivenUp: Whoever waited for it goes on without this attempt.
    """
    started = attempt.begin(name)
    with observe(name) as observation:
        attempt.observation = observation
        value = work()
        outcome = attempt.underway.outcome(name)
        if judge is not None and outcome.status == "ok":
            outcome = judge(value)
        coverage = StageCoverage(outcome.status, outcome.reason, attempt.elapsed_ms(started))
        attempt.check()
        observation.end(coverage)
    run.tell(name, coverage)
    return Staged(value, coverage)
