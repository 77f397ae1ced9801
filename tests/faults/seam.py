"""The seam for faults: any room of an open index, made to stall, raise, answer nonsense, fill the disk or die."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from lir_agents import LateInteractionIndex
from lir_agents.policy.base import AccessScope

__all__ = ["Stall", "corrupting", "disk_full", "killing", "raising", "troubled"]

Trouble = Callable[[Callable[[], Any]], Any]
"""Told to call a room, does something else first, or instead, or with what the room answers."""


class Stall:
    """Every call hangs for so many seconds, or until it is let go, and then answers as usual."""

    def __init__(self, seconds: float = 10.0) -> None:
        self._seconds = seconds
        self.let_go = threading.Event()
        self.calls = 0

    def __call__(self, call: Callable[[], Any]) -> Any:
        self.calls += 1
        self.let_go.wait(self._seconds)
        return call()


def raising(error: BaseException) -> Trouble:
    """Every call raises."""

    def trouble(call: Callable[[], Any]) -> Any:
        raise error

    return trouble


def corrupting(change: Callable[[Any], Any]) -> Trouble:
    """Every answer is changed."""
    return lambda call: change(call())


def disk_full() -> Trouble:
    """Every call finds the disk full."""
    return raising(OSError(errno.ENOSPC, "No space left on device"))


def killing() -> Trouble:
    """The first call kills the process."""
    return lambda call: os.kill(os.getpid(), signal.SIGKILL)


class Faulty:
    """Stands in for a room; calls of its methods go through the trouble.

    Args:
        room: The real one.
        trouble: What happens to calls.
        only: Methods that it happens to; empty: to all.
    """

    def __init__(self, room: Any, trouble: Trouble, only: Collection[str] = ()) -> None:
        self._room, self._trouble, self._only = room, trouble, only

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._room, name)
        if not callable(found) or (self._only and name not in self._only):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            answer = self._trouble(lambda: found(*args, **kwargs))
            # The scope asks its policy again before anything surfaces: that is this policy.
            return replace(answer, policy=self) if isinstance(answer, AccessScope) else answer

        return call


@contextmanager
def troubled(
    index: LateInteractionIndex, room: str, trouble: Trouble, only: Collection[str] = ()
) -> Iterator[None]:
    """Within it, one room of the index is in trouble.

    Args:
        index: Open.
        room: "encoder", "vectors", "lexical", "tokens", "catalog", "policy", "audit" or "memory".
        trouble: What happens to calls.
        only: Methods that it happens to; empty: to all.
    """
    rooms = index.rooms
    index._rooms = replace(rooms, **{room: Faulty(getattr(rooms, room), trouble, only)})
    try:
        yield
    finally:
        index._rooms = rooms
