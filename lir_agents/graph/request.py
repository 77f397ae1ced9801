"""One search as it was asked for, checked at the door."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lir_agents.config import SearchSettings
from lir_agents.errors import InputError
from lir_agents.stores.filters import parse_filter
from lir_agents.types import Filter, ToolSignal, Turn

__all__ = ["Request", "checked_queries", "checked_request"]


@dataclass(frozen=True, slots=True)
class Request:
    """A checked request. Who asks is not part of it: see `RetrievalContext`.

    Attributes:
        query: The turn, stripped, never empty.
        k: Hits wanted, >= 1.
        filter: Metadata filter, or None.
        history: The conversation as the caller tells it, oldest first.
        tool_signals: What tools answered, as the caller tells it, oldest first.
        tool_calls: Tools to run now, as LangChain tool calls (name, args, id).
        as_of: An epoch or a UTC time at which the index is to be read; None: now.
        remember: Whether the turn is kept in the thread's memory.
        one_per_document: Whether a document has one hit at most, its best passage.
    """

    query: str
    k: int
    filter: Filter | None = None
    history: Sequence[Turn] = ()
    tool_signals: Sequence[ToolSignal] = ()
    tool_calls: Sequence[Mapping[str, Any]] = ()
    as_of: int | datetime | None = None
    remember: bool = True
    one_per_document: bool = False


def checked_request(given: Mapping[str, Any], settings: SearchSettings) -> Request:
    """Checks what came through a door.

    Args:
        given: `query`, and optionally the other fields of `Request`, `k` defaulting to the settings'.
        settings: Bounds and defaults.

    Raises:
        InputError: A field is missing, of the wrong type or out of range; the message names it.
    """
    k = given.get("k")
    return Request(
        query=_query(given.get("query"), settings.max_query_chars),
        k=settings.k if k is None else _count(k),
        filter=_filter(given.get("filter")),
        history=_all(given.get("history"), Turn, "history"),
        tool_signals=_all(given.get("tool_signals"), ToolSignal, "tool_signals"),
        tool_calls=tuple(given.get("tool_calls") or ()),
        as_of=_moment(given.get("as_of")),
        remember=given.get("remember", True) is not False,
        one_per_document=given.get("one_per_document", False) is True,
    )


def checked_queries(queries: Any, settings: SearchSettings) -> list[str]:
    """Checks several questions before the first of them is asked.

    Raises:
        InputError: They are no list, or one of them is bad; the message names its position.
    """
    if isinstance(queries, str | bytes | Mapping | Set) or not isinstance(queries, Iterable):
        remedy = "Pass a list of questions."
        raise InputError(f"is {type(queries).__name__}", field="queries", remedy=remedy)
    longest = settings.max_query_chars
    return [_query(query, longest, f"queries[{position}]") for position, query in enumerate(queries)]


def _query(query: Any, longest: int, field: str = "query") -> str:
    if not isinstance(query, str):
        raise InputError(f"is {type(query).__name__}", field=field, remedy="Pass the question as a string.")
    # A lone surrogate cannot be stored or sent anywhere: it is replaced rather than refused, as in decoding.
    text = query.encode("utf-8", "replace").decode("utf-8").replace("\x00", " ").strip()
    if not text:
        raise InputError("is empty", field=field, remedy="Pass at least one word.")
    if len(text) > longest:
        raise InputError(
            f"has {len(text):,} characters, more than {longest:,}",
            field=field,
            remedy="Shorten it, or raise the setting search.max_query_chars.",
        )
    return text


def _count(k: Any) -> int:
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise InputError(f"is {k!r}", field="k", remedy="Pass a whole number from 1.")
    return k


def _filter(given: Any) -> Filter | None:
    if given is None or (isinstance(given, Mapping) and not given):
        return None
    if not isinstance(given, Mapping):
        raise InputError(f"is {type(given).__name__}", field="filter", remedy="Pass a mapping of metadata keys.")
    parse_filter(given)  # a malformed filter is refused at the door, before anything is asked or recorded
    plain: dict[str, Any] = _plain(given)
    return plain


def _plain(value: Any) -> Any:
    """Mappings, lists and scalars only, so that what was asked can be recorded as JSON."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _moment(as_of: Any) -> int | datetime | None:
    if as_of is None or (isinstance(as_of, datetime) and as_of.tzinfo is not None):
        return as_of
    if isinstance(as_of, int) and not isinstance(as_of, bool) and as_of >= 0:
        return as_of
    raise InputError(
        f"is {as_of!r}",
        field="as_of",
        remedy="Pass an epoch (a whole number) or a datetime with a time zone.",
    )


def _all(given: Any, kind: type, field: str) -> tuple[Any, ...]:
    if given is None:
        return ()
    if isinstance(given, str | Mapping) or not isinstance(given, Sequence):
        raise InputError(f"is {type(given).__name__}", field=field, remedy=f"Pass a list of {kind.__name__}.")
    for position, item in enumerate(given):
        if not isinstance(item, kind):
            raise InputError(
                f"is {type(item).__name__}", field=f"{field}[{position}]", remedy=f"Pass {kind.__name__} objects."
            )
    return tuple(given)
