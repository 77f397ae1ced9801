"""LlamaIndex's `MetadataFilters` as a filter of ours: wholly, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from lir_agents.errors import InputError
from lir_agents.types import Filter

__all__ = ["to_filter"]

# As LlamaIndex's own stores have it, a document that lacks the key matches != and nin: the plain complement.
_PLAIN: Final[dict[FilterOperator, Callable[[str, Any], Filter]]] = {
    FilterOperator.EQ: lambda key, value: {key: {"$eq": value}},
    FilterOperator.NE: lambda key, value: {"$not": {key: {"$eq": value}}},
    FilterOperator.GT: lambda key, value: {key: {"$gt": value}},
    FilterOperator.GTE: lambda key, value: {key: {"$gte": value}},
    FilterOperator.LT: lambda key, value: {key: {"$lt": value}},
    FilterOperator.LTE: lambda key, value: {key: {"$lte": value}},
    FilterOperator.CONTAINS: lambda key, value: {key: {"$contains": value}},
}
_OVER_LISTS: Final[dict[FilterOperator, Callable[[str, list[Any]], Filter]]] = {
    FilterOperator.IN: lambda key, values: {key: {"$in": values}},
    FilterOperator.NIN: lambda key, values: {"$not": {key: {"$in": values}}},
    FilterOperator.ANY: lambda key, values: _joined("$or", [{key: {"$contains": value}} for value in values]),
    FilterOperator.ALL: lambda key, values: _joined(
        "$and", [{key: {"$exists": True}}, *({key: {"$contains": value}} for value in values)]
    ),
}
_NOTHING: Final[Filter] = {"$not": {}}
"""The complement of everything."""


def to_filter(filters: MetadataFilters | None) -> Filter | None:
    """The filter that matches the same documents, but for parts of strings.

    `contains`, `any` and `all` look for elements of a list. LlamaIndex's own evaluation also looks for parts of a
    string; here, a document whose value is a string does not match.

    Args:
        filters: With any nesting of and, or, not. None, or one without conditions, asks for nothing.

    Raises:
        InputError: No `MetadataFilters`, an operator that the index does not know (text_match,
            text_match_insensitive), or a value of the wrong type; `field` is "filters".
    """
    if filters is not None and not isinstance(filters, MetadataFilters):
        raise InputError(
            f"is {type(filters).__name__}",
            field="filters",
            remedy="Pass MetadataFilters(filters=[MetadataFilter(key=..., value=...)]).",
        )
    return None if filters is None or not filters.filters else _group(filters)


def _group(filters: MetadataFilters) -> Filter:
    parts = [_group(one) if isinstance(one, MetadataFilters) else _one(one) for one in filters.filters]
    condition = filters.condition or FilterCondition.AND
    if condition == FilterCondition.NOT:
        return {"$not": _joined("$or", parts)}  # none of them matches
    return _joined("$or" if condition == FilterCondition.OR else "$and", parts)


def _one(one: MetadataFilter) -> Filter:
    if one.operator == FilterOperator.IS_EMPTY:
        return {"$or": [{one.key: {"$exists": False}}, {one.key: {"$eq": []}}, {one.key: {"$eq": ""}}]}
    if one.value is None:
        raise _refused(one, "has no value", "Give one, or use is_empty.")
    if one.operator in _OVER_LISTS:
        if not isinstance(one.value, list):
            raise _refused(one, "needs a list", f"Write value=[{one.value!r}].")
        return _OVER_LISTS[one.operator](one.key, list(one.value))
    if one.operator in _PLAIN:
        return _PLAIN[one.operator](one.key, one.value)
    raise _refused(one, "is not known to the index", "Filter by a metadata key, or put the words into the query.")


def _joined(operator: str, parts: list[Filter]) -> Filter:
    if not parts:
        return _NOTHING if operator == "$or" else {}
    return parts[0] if len(parts) == 1 else {operator: parts}


def _refused(one: MetadataFilter, reason: str, remedy: str) -> InputError:
    return InputError(f"operator {one.operator.value!r} on {one.key!r} {reason}", field="filters", remedy=remedy)
