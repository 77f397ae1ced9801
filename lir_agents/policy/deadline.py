"""How long a policy may think, and how its failures are told."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import wait
from typing import TypeVar

from lir_agents.deadline import SideCalls

__all__ = ["Deadline", "PolicyEscape", "PolicyTimeout", "told"]

T = TypeVar("T")


class PolicyTimeout(Exception):  # noqa: N818 - never leaves this room: it becomes AccessDenied
    """The policy did not answer in time."""


class PolicyEscape(Exception):  # noqa: N818 - never leaves this room either
    """The policy raised what is no `Exception`: a cancellation, a panic of an engine in another language."""


class Deadline:
    """Gives up on calls after `seconds`; with `stuck_limit` of them hanging, on every further one.

    A native call that holds the interpreter lock cannot be given up on.
    """

    def __init__(self, seconds: float, *, stuck_limit: int = 8) -> None:
        self.seconds = seconds
        self._calls = SideCalls("lir-policy", at_most=stuck_limit)

    def run(self, call: Callable[[], T]) -> T:
        """The call's result, or what it raised.

        Raises:
            PolicyTimeout: It took too long.
            PolicyEscape: What it raised is no `Exception`, and would pass whoever turns failures into denials. Only
                what ends the process is let through as it is.
        """

        def held() -> T:
            try:
                return call()
            except (Exception, KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                raise PolicyEscape(f"raised {type(error).__name__}") from error

        try:
            future = self._calls.start(held, timeout_s=self.seconds)
        except TimeoutError:
            raise PolicyTimeout(f"did not answer within {self.seconds:g} s") from None
        if not wait([future], timeout=self.seconds).done:
            raise PolicyTimeout(f"did not answer within {self.seconds:g} s")
        return future.result()


def told(error: Exception) -> str:
    """A failure of a policy in words that name no document: the kind of error, never its message."""
    return str(error) if isinstance(error, PolicyTimeout | PolicyEscape) else f"raised {type(error).__name__}"
