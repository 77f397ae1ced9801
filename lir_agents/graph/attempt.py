"""One run of a search's steps, which whoever waits for it may give up: what it asks, since when, and until when."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from lir_agents.config import LimitSettings
from lir_agents.errors import AccessDenied, InputError, LirError, Overloaded
from lir_agents.graph.breaker import Breaker
from lir_agents.graph.limits import Limits
from lir_agents.graph.parts import Parts
from lir_agents.telemetry import Observation
from lir_agents.types import SearchResult, StageCoverage

__all__ = ["UNTIL", "Attempt", "Budget", "GivenUp", "Underway"]

T = TypeVar("T")

UNTIL: Final[Mapping[str, float]] = {
    "memory": 0.30,
    "tools": 0.30,
    "encoder": 0.45,
    "lexical": 0.55,
    "vectors": 0.62,
    "tokens": 0.75,
}
"""The share of the budget that may be gone when a room has answered. In the order in which they are asked, so that
each has time left when the one before had none; the last quarter is for the second wall and the log. What is not
named (policy, catalog, log) has no substitute, and may take all there is."""

_AT_ONCE: Final = 512
"""Passages scored between two looks at the clock: some ten milliseconds."""

_OF_THE_REST: Final = 0.4
"""The part of what is left of the budget that a room may take in any case."""


class GivenUp(BaseException):  # nothing that the work itself catches may swallow it
    """Raised within work that nobody waits for any more."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How long a search may take.

    Attributes:
        began: When it was asked, by the limits' clock, in seconds.
        ms: For all of it, > 0; None: as long as it takes.
        own_ms: For single stages and rooms.
    """

    began: float
    ms: float | None
    own_ms: Mapping[Any, float]

    @classmethod
    def of(cls, ms: float | None, settings: LimitSettings, now: float) -> Budget:
        return cls(now, ms, settings.stage_budgets_ms)

    @property
    def bounded(self) -> bool:
        """Whether there is anything to watch."""
        return self.ms is not None or bool(self.own_ms)

    def until(self, what: str = "") -> float | None:
        """When the time of a room (or of the whole search) is over; None: never."""
        return None if self.ms is None else self.began + self.ms / 1000 * UNTIL.get(what, 1.0)


@dataclass(slots=True)
class Underway:
    """What is known of a search across its attempts.

    Attributes:
        budget: Its time.
        kept: Answers of rooms, by stage, room and key: another attempt does not ask again.
        left: What was left out: stage to room to what became of it.
        errors: What rooms raised, in order.
        stages: When each stage was first begun.
        recorded: The result, once it stands in the log.
        committed: Whether it may stand in the log: from here on there is no other attempt.
    """

    budget: Budget
    kept: dict[tuple[str, str, str], Any] = field(default_factory=dict)
    left: dict[str, dict[str, StageCoverage]] = field(default_factory=dict)
    errors: list[Exception] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)
    recorded: SearchResult | None = None
    committed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def leave(self, stage: str, room: str, outcome: StageCoverage) -> None:
        """From here on, the stage goes on without the room."""
        self.left[stage] = {**self.left.get(stage, {}), room: outcome}

    def outcome(self, stage: str) -> StageCoverage:
        """What became of a stage that ended."""
        left = self.left.get(stage)
        if not left:
            return StageCoverage("ok")
        late = any(one.status == "timed_out" for one in left.values())
        reasons = [one.reason if room == stage else f"{room}: {one.reason}" for room, one in left.items()]
        return StageCoverage("timed_out" if late else "failed", "; ".join(reasons))


@dataclass(frozen=True, slots=True)
class Doing:
    """What an attempt does at this moment; `room` is empty between two of them."""

    stage: str
    room: str
    since: float
    until: float | None


class Attempt(Parts):
    """Runs the parts of a search. Used by one thread; given up from another.

    Args:
        underway: The search.
        limits: Of the index.
        within: The attempt that this is a part of, where several searches are one work: it ends with that.

    Attributes:
        from_memory: Whether what a part of this was answered last had been asked before: no room answered.
    """

    def __init__(self, underway: Underway, limits: Limits, within: Attempt | None = None) -> None:
        self.underway = underway
        self._within = within
        self.doing = Doing("", "", underway.budget.began, underway.budget.until())
        self.given_up = False
        self.at_once = _AT_ONCE if underway.budget.bounded else None
        self.observation: Observation | None = None
        self.from_memory = False
        self._limits = limits

    # ------------------------------------------------------------ whoever waits

    def overdue(self, now: float) -> Doing | None:
        """Gives the attempt up where what it does has had its time; what that was. The caller holds the lock."""
        doing = self.doing
        if doing.until is None or now < doing.until or self.given_up:
            return None
        self.given_up = True
        return doing

    def give_up(self) -> None:
        """Ends it at its next look."""
        self.given_up = True

    # ------------------------------------------------------------ the work

    def begin(self, stage: str) -> float:
        """A stage begins. Returns when it first did."""
        now = self._limits.clock()
        self._do(Doing(stage, "", now, self.underway.budget.until()))
        return self.underway.stages.setdefault(stage, now)

    def elapsed_ms(self, since: float) -> float:
        """Milliseconds since a moment of the limits' clock."""
        return (self._limits.clock() - since) * 1000

    def check(self) -> None:
        if self._within is not None:
            self._within.check()
        if self.given_up:
            raise GivenUp

    def hurried(self) -> bool:
        until, usual_s = self.underway.budget.until(), self._limits.admission.usual_s
        return until is not None and until - self._limits.clock() < 1.5 * usual_s

    def note(self, room: str, reason: str) -> None:
        with self.underway.lock:
            self.check()
            self.underway.leave(self.doing.stage, room, StageCoverage("timed_out", reason))

    def commit(self) -> None:
        """From here on the search may stand in the log: nobody else may take it over."""
        with self.underway.lock:
            self.check()
            self.underway.committed = True

    def recorded(self, result: SearchResult) -> None:
        """The search stands in the log: this is what is returned if nothing more comes in time."""
        with self.underway.lock:
            self.check()
            self.underway.recorded = result

    def lost(self, room: str) -> StageCoverage | None:
        """Why this stage went on without a room, taken off its own account; None where it had it."""
        with self.underway.lock:
            self.check()
            return self.underway.left.get(self.doing.stage, {}).pop(room, None)

    def at_most_s(self, room: str, seconds: float) -> float:
        """So many seconds, or fewer where the room has less time; a little is kept back for it to say so."""
        stage, now = self.doing.stage, self._limits.clock()
        until = self._until(stage, room, now)
        return seconds if until is None else max(0.0, min(seconds, 0.9 * (until - now)))

    def once(self, name: str, work: Callable[[], T]) -> T:
        place = ("", "", name)
        if place not in self.underway.kept:
            made = work()
            self.check()
            self.underway.kept[place] = made
        known: T = self.underway.kept[place]
        return known

    def ask(self, room: str, work: Callable[[], T], key: str = "") -> T | None:
        stage, underway = self.doing.stage, self.underway
        place = (stage, room, key)
        if place in underway.kept:
            known: T = underway.kept[place]
            return known
        breaker = self._limits.breakers.get(room)
        if self._left_before(stage, room) or self._refused(stage, room, breaker):
            return None
        began = self._limits.clock()
        until = self._until(stage, room, began)
        if until is not None and began >= until:
            self.note(room, "no time was left for it")
            return None
        self._do(Doing(stage, room, began, until))
        if self._within is not None:
            self._within.from_memory = False
        try:
            answer = work()
        except (InputError, AccessDenied, Overloaded):
            raise
        except Exception as error:  # noqa: BLE001 - whatever a room raises costs the room, and is said
            self._failed(stage, room, breaker, error)
            return None
        if breaker is not None and (self._within is None or not self._within.from_memory):
            # Who asks for others, too, waits for what is no measure of what one of them takes.
            took_s = self._limits.clock() - began if self._within is None else None
            breaker.answered(took_s, late=self.given_up)
        self._do(Doing(stage, "", began, underway.budget.until()))
        underway.kept[place] = answer
        return answer

    def _do(self, doing: Doing) -> None:
        with self.underway.lock:
            self.check()
            self.doing = doing

    def _until(self, stage: str, room: str, now: float) -> float | None:
        budget, begun = self.underway.budget, self.underway.stages[stage]
        ends = [self._share(room, now)]
        ends += [now + budget.own_ms[room] / 1000] if room in budget.own_ms else []
        ends += [begun + budget.own_ms[stage] / 1000] if stage != room and stage in budget.own_ms else []
        return min((end for end in ends if end is not None), default=None)

    def _left_before(self, stage: str, room: str) -> bool:
        """What an earlier stage had to go on without is not asked again by a later one."""
        with self.underway.lock:  # in a graph another stage may be left out at this very moment
            self.check()
            left = self.underway.left
            if room in left.get(stage, {}):
                return True
            for earlier, rooms in left.items():
                if room in rooms:
                    outcome = StageCoverage(rooms[room].status, f"left out, as in {earlier}")
                    self.underway.leave(stage, room, outcome)
                    return True
        return False

    def _share(self, room: str, now: float) -> float | None:
        """When its share of the budget is over. Whoever comes late, because others took long, has a part of what is
        left: it is asked all the same, and those after it too."""
        share, end = self.underway.budget.until(room), self.underway.budget.until()
        if share is None or end is None:
            return None
        return max(share, now + _OF_THE_REST * (end - now)) if now < end else share

    def _refused(self, stage: str, room: str, breaker: Breaker | None) -> bool:
        refusal = breaker.refusal() if breaker is not None else None
        if refusal is None:
            return False
        with self.underway.lock:
            self.check()
            self.underway.leave(stage, room, StageCoverage(*refusal))
        return True

    def _failed(self, stage: str, room: str, breaker: Breaker | None, error: Exception) -> None:
        reason = str(error) if isinstance(error, LirError) else f"raised {type(error).__name__}"
        if breaker is not None and not self.given_up:  # what was given up on has been counted already
            breaker.failed("failed")
        with self.underway.lock:
            self.check()
            self.underway.errors.append(error)
            self.underway.leave(stage, room, StageCoverage("failed", reason))
            self.doing = replace(self.doing, room="", until=self.underway.budget.until())
