"""Access keys: the canonical strings by which documents of equal readability are grouped.

A key is JSON, so that no grant can be written that reads like two grants, and is compared exactly: no Unicode
normalisation, no case folding, no trimming. Two grants that look alike and differ in one code point are two
grants.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from lir_agents.errors import InputError
from lir_agents.types import Principal

__all__ = ["NO_ACL", "acl_key", "canonical_json", "digest", "parse_acl_key", "principal_digest"]

NO_ACL = "null"
"""The key of a document without an ACL: readable by nobody."""

_scan = json.JSONDecoder().raw_decode
_write = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode


def canonical_json(value: Any, *, field: str) -> str:
    """One JSON text per value: keys sorted, no spaces, no NaN, only text that UTF-8 can carry.

    Raises:
        InputError: `value` holds something JSON has no word for, a mapping whose keys are not strings, or half
            of a surrogate pair.
    """
    try:
        _check_keys(value, field)
        text = _write(value)
        text.encode()
    except InputError:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"cannot be written as JSON in UTF-8 ({type(error).__name__})",
            field=field,
            remedy="Use strings, numbers, booleans, None, and lists or mappings of them.",
        ) from error
    return text


def _check_keys(value: Any, field: str) -> None:
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise InputError("has a key that is not a string", field=field, remedy="Use strings as keys.")
        for item in value.values():
            _check_keys(item, field)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_keys(item, field)


def acl_key(acl: Sequence[str] | None) -> str:
    """The access key of an ACL: its distinct grants, sorted, as a JSON list; "null" where there is none."""
    return NO_ACL if acl is None else canonical_json(sorted(set(acl)), field="acl")


def parse_acl_key(key: str) -> list[str]:
    """The grants in an access key. Anything that is not a JSON list of strings holds none: nobody reads it."""
    try:
        value, end = _scan(key)
    except (ValueError, TypeError, RecursionError):
        return []
    if end != len(key) or not isinstance(value, list) or not all(isinstance(grant, str) for grant in value):
        return []
    return value


def digest(text: str) -> str:
    """sha256 of a text, as hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def principal_digest(principal: Principal | None, grants: frozenset[str], state: Sequence[str]) -> str:
    """sha256 over everything that a verdict may depend on: tenant, id, grants, attributes, state of the policy.

    Args:
        principal: Who asks; None where a policy needs none.
        grants: The grants that count now, revoked ones left out.
        state: The policy's own part: its name, epoch, the action.

    Raises:
        InputError: An attribute is not a JSON value.
    """
    who: list[Any] = [None, None, {}]
    if principal is not None:
        who = [principal.tenant, principal.id, dict(principal.attributes)]
    return digest(canonical_json([*state, *who, _grants_digest(grants)], field="principal"))


@lru_cache(maxsize=256)  # writing down 1,500 groups takes most of a millisecond, twice in every search
def _grants_digest(grants: frozenset[str]) -> str:
    return digest(canonical_json(sorted(grants), field="principal"))
