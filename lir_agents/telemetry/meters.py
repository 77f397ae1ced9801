"""The metrics. Labels are names of stages, statuses and kinds: a closed set, whoever asks for whatever."""

from __future__ import annotations

from typing import Any, Final

from lir_agents.errors import AccessDenied, BudgetExceeded, InputError, Overloaded
from lir_agents.telemetry import Countable

__all__ = ["BUCKETS_MS", "Meters"]

BUCKETS_MS: Final = (1, 2, 3, 5, 7.5, 10, 15, 20, 30, 50, 75, 100, 150, 250, 500, 1000, 2500, 5000, 10_000)
"""Upper bounds in milliseconds: close together where searches are, and up to the longest budget."""

_REFUSALS: Final = ((AccessDenied, "policy"), (Overloaded, "overloaded"), (BudgetExceeded, "budget"))


class Meters:
    """The instruments of one provider.

    Args:
        provider: An OpenTelemetry `MeterProvider`.
    """

    def __init__(self, provider: Any) -> None:
        meter = provider.get_meter("lir_agents")
        bounds = {"explicit_bucket_boundaries_advisory": BUCKETS_MS}
        self._search = meter.create_histogram("lir.search.duration", "ms", "A whole search.", **bounds)
        self._stage = meter.create_histogram("lir.stage.duration", "ms", "One stage of a search.", **bounds)
        self._refusals = meter.create_counter("lir.refusals", "1", "Searches that were refused.")
        self._fallbacks = meter.create_counter("lir.fallbacks", "1", "Stages that an answer went without.")
        self._dropped = meter.create_counter("lir.telemetry.dropped", "1", "Searches that nothing was told of.")
        self._counters = {
            "cache.hits": meter.create_counter("lir.cache.hits", "1", "Texts whose vectors were kept."),
            "cache.misses": meter.create_counter("lir.cache.misses", "1", "Texts that had to be encoded."),
            "leaks.caught": meter.create_counter(
                "lir.leaks.caught", "1", "Passages that the second check of access held back."
            ),
        }

    def search(self, elapsed_ms: float, outcome: str) -> None:
        """A search that ended: "full", "partial", "refused", "invalid" or "failed"."""
        self._search.record(elapsed_ms, {"outcome": outcome})

    def stage(self, name: str, elapsed_ms: float) -> None:
        """A stage that ended. One label: a second would double what this costs, and `fallbacks` tells the rest."""
        self._stage.record(elapsed_ms, {"stage": name})

    def fallback(self, stage: str, status: str) -> None:
        """A stage that an answer went without."""
        self._fallbacks.add(1, {"stage": stage, "status": status})

    def raised(self, kind: object) -> str:
        """Counts a refusal, of the class that was raised; what the outcome of the search is called."""
        if not isinstance(kind, type):
            return "failed"
        for refusal, name in _REFUSALS:
            if issubclass(kind, refusal):
                self._refusals.add(1, {"kind": name})
                return "refused"
        return "invalid" if issubclass(kind, InputError) else "failed"

    def dropped(self) -> None:
        """A search of which nothing is told, because too many wait."""
        self._dropped.add(1)

    def count(self, what: Countable, amount: int) -> None:
        """Adds to one of the plain counters."""
        self._counters[what].add(amount)
