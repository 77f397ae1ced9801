"""Encoding on a thread of its own, while whoever asked for it works on what is there already."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Semaphore
from typing import Final, TypeVar

from lir_agents.deadline import SideCalls

__all__ = ["ahead"]

T = TypeVar("T")

_CALLS: Final = SideCalls("lir-encode", at_most=32)


@contextmanager
def ahead(items: Iterator[T], most: int) -> Iterator[Iterator[T]]:
    """Takes items beside the caller, who gets them in their order.

    Args:
        items: Nobody else takes from it. Left early, it is asked for nothing more.
        most: Items that wait for the caller at a time, >= 1.

    Yields:
        The items; taking the next one raises what `items` raised in its place. The context ends when nothing of
        it runs any more.
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
            if isinstance(items, Generator):
                items.close()
            found.put(None)

    try:
        taking = _CALLS.start(take, timeout_s=0.0)
    except TimeoutError:  # there is no thread to be had: one after the other
        yield items
        return

    def taken() -> Iterator[T]:
        while (one := found.get()) is not None:
            room.release()
            yield one[0]
        taking.result()

    try:
        yield taken()
    finally:
        left = True
        room.release()
        taking.exception()
