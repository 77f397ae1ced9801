"""How long a policy may think, and how its failures are told."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import wait
from typing import TypeVar

from lir_agents.deadline import SideCalls

__all__ = ["Deadline", "PolicyTimeout", "told"]

T = TypeVar("T")


class PolicyTimeout(Exception):  # noqa: N818 - never leaves this room: it becomes AccessDenied
    """The policy did not answer in time."""


class Deadline:
    """Gives up on calls after `seconds`; with `stuck_limit` of them hanging, on every further one.

    A native call that holds the interpreter lock cannot be given up on.
    """

    def __init__(self, seconds: float, *, stuck_limit: int = 8) -> None:
        self.seconds = seconds
        self._calls = SideCalls("lir-policy", at_most=stuck_limit)

    def run(self, call: Callable[[], T]) -> T:
        """The call's result, or what it raised. Raises PolicyTimeout when it took too long."""
        try:
            future = self._calls.start(call, timeout_s=self.seconds)
        except TimeoutError:
            raise PolicyTimeout(f"did not answer within {self.seconds:g} s") from None
        if not wait([future], timeout=self.seconds).done:
            raise PolicyTimeout(f"did not answer within {self.seconds:g} s")
        return future.result()


def told(error: Exception) -> str:
    """A failure of a policy in words that name no document: the kind of error, never its message."""
    return str(error) if isinstance(error, PolicyTimeout) else f"raised {type(error).__name__}"
