"""Encoding on a thread of its own, while whoever asked for it works on what is there already."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from threading import Semaphore
from typing import Final, TypeVar

from lir_agents.deadline import SideCalls

__all__ = ["ahead"]

T = TypeVar("T")

_CALLS: Final = SideCalls("lir-encode", at_most=32)
"""More at a time than processors could gain from; who finds no thread takes one item after the other."""


@contextmanager
def ahead(items: Iterator[T], most: int) -> Iterator[Iterator[T]]:
    """Takes items beside the caller, who gets them in their order.

    Args:
        items: Nobody else takes from it. It is taken from, and closed, on a thread of ours. Left early, it is asked
            for nothing more.
        most: Items that wait for the caller at a time, >= 1.

    Yields:
        The items, to be taken within the context; taking the next one raises what `items` raised in its place. The
        context ends when the item that was being made is there. Only an interrupt does not wait for that.
    """
    room, found, left = Semaphore(most), SimpleQueue[tuple[T] | None](), False

    def take() -> None:
        try:
            for item in items:
                room.acquire()
                if left:
                    return
                found.put((item,))
        finally:
            try:
                if isinstance(items, Generator):
                    items.close()  # here, where it ran, and not wherever it is collected
            finally:
                found.put(None)

    def taken(taking: Future[None]) -> Iterator[T]:
        while (one := found.get()) is not None:
            room.release()
            yield one[0]
        taking.result()

    taking, waits = None, True
    try:
        with suppress(TimeoutError):
            taking = _CALLS.start(take, timeout_s=0.0)
        yield items if taking is None else taken(taking)
    except BaseException as error:
        waits = isinstance(error, Exception)
        raise
    finally:
        left = True
        room.release()
        if waits and taking is not None:
            taking.exception()
