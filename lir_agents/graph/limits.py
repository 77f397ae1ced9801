"""What keeps searches of one open index from waiting on each other without end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from lir_agents.config import LimitSettings
from lir_agents.deadline import SideCalls
from lir_agents.graph.admission import Admission
from lir_agents.graph.breaker import Breaker
from lir_agents.threads import available_processors

__all__ = ["BREAKABLE", "Limits"]

BREAKABLE = ("memory", "remember", "encoder", "lexical", "vectors", "tokens")
"""Rooms without which a search can go on: each has a circuit breaker; memory one for reading, one for writing."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Shared by all searches of an open index.

    Attributes:
        threads: Where searches with a budget, and asynchronous ones, run. As many as may be at work, and as many
            more as may be stuck in calls that do not return.
        admission: Who may work, who waits.
        breakers: By room.
        clock: Seconds, never going backwards.
    """

    threads: SideCalls
    admission: Admission
    breakers: dict[str, Breaker]
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def of(cls, settings: LimitSettings, clock: Callable[[], float] = time.monotonic) -> Limits:
        """As the settings say."""
        at_work = settings.at_work or max(2, available_processors())
        return cls(
            threads=SideCalls("lir-search", at_most=at_work + settings.stuck),
            admission=Admission(at_work, settings.waiting),
            breakers={
                room: Breaker(
                    after=settings.breaker_failures,
                    open_s=settings.breaker_open_s,
                    patience_s=settings.breaker_patience_ms / 1000,
                    clock=clock,
                )
                for room in BREAKABLE
            },
            clock=clock,
        )
