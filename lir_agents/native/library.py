"""The compiled library, where there is one."""

from __future__ import annotations

import ctypes
import functools
import sys
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lir_agents.threads import available_processors

__all__ = ["LANE", "address", "aligned", "library", "number_of", "paths", "require", "several_processors"]

_NAME: Final = {"win32": "_native.dll", "darwin": "_native.dylib"}.get(sys.platform, "_native.so")
_PATHS: Final = ("portable", "avx2", "avx512_vnni", "amx_int8")

_LAYOUT: Final = 3
"""What the structures of the sources look like: the constant of this name in processor.c. They change together."""

_NUMBER, _LONG, _POINTER = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
_FUNCTIONS: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "lir_best_path": (_NUMBER, ()),
    "lir_depth": (_LONG, (_LONG, _LONG)),
    "lir_block_maxima": (
        _NUMBER,
        (_NUMBER, _NUMBER, _POINTER, _POINTER, _NUMBER, _POINTER, _POINTER, _POINTER),
    ),
    "lir_quantise": (_NUMBER, (_POINTER,)),
    "lir_places": (_LONG, (_POINTER, _POINTER, _LONG, _POINTER)),
    "lir_product_bounds": (
        _NUMBER,
        (_NUMBER, _NUMBER, _POINTER, _POINTER, _NUMBER, _LONG, ctypes.c_float, _POINTER, _POINTER),
    ),
}

LANE: Final = 64
"""Bytes that rows are padded to: the constant of this name in processor.h."""


@functools.cache
def library() -> Any:
    """The library, or None where there is none that runs here. Warns of one that was compiled from other sources.

    Its functions are told what they take when it is loaded, before anybody else has it: a function that knows
    nothing of its arguments cuts addresses in half.
    """
    try:
        found = ctypes.CDLL(str(Path(__file__).with_name(_NAME)))
        if found.lir_layout() != _LAYOUT:
            raise AttributeError("another layout")
        for name, (result, takes) in _FUNCTIONS.items():
            function = getattr(found, name)
            function.restype, function.argtypes = result, takes
    except OSError:
        return None
    except AttributeError:
        remedy = "run `python hatch_build.py`, or install the package again"
        warnings.warn(f"{_NAME} was compiled from other sources and is not used: {remedy}", stacklevel=2)
        return None
    return found


@functools.cache
def paths() -> tuple[str, ...]:
    """The ways through the loops that this processor has, slowest first; none without the library.

    All give the same bits.
    """
    return () if library() is None else _PATHS[: library().lir_best_path() + 1]


def number_of(path: str | None) -> int:
    """What the library calls a path; None is the fastest.

    Raises:
        ValueError: There is no such path on this processor, or no library.
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
