"""Runs the steps of a search: on the caller's thread, or on one of ours while the caller watches the time.

A stalled call cannot be stopped. So with a budget the steps run beside the caller, and whatever has had its time is
given up together with the thread that is stuck in it: another attempt goes on from what is known, without the room
that did not answer. An attempt that was given up ends at its next look at the clock, and never records, remembers
or returns anything.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Final

from lir_agents.errors import BudgetExceeded, Overloaded
from lir_agents.graph.admission import Admission
from lir_agents.graph.attempt import UNTIL, Attempt, Doing, GivenUp, Underway
from lir_agents.graph.limits import Limits
from lir_agents.types import Coverage, StageCoverage

__all__ = ["Conducted"]

Step = Callable[[str, Attempt], Mapping[str, Any]]
"""Takes one step within an attempt; what it adds to the state."""

_WORTH_WAITING: Final = 0.5
"""The share of its budget that a search may spend in line."""

_LOOKS: Final = (*sorted(set(UNTIL.values())), 1.0)
"""When there may be something to decide, in shares of the budget. Whoever waits looks at these moments instead of
being woken for each part: a search that is in time is one hand-over, and no more."""


_LONGEST_REST_S: Final = 3600.0
"""Whoever waits looks at least so often: no clock of a system waits for any number of seconds."""


@dataclass(slots=True, eq=False)
class _Held:
    """A place that a search has, until it is over; what the search began may go on after it, in its context."""

    admission: Admission
    over: bool = False


_HELD: ContextVar[tuple[_Held, ...]] = ContextVar("lir-held", default=())
"""Where the work of this context has a place. A search within it (a callback's, a policy's) is part of that work:
waiting for a place of its own, it could wait for itself."""


class Conducted:
    """Steps to be taken, the time there is for them, and what came of it.

    Args:
        limits: Of the index.
        underway: What is known of the search.
        steps: Names, in order.
        take: Takes a step.
        state: What the steps add to.
        admitted: Whether these steps need a place; those that wait for somebody else's code do not, because that
            code may itself be a search.
        within: The attempt at a larger work that these steps are a part of.
    """

    def __init__(
        self,
        limits: Limits,
        underway: Underway,
        steps: Sequence[str],
        take: Step,
        state: dict[str, Any],
        *,
        admitted: bool = True,
        within: Attempt | None = None,
    ) -> None:
        self._limits, self._underway, self._take = limits, underway, take
        held = tuple(one for one in _HELD.get() if not one.over)
        # A part of a larger work has no place of its own, also where that work was given up and its place is gone.
        self._admitted = admitted and within is None and all(one.admission is not limits.admission for one in held)
        self._state = state
        self._place = _Held(limits.admission)
        self._held = (*held, self._place) if self._admitted else held
        self._context = contextvars.copy_context()  # whoever frees a place for this search is somebody else
        self._context.run(_HELD.set, self._held)
        self._left = list(steps)
        self._whole = len(self._left) > 1
        self._since = underway.budget.began
        self._within = within
        self._attempt = Attempt(underway, limits, within)
        self._begun = self._over = False
        self._error: BaseException | None = None
        self._wake: Callable[[], object] = lambda: None

    def here(self) -> bool:
        """Takes all steps on the calling thread, where there is no time to watch and a place is free.

        Returns:
            Whether it did.
        """
        if self._underway.budget.bounded or (self._admitted and not self._limits.admission.claim()):
            return False
        token = _HELD.set(self._held)
        try:
            self._walk(self._attempt)
        finally:
            _HELD.reset(token)
            self._place.over = True
            if self._admitted:
                self._limits.admission.leave(None, self._took_s())
        return True

    def run(self) -> None:
        """Takes all steps; the calling thread waits, or does it itself."""
        if self.here():
            return
        woken = threading.Event()
        with closing(self._beside(woken.set)) as looks:
            for seconds in looks:
                woken.wait(seconds)
                woken.clear()

    async def arun(self) -> None:
        """Takes all steps; the calling task waits. Cancelled, it frees the thread at its next look."""
        loop, woken = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(woken.set)

        with closing(self._beside(wake)) as looks:
            for seconds in looks:
                with suppress(TimeoutError):
                    await asyncio.wait_for(woken.wait(), seconds)
                woken.clear()

    # ------------------------------------------------------------ whoever waits

    def _beside(self, wake: Callable[[], object]) -> Generator[float | None, None, None]:
        """Takes all steps on other threads; yields for how many seconds there is nothing to decide.

        Args:
            wake: Called from any thread when there is.

        Raises:
            BudgetExceeded: Time ran out where nothing can stand in.
            Overloaded: There is no place, or none in time.
        """
        self._wake = wake
        place = None
        if self._admitted:
            place = self._limits.admission.enter(self._start, patience_s=self._patience_s)
        else:
            self._start()
        try:
            while not self._over:
                yield self._rest_s()
                self._look()
            if self._error is not None:
                raise self._error
        finally:
            self._attempt.give_up()
            self._place.over = True
            if place is not None:
                self._limits.admission.leave(place, self._took_s())

    @property
    def _patience_s(self) -> float | None:
        ms = self._underway.budget.ms
        return None if ms is None else ms / 1000 * _WORTH_WAITING

    def _took_s(self) -> float | None:
        """How long all steps took at work, where nothing was left out."""
        complete = self._whole and not self._left and not self._underway.left
        return self._limits.clock() - self._since if complete else None

    def _rest_s(self) -> float | None:
        """Seconds until the next look."""
        now, budget = self._limits.clock(), self._underway.budget
        moments = [now + ms / 1000 for ms in budget.own_ms.values()]
        if budget.ms is not None:
            shares = (budget.began + budget.ms / 1000 * share for share in (*_LOOKS, _WORTH_WAITING))
            moments += [moment for moment in (*shares, self._attempt.doing.until or 0.0) if moment > now]
            moments += [now] if now >= budget.began + budget.ms / 1000 else []
        return min(max(0.0, min(moments) - now), _LONGEST_REST_S) if moments else None

    def _look(self) -> None:
        now = self._limits.clock()
        with self._underway.lock:
            if self._over:
                return
            doing = self._attempt.overdue(now) if self._begun else None
        if doing is not None:
            self._go_on_without(doing, now)
        elif (
            not self._begun
            and self._patience_s is not None
            and now >= self._underway.budget.began + self._patience_s
        ):
            raise self._limits.admission.overloaded()

    def _go_on_without(self, doing: Doing, now: float) -> None:
        """Another attempt, without what had its time; or what was recorded; or the end."""
        underway, elapsed_ms = self._underway, (now - doing.since) * 1000
        outcome = StageCoverage("timed_out", f"no answer within {elapsed_ms:.0f} ms", elapsed_ms)
        if self._attempt.observation is not None:
            self._attempt.observation.end(outcome)
        if (breaker := self._limits.breakers.get(doing.room)) is not None:
            breaker.failed("timed_out", elapsed_ms / 1000)
        if (recorded := underway.recorded) is not None:
            missing = StageCoverage("timed_out", "not remembered in time", elapsed_ms)
            coverage = Coverage({**recorded.coverage.stages, "memory": missing})
            self._state["result"] = replace(recorded, coverage=coverage)
            self._over = True
            return
        if not doing.room or underway.committed:
            raise self._exceeded(doing)
        with underway.lock:
            underway.leave(doing.stage, doing.room, outcome)
        self._attempt = Attempt(underway, self._limits, self._within)
        self._start()

    def _exceeded(self, doing: Doing) -> BudgetExceeded:
        ms, stage = self._underway.budget.ms or 0.0, doing.stage or "authorize"
        return BudgetExceeded(
            f"No answer within {ms:g} ms: time ran out in {stage}.",
            stage=stage,
            budget_ms=ms,
            remedy="Ask again, or give it more time.",
        )

    # ------------------------------------------------------------ the work

    def _start(self) -> None:
        """Begins the current attempt. Never raises: it may be called by whoever frees a place."""
        attempt = self._attempt
        try:
            self._limits.threads.start(lambda: self._work(attempt), timeout_s=0.0, within=self._context)
        except TimeoutError:
            self._end(attempt, self._all_stuck())
        if not self._begun:
            self._since, self._begun = self._limits.clock(), True
        self._wake()

    def _all_stuck(self) -> Overloaded:
        return Overloaded(
            "Every thread is taken by calls that have not ended.",
            retry_after_s=1.0,
            remedy="Something that searches need hangs: see `coverage`. Try again later.",
        )

    def _work(self, attempt: Attempt) -> None:
        try:
            self._walk(attempt)
        except GivenUp as error:
            if attempt.given_up:
                return
            self._end(attempt, error)  # what it is a part of was given up: whoever waits here goes, too
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            self._end(attempt, error)
        self._wake()

    def _walk(self, attempt: Attempt) -> None:
        while self._left:
            attempt.check()
            made = self._take(self._left[0], attempt)
            with self._underway.lock:
                attempt.check()
                self._state.update(made)
                self._left.pop(0)
                self._over = not self._left

    def _end(self, attempt: Attempt, error: BaseException) -> None:
        with self._underway.lock:
            if not attempt.given_up:
                self._error, self._over = error, True
