"""The compiled library, where there is one."""

from __future__ import annotations

import ctypes
import functools
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lir_agents.threads import available_processors

__all__ = ["LANE", "address", "aligned", "library", "number_of", "paths", "require", "several_processors"]

_NAME: Final = {"win32": "_native.dll", "darwin": "_native.dylib"}.get(sys.platform, "_native.so")
_PATHS: Final = ("portable", "avx2", "avx512_vnni", "amx_int8")

LANE: Final = 64
"""Bytes that rows are padded to: the constant of this name in processor.h."""


@functools.cache
def library() -> Any:
    """The library, or None where the package was built without a compiler."""
    try:
        return ctypes.CDLL(str(Path(__file__).with_name(_NAME)))
    except OSError:
        return None


@functools.cache
def paths() -> tuple[str, ...]:
    """The ways through the loops that this processor has, slowest first; none without the library.

    All give the same bits.
    """
    return () if library() is None else _PATHS[: library().lir_best_path() + 1]


def number_of(path: str | None) -> int:
    """What the library calls a path; None is the fastest.

    Raises:
        ValueError: There is no such path on this processor.
    """
    ways = paths()
    chosen = ways[-1] if path is None and ways else path
    if chosen not in ways:
        raise ValueError(f"no path {chosen!r} on this processor, but {', '.join(ways)}")
    return ways.index(chosen)


def require(values: NDArray[Any], shape: tuple[int, ...]) -> None:
    """The library reads what it is told is there.

    Raises:
        ValueError: An array has another shape.
    """
    if values.shape != shape:
        raise ValueError(f"an array of {values.shape} where {shape} is wanted")


def address(values: NDArray[Any]) -> int:
    """Where an array begins. `ctypes.data` says so as well, and takes five times as long."""
    return int(values.__array_interface__["data"][0])


@functools.cache
def several_processors() -> bool:
    """Whether a second thread has a processor to help on."""
    return available_processors() > 1


def aligned(values: NDArray[Any]) -> NDArray[Any]:
    """A copy whose first byte begins a line of the cache, as each part of it does then."""
    memory = np.empty(values.nbytes + LANE, np.uint8)
    start = -memory.ctypes.data % LANE
    copy = memory[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy
