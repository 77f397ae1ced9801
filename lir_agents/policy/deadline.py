"""Calls that may hang, and the time after which they are given up on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["Deadline", "PolicyTimeout", "told"]

T = TypeVar("T")


class PolicyTimeout(Exception):  # noqa: N818 - never leaves this room: it becomes AccessDenied
    """The policy did not answer in time."""


class Deadline:
    """Runs calls that may hang, each in a thread of its own, and gives up on them after `seconds`.

    A thread cannot be stopped, so at most `stuck_limit` may be hanging; with that many, further calls are given
    up at once instead of piling up. The threads are daemons and keep no process alive. A native call that
    holds the interpreter lock cannot be given up on.
    """

    def __init__(self, seconds: float, *, stuck_limit: int = 8) -> None:
        self.seconds = seconds
        self._places = threading.BoundedSemaphore(stuck_limit)

    def run(self, call: Callable[[], T]) -> T:
        """The call's result, or what it raised. Raises PolicyTimeout when it took too long."""
        if not self._places.acquire(timeout=self.seconds):
            raise PolicyTimeout(f"did not answer within {self.seconds:g} s")
        results: list[T] = []
        errors: list[BaseException] = []
        done = threading.Event()

        def work() -> None:
            try:
                results.append(call())
            except BaseException as error:  # noqa: BLE001 - handed to the caller's thread below
                errors.append(error)
            finally:
                self._places.release()
                done.set()

        threading.Thread(target=work, name="lir-policy", daemon=True).start()
        if not done.wait(self.seconds):
            raise PolicyTimeout(f"did not answer within {self.seconds:g} s")
        if errors:
            raise errors[0]
        return results[0]


def told(error: Exception) -> str:
    """A failure of a policy in words that name no document: the kind of error, never its message."""
    return str(error) if isinstance(error, PolicyTimeout) else f"raised {type(error).__name__}"
