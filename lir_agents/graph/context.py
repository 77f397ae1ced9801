"""Who asks, in which conversation, with how much time: the run's context, never part of its state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lir_agents.errors import InputError
from lir_agents.types import Principal

__all__ = ["RetrievalContext"]


@dataclass(frozen=True, slots=True)
class RetrievalContext:
    """The `context_schema` of the retrieval graph.

    It travels in `Runtime.context`, which is not written to checkpoints, and never in `configurable`, which is.

    Args:
        principal: Who asks; None is refused by every index that is not open.
        thread_id: Which conversation is recalled and remembered; None: neither.
        budget_ms: Time for the whole search in milliseconds; None: the settings' default.
    """

    principal: Principal | None = None
    thread_id: str | None = None
    budget_ms: float | None = None

    @classmethod
    def of(cls, given: Any) -> RetrievalContext:
        """Makes a context of whatever a caller or a parent graph handed over.

        A parent graph without a `context_schema` hands over a dict or None, one with another schema its own
        object: fields are read by name from either. What cannot be read fails closed: no principal.

        Raises:
            InputError: A field is there and has the wrong type.
        """
        if given is None:
            return cls()
        names = ("principal", "thread_id", "budget_ms")
        read = given if isinstance(given, Mapping) else {name: getattr(given, name, None) for name in names}
        return cls(
            principal=_principal(read.get("principal")),
            thread_id=_text(read.get("thread_id")),
            budget_ms=_milliseconds(read.get("budget_ms")),
        )


def _principal(value: Any) -> Principal | None:
    if value is None or isinstance(value, Principal):
        return value
    if isinstance(value, Mapping) and isinstance(value.get("id"), str):
        known = {key: value[key] for key in ("id", "groups", "tenant", "attributes") if key in value}
        return Principal(**known)
    raise InputError(
        f"is {type(value).__name__}",
        field="principal",
        remedy="Pass a Principal, or a mapping with id, groups, tenant, attributes.",
    )


def _text(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value
    raise InputError(f"is {value!r}", field="thread_id", remedy="Pass a non-empty string, or None.")


def _milliseconds(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        return float(value)
    raise InputError(f"is {value!r}", field="budget_ms", remedy="Pass a number of milliseconds above 0.")
