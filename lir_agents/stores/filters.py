"""Metadata filters: read into an expression, refused where they are malformed, evaluated exactly.

The rules, for versions of documents (a filter never sees a pending one):

* `{key: value}` is `{key: {"$eq": value}}`; several keys, and several operators of one key, are joined by *and*;
  `{}` matches everything.
* **A key that a document lacks never matches**, under any operator, `$ne` and `$nin` included; `{"$exists": False}`
  asks for the lack itself. A key that no document has is lacked by all of them: it is no error, so that an error
  cannot tell which keys other people's documents use.
* `$eq` `$ne` `$in` `$nin` compare by value: 1 equals 1.0, True equals only True, "1" equals only "1", a list
  equals a list of equal elements in the same order. `$in: []` matches nothing.
* `$gt` `$gte` `$lt` `$lte` compare numbers with numbers, and strings with strings by code point. A value of
  another kind, booleans and lists included, does not match.
* `$contains` matches lists that hold an element equal to the operand; never strings.
* `$and` and `$or` take a non-empty list of filters. `$not` takes one filter and is the plain set complement: it
  matches exactly the versions that the filter does not, *also those that lack its keys*; to leave these out, add
  `{key: {"$exists": True}}`. So De Morgan's laws hold, and nothing outside the catalog's own versions can ever
  match. (`{key: {"$ne": value}}` is narrower than `{"$not": {key: value}}`.)

A filter narrows what access control allows, by intersection; no filter can widen it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lir_agents.errors import InputError
from lir_agents.stores.attributes import BOOL, LIST, Column, Tagged, tag
from lir_agents.types import Filter

__all__ = ["MAX_CONDITIONS", "MAX_DEPTH", "MAX_VALUES", "Expression", "evaluate", "parse_filter"]

MAX_DEPTH = 24
"""Most levels of `$and`, `$or`, `$not`."""
MAX_CONDITIONS = 1_000
"""Most operators in one filter."""
MAX_VALUES = 100_000
"""Most values named in one filter, over all `$in` and `$nin`."""

_RANGES = {
    # operator: (low from operand, high from operand, low included, high included)
    "$gt": (True, False, False, False),
    "$gte": (True, False, True, False),
    "$lt": (False, True, False, False),
    "$lte": (False, True, False, True),
}
_OPERATORS = ("$eq", "$ne", "$in", "$nin", *_RANGES, "$exists", "$contains")

VersionMask = NDArray[np.bool_]
ColumnOf = Callable[[str], Column]


@dataclass(frozen=True, slots=True)
class Condition:
    """One operator on one key; `values` holds its operands, tagged."""

    key: str
    operator: str
    values: tuple[Tagged, ...]


@dataclass(frozen=True, slots=True)
class All:
    """Every part matches; without parts, everything does."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """At least one part matches."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not match."""

    part: Expression


Expression = Condition | All | Either | Not


# ---------------------------------------------------------------- reading


def parse_filter(filter: Filter) -> Expression:
    """Reads a filter.

    Raises:
        InputError: Malformed, too deep or too large; `field` is the path to what is wrong.
    """
    return _Reader().mapping(filter, "filter", depth=0)


class _Reader:
    """Reads one filter and counts what it holds."""

    def __init__(self) -> None:
        self._conditions = 0
        self._values = 0

    def mapping(self, given: Any, field: str, depth: int) -> Expression:
        if not isinstance(given, Mapping):
            raise InputError(
                f"is {type(given).__name__}", field=field, remedy='Pass a mapping like {"region": "eu"}.'
            )
        if depth > MAX_DEPTH:
            raise InputError(f"is nested deeper than {MAX_DEPTH} levels", field="filter", remedy="Flatten it.")
        parts = [part for key, value in given.items() for part in self._entry(key, value, field, depth)]
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _entry(self, key: Any, value: Any, field: str, depth: int) -> list[Expression]:
        if not isinstance(key, str) or not key:
            raise InputError(f"has the key {key!r}", field=field, remedy="A key is a non-empty string.")
        path = f"{field}.{key}"
        if key in ("$and", "$or"):
            if not isinstance(value, list | tuple) or not value:
                raise InputError("is no non-empty list", field=path, remedy="Pass a list of filters.")
            parts = tuple(self.mapping(part, f"{path}[{i}]", depth + 1) for i, part in enumerate(value))
            return [All(parts) if key == "$and" else Either(parts)]
        if key == "$not":
            return [Not(self.mapping(value, path, depth + 1))]
        if key.startswith("$"):
            raise InputError(
                "is unknown here",
                field=path,
                remedy="Filters are joined by $and, $or and $not; other $… follow a key.",
            )
        if not isinstance(value, Mapping):
            value = {"$eq": value}
        if not value:
            raise InputError("names no operator", field=path, remedy=f"Use one of {', '.join(_OPERATORS)}.")
        return [self._condition(key, operator, operand, path) for operator, operand in value.items()]

    def _condition(self, key: str, operator: Any, operand: Any, field: str) -> Condition:
        if not isinstance(operator, str) or operator not in _OPERATORS:
            raise InputError(
                f"has the unknown operator {operator!r}", field=field, remedy=f"Use one of {', '.join(_OPERATORS)}."
            )
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise InputError(
                f"holds more than {MAX_CONDITIONS} conditions", field="filter", remedy="Use $in for many values."
            )
        return Condition(key, operator, self._operands(operator, operand, f"{field}.{operator}"))

    def _operands(self, operator: str, operand: Any, field: str) -> tuple[Tagged, ...]:
        if operator in ("$in", "$nin"):
            if not isinstance(operand, list | tuple | set | frozenset):
                raise InputError(f"is {type(operand).__name__}", field=field, remedy="Pass a list of values.")
            return tuple(self._value(value, field) for value in operand)
        value = self._value(operand, field)
        kind = value[0]
        if operator == "$exists" and kind != BOOL:
            raise InputError(f"is {operand!r}", field=field, remedy="Pass True or False.")
        if operator in _RANGES and kind in (BOOL, LIST):
            raise InputError(f"has no order: {operand!r}", field=field, remedy="Pass a number or a string.")
        if operator == "$contains" and kind == LIST:
            raise InputError("is a list", field=field, remedy="Pass one element; join several by $and or $or.")
        return (value,)

    def _value(self, value: Any, field: str) -> Tagged:
        items = value if isinstance(value, list | tuple) else (value,)
        for item in items:
            if not isinstance(item, str | int | float) or (isinstance(item, float) and not math.isfinite(item)):
                raise InputError(
                    f"is {item!r}",
                    field=field,
                    remedy="Values are str, int, float, bool or lists of them; ask for a lack with $exists.",
                )
        self._values += max(1, len(items))
        if self._values > MAX_VALUES:
            raise InputError(f"holds more than {MAX_VALUES:,} values", field="filter", remedy="Split the request.")
        return tag(value)


# ---------------------------------------------------------------- evaluating


def evaluate(expression: Expression, universe: VersionMask, column_of: ColumnOf) -> VersionMask:
    """Finds the versions that match.

    Args:
        expression: What `parse_filter` read.
        universe: bool [n], the versions that exist; nothing else can match.
        column_of: Gives the column of a key, covering at least n versions.

    Returns:
        bool [n].
    """
    if isinstance(expression, Condition):
        return _condition(expression, column_of(expression.key), universe)
    if isinstance(expression, Not):
        return universe & ~evaluate(expression.part, universe, column_of)
    masks = [evaluate(part, universe, column_of) for part in expression.parts]
    joined: VersionMask = (
        np.logical_or.reduce(masks) if isinstance(expression, Either) else np.logical_and.reduce([universe, *masks])
    )
    return joined


def _condition(condition: Condition, column: Column, universe: VersionMask) -> VersionMask:
    size, operator, values = len(universe), condition.operator, condition.values
    if operator in ("$eq", "$in"):
        return universe & column.spread(column.equal(values), size)
    if operator in ("$ne", "$nin"):
        return universe & column.spread(column.equal(values), size, inverted=True)
    if operator == "$contains":
        return universe & column.spread(column.containing(values[0]), size)
    kind, operand = values[0]
    if operator == "$exists":
        present = column.spread((), size, inverted=True)
        return universe & (present if operand else ~present)
    low, high, low_in, high_in = _RANGES[operator]
    numbers = column.between(
        kind, operand if low else None, operand if high else None, low_in=low_in, high_in=high_in
    )
    return universe & column.spread(numbers, size)
