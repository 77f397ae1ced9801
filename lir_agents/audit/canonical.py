r"""One way to write an event as bytes, and commitments for the parts that may have to be forgotten.

Canonical JSON: keys sorted, no white space, ASCII with ``\u`` escapes, floats by `repr` (the shortest text
that reads back as the same double). What goes into the tree is these bytes and nothing else.

An `Erasable` value never enters the tree. In its place stands a commitment::

    {"$commitment": hex(HMAC-SHA256(key, canonical(value))), "$part": number}

with a random 16-byte key per value. Key and value lie in a table of their own; once that row is gone the
commitment tells nothing about the value, and every proof still verifies, because the leaf never changed.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import os
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from lir_agents.errors import InputError

__all__ = [
    "COMMITMENT",
    "ERASED",
    "PART",
    "Erasable",
    "Part",
    "canonical",
    "commit",
    "make_part",
    "resolve",
    "separate",
    "storable",
]

COMMITMENT: Final = "$commitment"
PART: Final = "$part"
ERASED: Final = "$erased"
KEY_BYTES: Final = 16
MAX_DEPTH: Final = 64
MAX_INT_BITS: Final = 4096
_RESERVED: Final = frozenset({COMMITMENT, PART, ERASED})

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, check_circular=False).encode


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
    return _written(value, None, field)


def storable(text: str, *, field: str) -> None:
    """Refuses what a database cannot hold as text: other types, and halves of surrogate pairs."""
    if not isinstance(text, str) or (not text.isascii() and text.encode("utf-8", "ignore").decode() != text):
        raise InputError(f"is {text!r}", field=field, remedy="Pass a string of valid Unicode.")


def commit(key: bytes, text: str) -> str:
    """HMAC-SHA256 of canonical JSON under a random key, in hex."""
    return hmac.digest(key, text.encode("ascii"), hashlib.sha256).hex()


def separate(payload: Mapping[str, Any], *, field: str = "payload") -> tuple[str, list[Part]]:
    """Splits a payload into what enters the tree and what stays erasable.

    Returns:
        The canonical JSON with commitments in place of erasable values, and the parts, numbered from 1.
    """
    parts: list[Part] = []
    return _written(payload, parts, field), parts


def make_part(number: int, value: Erasable, *, field: str) -> Part:
    """Draws a key and commits to the value."""
    text, key = canonical(value.value, field=field), os.urandom(KEY_BYTES)
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


class _UnfitError(Exception):
    """Something that is not JSON; `path` leads to it and is filled in on the way out, innermost first."""

    def __init__(self, problem: str, remedy: str) -> None:
        self.problem, self.remedy = problem, remedy
        self.path: list[str] = []


def _written(value: Any, parts: list[Part] | None, field: str) -> str:
    try:
        return _encode(_plain(value, parts, 0))
    except _UnfitError as unfit:
        where = field + "".join(reversed(unfit.path))
        raise InputError(unfit.problem, field=where, remedy=unfit.remedy) from None


def _plain(value: Any, parts: list[Part] | None, depth: int) -> Any:
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        raise _UnfitError(f"is {value!r}", "JSON has no such number; use None.")
    if isinstance(value, int):
        if value.bit_length() <= MAX_INT_BITS:
            return value
        raise _UnfitError("is an integer beyond 4096 bits", "Pass it as a string.")
    if depth >= MAX_DEPTH:
        raise _UnfitError(f"is nested deeper than {MAX_DEPTH} levels", "Flatten it.")
    if isinstance(value, Erasable) and parts is not None:
        part = make_part(len(parts) + 1, value, field=f"erasable value {len(parts) + 1}")
        parts.append(part)
        return {COMMITMENT: part.commitment, PART: part.number}
    if isinstance(value, (dict, Mapping)):
        return {_key(key): _item(item, f".{key}", parts, depth) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_item(item, f"[{at}]", parts, depth) for at, item in enumerate(value)]
    raise _UnfitError(f"is {type(value).__name__}, which is not JSON", "Convert it, e.g. with float() or str().")


def _item(value: Any, step: str, parts: list[Part] | None, depth: int) -> Any:
    kind = type(value)
    if kind is str or kind is bool:  # most values, without a call
        return value
    try:
        return _plain(value, parts, depth + 1)
    except _UnfitError as unfit:
        unfit.path.append(step)
        raise


def _key(key: Any) -> str:
    if not isinstance(key, str) or key in _RESERVED:
        raise _UnfitError(f"has the key {key!r}", "Keys are strings, and none of $commitment, $part, $erased.")
    return key
