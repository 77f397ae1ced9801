"""Calls of several threads, in few lanes; those that had to wait for a lane go into the next run together.

Nobody waits for company: whoever finds a free lane goes at once, and alone. No thread is made either: the one at
the head of the line does the work of all of its kind that stand in it, then hands the lane to the next.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Final, Generic, TypeVar

__all__ = ["Together"]

K = TypeVar("K", bound=Hashable)
A = TypeVar("A")
R = TypeVar("R")

_CROWDED_S: Final = 0.1
"""After two were here at once, it counts as crowded for so long: a few searches."""


@dataclass(slots=True, eq=False)
class _Call(Generic[K, A, R]):
    """What a thread asks. Flags change under the line's lock, or in the hands of whoever leads."""

    kind: K
    asked: A
    woken: Lock = field(default_factory=Lock)  # held until there is an answer, or a lane
    group: list[_Call[K, A, R]] = field(default_factory=list)
    leads: bool = False
    gone: bool = False
    answer: list[R] = field(default_factory=list)
    error: Exception | None = None

    @property
    def done(self) -> bool:
        return bool(self.answer) or self.error is not None


class Together(Generic[K, A, R]):
    """A line of calls.

    Args:
        run: Answers calls of one kind, in their order. Its last argument says whether several threads are here, or
            were a moment ago. Where it raises it is asked anew for each call alone, so that an error is only ever
            told to who caused it.
        most: How many calls of a kind may go into one run.
        at_once: Lanes that take whoever is first, alone or not, >= 1.
        lanes: All lanes, >= at_once; those beyond it take full groups of several only.
    """

    def __init__(
        self,
        run: Callable[[K, Sequence[A], bool], Sequence[R]],
        most: Callable[[K], int],
        *,
        at_once: int = 1,
        lanes: int = 1,
    ) -> None:
        self._run = run
        self._most = most
        self._at_once = at_once
        self._lanes = lanes
        self._busy = 0
        self._lock = Lock()
        self._line: list[_Call[K, A, R]] = []
        self._crowded_until = 0.0

    def __call__(self, kind: K, asked: A) -> R:
        """What `run` answers.

        Raises:
            Exception: What `run` raised for this call.
        """
        mine: _Call[K, A, R] = _Call(kind, asked)
        try:
            self._stand(mine)
            if mine.leads:
                self._lead(mine)
        finally:  # a signal may end this thread's wait, or its run, at any point
            self._leave(mine)
        if mine.error is not None:
            raise mine.error
        return mine.answer[0]

    def _stand(self, mine: _Call[K, A, R]) -> None:
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
        kinds = Counter(one.kind for one in self._line)
        for one in self._line:
            if self._busy < self._at_once or kinds[one.kind] >= self._most(one.kind) > 1:
                self._busy += 1
                one.leads = True
                self._gather(one)
                one.woken.release()
                return

    def _gather(self, leader: _Call[K, A, R]) -> None:
        """Takes who may go with the leader out of the line. The caller holds the lock."""
        alike = [one for one in self._line if one.kind == leader.kind]
        leader.group += alike[: self._most(leader.kind) - len(leader.group)]
        self._line = [one for one in self._line if one not in leader.group]

    def _lead(self, mine: _Call[K, A, R]) -> None:
        with self._lock:
            self._gather(mine)  # who came while this thread woke up
            crowded = time.monotonic() < self._crowded_until or len(mine.group) > 1
        self._answer(mine.group, crowded)

    def _answer(self, group: Sequence[_Call[K, A, R]], crowded: bool) -> None:
        try:
            answers = self._run(group[0].kind, [one.asked for one in group], crowded)
            for one, answer in zip(group, answers, strict=True):
                one.answer = [answer]
        except Exception as error:  # noqa: BLE001 - told to whoever asked
            if len(group) == 1:
                group[0].error = error
                return
            for one in group:
                self._answer([one], crowded)

    def _leave(self, mine: _Call[K, A, R]) -> None:
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
