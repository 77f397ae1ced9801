"""Document metadata: what may be stored, and each key as a dictionary-encoded column that filters read.

A column holds every distinct value once and, for each version, the number of its value. An operator is decided
once per distinct value, with Python's exact comparison (an int and a float compare by value at any size), and
then spread over the versions by one array lookup.
"""

from __future__ import annotations

import json
import math
import sqlite3
import threading
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lir_agents.errors import InputError

__all__ = [
    "BOOL",
    "LIST",
    "NUMBER",
    "TEXT",
    "Column",
    "ColumnCache",
    "Tagged",
    "store_value",
    "tag",
    "validate_metadata",
]

BOOL, NUMBER, TEXT, LIST = range(4)
Tagged = tuple[int, Any]
"""A value with its kind, so that True, 1 and "1" stay apart while 1 and 1.0 are the same; a list is
`(LIST, (tagged, …))`."""

_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
_COLUMNS_KEPT = 64  # 4 bytes per version each


def validate_metadata(metadata: Mapping[str, Any], field: str = "metadata") -> None:
    """Checks that metadata can be stored and searched.

    Keys are non-empty strings that do not begin with `$` (those are operators of filters). Values are str, int
    of 64 bits, finite float, bool, or a list of them.

    Raises:
        InputError: Names the key and what is allowed.
    """
    if not isinstance(metadata, Mapping):
        raise InputError(f"is {type(metadata).__name__}", field=field, remedy="Pass a mapping.")
    for key, value in metadata.items():
        if not isinstance(key, str) or not key or key.startswith("$"):
            raise InputError(
                f"has the key {key!r}", field=field, remedy="A key is a non-empty string that begins with no $."
            )
        _require_text(key, field)
        for item in value if isinstance(value, list | tuple) else (value,):
            _require_scalar(item, f"{field}.{key}")


def _require_scalar(value: Any, field: str) -> None:
    if isinstance(value, str):
        _require_text(value, field)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(f"is {value}", field=field, remedy="Pass a finite number, or leave the key out.")
    elif isinstance(value, int):
        if not _SMALLEST <= value <= _LARGEST:
            raise InputError("is an integer of more than 64 bits", field=field, remedy="Pass it as a string.")
    else:
        raise InputError(
            f"is {type(value).__name__}",
            field=field,
            remedy="Pass str, int, float, bool or a list of them; leave the key out where there is no value.",
        )


def _require_text(text: str, field: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError("holds a lone surrogate", field=field, remedy="Pass valid Unicode text.") from error


def tag(value: Any) -> Tagged:
    """Tags a str, int, float, bool or list of them with its kind."""
    if isinstance(value, bool):
        return BOOL, value
    if isinstance(value, int | float):
        return NUMBER, value
    if isinstance(value, str):
        return TEXT, value
    return LIST, tuple(tag(item) for item in value)


def store_value(value: Any) -> tuple[int, Any]:
    """(kind, what SQLite holds) of a value: lists as JSON, everything else as itself."""
    kind, _ = tag(value)
    return kind, json.dumps(list(value)) if kind == LIST else value


def _load_value(kind: int, stored: Any) -> Tagged:
    if kind == LIST:
        return tag(json.loads(stored))
    return kind, bool(stored) if kind == BOOL else stored


class Column:
    """The values of one metadata key over all versions.

    Attributes:
        codes: int32 [versions covered + 1], number of each version's value; -1 where it lacks the key.
        index: Number of each distinct value.
    """

    def __init__(self, codes: NDArray[np.int32], index: Mapping[Tagged, int]) -> None:
        self.codes = codes
        self.index = index

    def spread(self, numbers: Iterable[int], size: int, *, inverted: bool = False) -> NDArray[np.bool_]:
        """Which of the first `size` versions hold one of the numbered values: bool [size].

        With `inverted`, those that hold any other value; a version that lacks the key is in neither.
        """
        table = np.full(len(self.index) + 1, inverted)
        table[list(numbers)] = not inverted
        table[-1] = False  # where codes are -1
        return table[self.codes[:size]]

    def equal(self, values: Iterable[Tagged]) -> list[int]:
        """Numbers of the values that equal one of `values`."""
        return [self.index[value] for value in values if value in self.index]

    def between(self, kind: int, low: Any, high: Any, *, low_in: bool, high_in: bool) -> list[int]:
        """Numbers of the values of one kind from `low` to `high`; None is no bound; `…_in` includes it."""
        values, numbers = self._ordered[kind]
        start = 0 if low is None else (bisect_left if low_in else bisect_right)(values, low)
        stop = len(values) if high is None else (bisect_right if high_in else bisect_left)(values, high)
        return numbers[start:stop]

    def containing(self, element: Tagged) -> list[int]:
        """Numbers of the lists that hold an element."""
        return self._elements.get(element, [])

    @cached_property
    def _ordered(self) -> dict[int, tuple[list[Any], list[int]]]:
        """Numbers and texts (compared by code point) in ascending order, with their numbers in `index`."""
        ordered = {}
        for kind in (NUMBER, TEXT):
            pairs = sorted((value, number) for (its_kind, value), number in self.index.items() if its_kind == kind)
            ordered[kind] = ([value for value, _ in pairs], [number for _, number in pairs])
        return ordered

    @cached_property
    def _elements(self) -> dict[Tagged, list[int]]:
        lists: dict[Tagged, list[int]] = {}
        for (kind, value), number in self.index.items():
            for element in dict.fromkeys(value) if kind == LIST else ():
                lists.setdefault(element, []).append(number)
        return lists


class ColumnCache:
    """Columns of the keys that filters have asked for, least recently used out first. Thread-safe."""

    def __init__(self, read: Callable[[str], AbstractContextManager[sqlite3.Connection]]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._purges = -1
        self._columns: OrderedDict[str, Column] = OrderedDict()

    def clear(self) -> None:
        """Forgets every value read so far."""
        with self._lock:
            self._columns.clear()

    def get(self, key: str, size: int, purges: int) -> Column:
        """The column of a key, covering at least the first `size` versions as of `purges` or later."""
        with self._lock:
            if purges > self._purges:
                self._columns.clear()
                self._purges = purges
            column = self._columns.get(key)
            if column is not None and len(column.codes) >= size:
                self._columns.move_to_end(key)
                return column
            with self._read("match") as connection:
                column = _load(connection, key, size, column)
            if column.index:  # a key that nobody has costs no memory, however many are asked for
                self._columns[key] = column
                if len(self._columns) > _COLUMNS_KEPT:
                    self._columns.popitem(last=False)
            return column


def _load(connection: sqlite3.Connection, key: str, size: int, old: Column | None) -> Column:
    """Reads a column, or what versions have been added since `old`; a version's metadata never changes."""
    known = len(old.codes) if old else 0
    codes = np.full(max(size, known), -1, np.int32)
    index: dict[Tagged, int] = {}
    if old:
        codes[:known] = old.codes
        index.update(old.index)
    for version, value in _values(connection, key, known, size):
        codes[version] = index.setdefault(value, len(index))
    return Column(codes, index)


def _values(connection: sqlite3.Connection, key: str, start: int, stop: int) -> Iterator[tuple[int, Tagged]]:
    rows = connection.execute(
        "SELECT version, kind, value FROM attribute WHERE key = (SELECT id FROM attribute_key WHERE key = ?)"
        " AND version >= ? AND version < ?",
        (key, start, stop),
    )
    for version, kind, stored in rows:
        yield version, _load_value(kind, stored)
