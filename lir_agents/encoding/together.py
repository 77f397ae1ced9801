"""Calls of several threads, in few lanes; those that had to wait for a lane go into the next run together.

Nobody waits for company: whoever finds a free lane goes at once, and alone. No thread is made either: the one at
the head of the line does the work of all who stand in it and fit in, then hands the lane to the next.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Final, Generic, TypeVar

__all__ = ["Together"]

A = TypeVar("A")
R = TypeVar("R")

_CROWDED_S: Final = 0.1
"""After two were here at once, it counts as crowded for so long: a few searches."""


@dataclass(slots=True, eq=False)
class _Call(Generic[A, R]):
    """What a thread asks. Flags change under the line's lock, or in the hands of whoever leads."""

    asked: A
    size: int
    woken: Lock = field(default_factory=Lock)  # held until there is an answer, or a lane
    group: list[_Call[A, R]] = field(default_factory=list)
    leads: bool = False
    gone: bool = False
    answer: list[R] = field(default_factory=list)
    error: Exception | None = None

    @property
    def done(self) -> bool:
        return bool(self.answer) or self.error is not None


class Together(Generic[A, R]):
    """A line of calls.

    Args:
        run: Answers calls, in their order. Its last argument says whether several threads are here, or were a
            moment ago. Where it raises it is asked anew for each call alone, so that an error is only ever told to
            who caused it.
        size: How much of a run's room a call takes, >= 1.
        room: Calls of so much together go into one run; what takes more goes alone. 0: each goes alone.
        at_once: Lanes that take whoever is first, alone or not, >= 1.
        lanes: All lanes, >= at_once; those beyond it open when those who wait fill the room, and are several.
    """

    def __init__(
        self,
        run: Callable[[Sequence[A], bool], Sequence[R]],
        size: Callable[[A], int],
        *,
        room: int,
        at_once: int = 1,
        lanes: int = 1,
    ) -> None:
        self._run = run
        self._size = size
        self._room = room
        self._at_once = at_once
        self._lanes = lanes
        self._busy = 0
        self._lock = Lock()
        self._line: list[_Call[A, R]] = []
        self._crowded_until = 0.0

    def __call__(self, asked: A) -> R:
        """What `run` answers.

        Raises:
            Exception: What `run` raised for this call.
        """
        mine: _Call[A, R] = _Call(asked, self._size(asked))
        try:
            self._stand(mine)
            if mine.leads:
                self._lead(mine)
        finally:  # a signal may end this thread's wait, or its run, at any point
            self._leave(mine)
        if mine.error is not None:
            raise mine.error
        return mine.answer[0]

    def _stand(self, mine: _Call[A, R]) -> None:
        """Waits for a lane, or for an answer."""
        mine.woken.acquire()
        with self._lock:
            if self._busy:
                self._crowded_until = time.monotonic() + _CROWDED_S
            self._line.append(mine)
            self._admit()
        mine.woken.acquire()

    def _admit(self) -> None:
        """Gives a lane to the first in the line who may have one. The caller holds the lock."""
        if not self._line or self._busy >= self._lanes:
            return
        full = 0 < self._room <= sum(one.size for one in self._line) and len(self._line) > 1
        if self._busy < self._at_once or full:
            leader = self._line[0]
            self._busy += 1
            leader.leads = True
            self._gather(leader)
            leader.woken.release()

    def _gather(self, leader: _Call[A, R]) -> None:
        """Takes who may go with the leader, and the leader, out of the line. The caller holds the lock."""
        if not leader.group:
            leader.group = [leader]
        left = self._room - sum(one.size for one in leader.group)
        for one in self._line:
            if one is not leader and one.size <= left:
                leader.group.append(one)
                left -= one.size
        self._line = [one for one in self._line if one not in leader.group]

    def _lead(self, mine: _Call[A, R]) -> None:
        with self._lock:
            self._gather(mine)  # who came while this thread woke up
            crowded = time.monotonic() < self._crowded_until or len(mine.group) > 1
        self._answer(mine.group, crowded)

    def _answer(self, group: Sequence[_Call[A, R]], crowded: bool) -> None:
        try:
            answers = self._run([one.asked for one in group], crowded)
            for one, answer in zip(group, answers, strict=True):
                one.answer = [answer]
        except Exception as error:  # noqa: BLE001 - told to whoever asked
            if len(group) == 1:
                group[0].error = error
                return
            for one in group:
                self._answer([one], crowded)

    def _leave(self, mine: _Call[A, R]) -> None:
        """Hands the lane on, if this call had one, and sends everybody who has an answer on their way."""
        with self._lock:
            mine.gone = True
            self._line = [one for one in self._line if one is not mine]
            if not mine.leads:
                return
            others, mine.group = [one for one in mine.group if not one.gone], []
            self._line[:0] = [
                one for one in others if not one.done
            ]  # a signal ended the run: they lead one of theirs
            self._busy -= 1
            self._admit()
            for one in others:
                if one.done:
                    one.woken.release()
