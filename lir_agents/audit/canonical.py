r"""One way to write an event as bytes, and commitments for the parts that may have to be forgotten.

Canonical JSON: keys sorted, no white space, UTF-8, floats as the shortest text that reads back as the same double:
what orjson writes. What it has no way to write (integers beyond 64 bits, halves of surrogate pairs) is written by
Python's own encoder instead, all of the value, in ASCII with ``\u`` escapes. What goes into the tree is these bytes
and nothing else.

An `Erasable` value never enters the tree. In its place stands a commitment::

    {"$commitment": hex(HMAC-SHA256(key, canonical(value))), "$part": number}

with a key per value: 16 random bytes, and 16 that bind them to the subject under which the value is found again.
Key, subject and value lie in a table of their own; once that row is gone the commitment tells nothing about the
value, and every proof still verifies, because the leaf never changed. Keys of 16 bytes are of logs that bound no
subjects.
"""

from __future__ import annotations

import hmac
import json
import math
import os
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from lir_agents.bounds import MAX_DEPTH, MAX_INT_BITS
from lir_agents.errors import InputError

__all__ = [
    "COMMITMENT",
    "ERASED",
    "PART",
    "Erasable",
    "Part",
    "Shaped",
    "canonical",
    "commit",
    "make_part",
    "opens",
    "resolve",
    "separate",
    "speaks_of",
    "storable",
]

COMMITMENT: Final = "$commitment"
PART: Final = "$part"
ERASED: Final = "$erased"
KEY_BYTES: Final = 16
_RESERVED: Final = frozenset({COMMITMENT, PART, ERASED})
_NONE: Final[frozenset[str]] = frozenset()
_KEYS: Final = "Keys are strings, and none of $commitment, $part, $erased."
_Path = tuple[Any, str]  # (path of what holds it, step), joined only when an error names it
_PLAIN_INT: Final = 1 << 64  # smaller ones need no second look
_OPTIONS: Final = orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
_STYLE: Final[dict[str, Any]] = {
    "sort_keys": True,
    "separators": (",", ":"),
    "allow_nan": False,
    "check_circular": False,
}


@dataclass(frozen=True, slots=True)
class Erasable:
    """A payload value that can be forgotten without touching the tree.

    Args:
        value: JSON data.
        subject: The document that the value speaks of; `AuditLog.erase_documents` finds it by this. None: the
            value belongs to the caller, such as the query.
        stored: False keeps only the key, so that whoever knows the value can prove it (`AuditLog.confirms`)
            but nobody can read it.
    """

    value: Any
    subject: str | None = None
    stored: bool = True

    def __post_init__(self) -> None:
        if self.subject is not None:
            storable(self.subject, field="erasable.subject")


class Shaped(dict[str, Any]):
    """Data whose keys this package wrote: none is reserved, nothing is deep, every float is finite, and what is no
    JSON is found as it is written. Saves the walk before it."""


_FIT: Final[frozenset[type]] = frozenset({str, bool, type(None)})
_NO_TYPE: Final[frozenset[type]] = frozenset()
_FIT_PAYLOAD: Final[frozenset[type]] = _FIT | {Erasable}


class Part(NamedTuple):
    """An `Erasable` made ready: `text` is the canonical value, None where it is not stored."""

    number: int
    key: bytes
    subject: str | None
    text: str | None
    commitment: str


def canonical(value: Any, *, field: str = "payload") -> str:
    """Canonical JSON of plain data.

    Raises:
        InputError: Something is not JSON, not finite, too deep, or a mapping's key is not a string.
    """
    # Within an erasable value every key is free: nobody reads it for commitments.
    if type(value) is not Shaped:
        _check(value, field, _FIT, _NONE)
    try:
        return _text(value, _as_dict, None)
    except (TypeError, ValueError):
        _check(value, field, _NO_TYPE, _NONE)
        raise


def storable(text: str, *, field: str) -> None:
    """Refuses what a database cannot hold as text: other types, and halves of surrogate pairs."""
    if not isinstance(text, str) or (not text.isascii() and text.encode("utf-8", "ignore").decode() != text):
        raise InputError(f"is {text!r}", field=field, remedy="Pass a string of valid Unicode.")


def commit(key: bytes, text: str) -> str:
    """HMAC-SHA256 of canonical JSON under a random key, in hex."""
    return hmac.digest(key, text.encode(), "sha256").hex()  # a name, not a function: one call into C


def opens(key: Any, text: Any, commitment: str | None) -> bool:
    """Whether a stored key and text are what was committed to, whatever somebody put in their place."""
    return isinstance(key, bytes) and isinstance(text, str) and commit(key, text) == commitment


def speaks_of(key: Any, subject: Any) -> bool:
    """Whether a key was drawn for a value of this subject; a key that was bound to none says so of any.

    The key itself is bound by the commitment: no other opens the value but the same with zeros behind it, and that
    has neither length.
    """
    if not isinstance(key, bytes) or not isinstance(subject, str | None):
        return False
    return len(key) == KEY_BYTES or key == _bound(key[:KEY_BYTES], subject)


def _bound(drawn: bytes, subject: str | None) -> bytes:
    named = b"" if subject is None else b"=" + subject.encode("utf-8", "surrogateescape")
    return drawn + hmac.digest(drawn, named, "sha256")[:KEY_BYTES]


def separate(payload: Mapping[str, Any], *, field: str = "payload") -> tuple[str, list[Part]]:
    """Splits a payload into what enters the tree and what stays erasable.

    Returns:
        The canonical JSON with commitments in place of erasable values, and the parts, numbered from 1.
    """
    parts: list[Part] = []
    return _written(payload, parts, field), parts


def make_part(number: int, value: Erasable, *, field: str) -> Part:
    """Draws a key and commits to the value."""
    text, key = canonical(value.value, field=field), _bound(os.urandom(KEY_BYTES), value.subject)
    return Part(number, key, value.subject, text if value.stored else None, commit(key, text))


def resolve(payload: Any, values: Mapping[int, Any], kept: Container[int]) -> Any:
    """Puts erasable values back in their places.

    Args:
        payload: What entered the tree.
        values: Values by part number.
        kept: Parts whose key is held; their commitments stay as they are where the value was never stored.
            Any other reads ``{"$erased": commitment}``.
    """
    if isinstance(payload, dict):
        if COMMITMENT in payload:
            number = payload[PART]
            if number in values:
                return values[number]
            return payload if number in kept else {ERASED: payload[COMMITMENT]}
        return {key: resolve(value, values, kept) for key, value in payload.items()}
    if isinstance(payload, list):
        return [resolve(value, values, kept) for value in payload]
    return payload


def _written(value: Any, parts: list[Part], field: str) -> str:
    """Checks the shape, then leaves the walk to the encoder; what it refuses is looked for by name."""

    def unknown(item: Any) -> Any:
        if isinstance(item, Erasable):
            part = make_part(len(parts) + 1, item, field=f"erasable value {len(parts) + 1}")
            parts.append(part)
            return {COMMITMENT: part.commitment, PART: part.number}
        return _as_dict(item)

    if type(value) is not Shaped:
        _check(value, field, _FIT_PAYLOAD, _RESERVED)
    try:
        return _text(value, unknown, parts.clear)
    except InputError:
        raise
    except (TypeError, ValueError):
        _check(value, field, _FIT_PAYLOAD & {Erasable}, _RESERVED)
        raise


def _as_dict(item: Any) -> dict[str, Any]:
    if isinstance(item, Mapping):
        return dict(item)
    raise TypeError


def _text(value: Any, unknown: Callable[[Any], Any], anew: Callable[[], None] | None) -> str:
    """Canonical JSON; `unknown` makes JSON data of what is none, and `anew` forgets what it made before.

    Raises:
        TypeError, ValueError, InputError: Something is no JSON.
    """
    try:
        return orjson.dumps(value, unknown, _OPTIONS).decode()
    except orjson.JSONEncodeError as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        if anew is not None:
            anew()
        return json.JSONEncoder(**_STYLE, default=unknown).encode(value)


def _check(value: Any, field: str, fit: frozenset[type], reserved: frozenset[str]) -> None:
    """Raises InputError with the path of what is not JSON. What has a type of `fit` is taken as it is."""
    if type(value) in fit:
        return
    pending: list[tuple[Any, _Path, int]] = [(value, (None, field), 1)]
    while pending:
        item, path, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise InputError(f"is nested deeper than {MAX_DEPTH} levels", field=_name(path), remedy="Flatten it.")
        if isinstance(item, (dict, Mapping)):
            for key, child in item.items():
                if not isinstance(key, str) or key in reserved:
                    raise InputError(f"has the key {key!r}", field=_name(path), remedy=_KEYS)
                if not _fits(child, fit):
                    pending.append((child, (path, f".{key}"), depth + 1))
        elif isinstance(item, (list, tuple)):
            for at, child in enumerate(item):
                if not _fits(child, fit):
                    pending.append((child, (path, f"[{at}]"), depth + 1))
        else:
            _check_scalar(item, path)


def _fits(item: Any, fit: frozenset[type]) -> bool:
    kind = type(item)
    if kind is float:
        return math.isfinite(item)  # orjson would write null
    return kind in fit or (kind is int and -_PLAIN_INT < item < _PLAIN_INT)


def _check_scalar(item: Any, path: _Path) -> None:
    if item is None or isinstance(item, (str, bool)):
        return
    if isinstance(item, float):
        if not math.isfinite(item):
            raise InputError(f"is {item!r}", field=_name(path), remedy="JSON has no such number; use None.")
    elif isinstance(item, int):
        if item.bit_length() > MAX_INT_BITS:
            raise InputError(
                f"is an integer beyond {MAX_INT_BITS} bits", field=_name(path), remedy="Pass it as a string."
            )
    else:
        kind = type(item).__name__
        raise InputError(f"is {kind}, which is not JSON", field=_name(path), remedy="Use float() or str().")


def _name(path: _Path) -> str:
    before, step = path
    return step if before is None else _name(before) + step
