"""Calls that may hang: run beside the caller, waited for up to a deadline, left behind after it."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

__all__ = ["SideCalls"]

T = TypeVar("T")


class SideCalls:
    """Runs each call in a thread of its own, at most `at_most` at a time.

    A thread cannot be stopped: one that hangs keeps its place until it ends, so that hanging calls do not pile up.
    The threads are daemons, because those of a `ThreadPoolExecutor` are waited for when the interpreter exits: one
    hanging call would then keep the whole process alive.

    Args:
        name: Of the threads, for whoever looks at a stack dump.
        at_most: Threads at a time.
    """

    def __init__(self, name: str, *, at_most: int) -> None:
        self._name = name
        self._places = threading.BoundedSemaphore(at_most)

    def start(self, call: Callable[[], T], *, timeout_s: float) -> Future[T]:
        """Starts a call in a copy of the caller's context.

        Args:
            call: What to run.
            timeout_s: Seconds to wait for a place where all are taken.

        Raises:
            TimeoutError: No place became free.
        """
        if not self._places.acquire(timeout=max(0.0, timeout_s)):
            raise TimeoutError("every place is taken by calls that have not ended")
        future: Future[T] = Future()
        context = contextvars.copy_context()

        def work() -> None:
            try:
                future.set_result(context.run(call))
            except BaseException as error:  # noqa: BLE001 - handed to whoever waits for the future
                future.set_exception(error)
            finally:
                self._places.release()

        threading.Thread(target=work, name=self._name, daemon=True).start()
        return future

    def run(self, call: Callable[[], T], *, timeout_s: float) -> T:
        """The call's result, or what it raised.

        Raises:
            TimeoutError: It took longer than `timeout_s` seconds, the wait for a place included.
        """
        until = time.monotonic() + timeout_s
        future = self.start(call, timeout_s=timeout_s)
        if not _ended(future, until - time.monotonic()):
            raise TimeoutError
        return future.result()


def _ended(future: Future[T], timeout_s: float) -> bool:
    """Whether it ended in time; apart from its result, because a call may itself raise TimeoutError."""
    return bool(wait([future], timeout=max(0.0, timeout_s)).done)
