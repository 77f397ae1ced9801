"""Calls that may hang: run beside the caller, waited for up to a deadline, left behind after it."""

from __future__ import annotations

import atexit
import contextvars
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar
from weakref import WeakSet

__all__ = ["SideCalls"]

T = TypeVar("T")
_Task = tuple[Callable[[], Any], "Future[Any]"] | None
"""What a thread does next; None: it ends."""

_IDLE_S: Final = 10.0
"""Seconds after which a thread that nobody needs ends."""

_AT_EXIT_S: Final = 0.5
"""Seconds that the interpreter waits, when it exits, for calls that are nearly done. What is stuck is left."""

_ALL: WeakSet[Any] = WeakSet()


class SideCalls:
    """Runs calls in threads of its own, at most `at_most` at a time, and uses a thread again once its call ended.

    A thread cannot be stopped: one that hangs keeps its place until it ends, so that hanging calls do not pile up.
    The threads are daemons, because those of a `ThreadPoolExecutor` are waited for when the interpreter exits: one
    hanging call would then keep the whole process alive.

    Args:
        name: Of the threads, for whoever looks at a stack dump.
        at_most: Threads at a time.
    """

    def __init__(self, name: str, *, at_most: int) -> None:
        self._name = name
        self._at_most = at_most
        self._begin()
        _ALL.add(self)

    def _begin(self) -> None:
        self._process = os.getpid()
        self._places = threading.BoundedSemaphore(self._at_most)
        self._lock = threading.Lock()
        self._idle: list[SimpleQueue[_Task]] = []
        self._busy = 0

    def start(
        self, call: Callable[[], T], *, timeout_s: float, within: contextvars.Context | None = None
    ) -> Future[T]:
        """Starts a call in a copy of the caller's context.

        Args:
            call: What to run.
            timeout_s: Seconds to wait for a place where all are taken.
            within: The context to copy, where whoever asks for the call is not whoever starts it.

        Raises:
            TimeoutError: No place became free, or the system gives no thread (it is at its limit, or exits).
        """
        if self._process != os.getpid():  # a fork copies this object and none of its threads
            self._begin()
        if not self._places.acquire(timeout=max(0.0, timeout_s)):
            raise TimeoutError("every place is taken by calls that have not ended")
        context = contextvars.copy_context() if within is None else within.copy()
        future: Future[T] = Future()
        task: _Task = (lambda: context.run(call), future)
        with self._lock:
            self._busy += 1
            box = self._idle.pop() if self._idle else None
        if box is not None:
            box.put(task)
        else:
            self._begin_thread(task)
        return future

    def _begin_thread(self, task: _Task) -> None:
        try:
            threading.Thread(target=self._live, args=(task,), name=self._name, daemon=True).start()
        except RuntimeError as error:
            with self._lock:
                self._busy -= 1
            self._places.release()
            raise TimeoutError("the system gives no further thread") from error

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

    @property
    def busy(self) -> int:
        """Calls that have not ended."""
        return self._busy

    def close(self) -> None:
        """Ends the threads that have nothing to do; those at work end a little after it."""
        with self._lock:
            idle, self._idle = self._idle, []
        for box in idle:
            box.put(None)

    def _live(self, task: _Task) -> None:
        box: SimpleQueue[_Task] = SimpleQueue()
        while task is not None:
            self._do(*task, box)
            task = None  # what was asked and found lives no longer than whoever waits for it
            try:
                task = box.get(timeout=_IDLE_S)
            except Empty:
                with self._lock:
                    if box in self._idle:
                        self._idle.remove(box)
                        return
                task = box.get()  # given at this very moment

    def _do(self, call: Callable[[], Any], future: Future[Any], box: SimpleQueue[_Task]) -> None:
        try:
            result, error = call(), None
        except BaseException as raised:  # noqa: BLE001 - handed to whoever waits for the future
            result, error = None, raised
        with self._lock:
            self._busy -= 1
            self._idle.append(box)
        self._places.release()  # before the caller hears of the end: its next call may have this thread
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


def _ended(future: Future[T], timeout_s: float) -> bool:
    """Whether it ended in time; apart from its result, because a call may itself raise TimeoutError."""
    try:
        future.exception(max(0.0, timeout_s))  # `wait` would take seven times as long to wake up
    except TimeoutError:
        return future.done()
    except CancelledError:
        return True
    return True


@atexit.register
def _settle() -> None:
    """Lets calls end that can: a daemon thread that the exit catches within C++ takes the process down with it."""
    until = time.monotonic() + _AT_EXIT_S
    while any(calls.busy for calls in list(_ALL)) and time.monotonic() < until:
        time.sleep(0.005)
