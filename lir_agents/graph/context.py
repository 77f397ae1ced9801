"""Who asks, in which conversation, with how much time: the run's context, never part of its state.

The principal comes from the program (a `Principal` in the context), or is the user whom a LangGraph server
authenticated; a model never names it, and a client of a server names nobody but itself.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from langgraph.runtime import get_runtime

from lir_agents.errors import AccessDenied, InputError
from lir_agents.types import Decision, Principal

__all__ = ["RetrievalContext", "Standing", "ambient_runtime", "standing"]


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
        return cls(
            principal=_principal(_read(given, "principal")),
            thread_id=_text(_read(given, "thread_id")),
            budget_ms=_milliseconds(_read(given, "budget_ms")),
        )

    @classmethod
    def of_run(cls, runtime: Any) -> RetrievalContext:
        """The context of a run, with the user whom a LangGraph server authenticated where it names no principal.

        On a server the context comes from the client, as a mapping. It may then name the authenticated user, also
        with fewer groups, and nobody else; a `Principal` was made by the program and counts as it is.

        Args:
            runtime: A `Runtime`, a `ToolRuntime`, or None outside of a graph.

        Raises:
            AccessDenied: The context claims more than was authenticated.
            InputError: A field of the context is there and has the wrong type.
        """
        given = getattr(runtime, "context", None)
        run, user = cls.of(given), _authenticated(runtime)
        if user is None:
            return run
        if run.principal is None:
            return replace(run, principal=user)
        if not isinstance(_read(given, "principal"), Principal) and not _within(run.principal, user):
            reason = "the run's context names a principal other than the user whom the server authenticated"
            raise AccessDenied(
                f"search refused: {reason}.",
                decision=Decision(False, "search", user.id, f"{reason}: {run.principal.id!r}"),
                remedy="Leave the principal out of the context.",
            )
        return run


@dataclass(frozen=True, slots=True)
class Standing:
    """What of a `Runtime` counts for a search that no graph runs."""

    context: RetrievalContext
    server_info: Any = None


def standing(context: RetrievalContext) -> Standing:
    """The run of a search that a program calls: who asks, and the user whom a server around authenticated."""
    return Standing(context, None if context.principal else getattr(ambient_runtime(), "server_info", None))


def ambient_runtime() -> Any:
    """The runtime of the graph that this code runs in; None outside of one."""
    try:
        return get_runtime()
    except (RuntimeError, KeyError):  # outside of a runnable, or in one that is no graph
        return None


def _read(given: Any, name: str) -> Any:
    return given.get(name) if isinstance(given, Mapping) else getattr(given, name, None)


def _authenticated(runtime: Any) -> Principal | None:
    """The user whom a LangGraph server authenticated, with its permissions as groups."""
    user = getattr(getattr(runtime, "server_info", None), "user", None)
    identity = getattr(user, "identity", None)
    # `is True`: whatever else stands there, a user object of one's own for instance, is no authentication
    if not isinstance(identity, str) or not identity or getattr(user, "is_authenticated", None) is not True:
        return None
    groups = [group for group in getattr(user, "permissions", None) or () if isinstance(group, str) and group]
    return Principal(identity, groups=groups)


def _within(claimed: Principal, user: Principal) -> bool:
    """Whether what a client claims is no more than what was authenticated."""
    plain = not claimed.tenant and not claimed.attributes
    return plain and claimed.id == user.id and claimed.grants <= user.grants


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
    remedy = "Name a conversation by a string that is not empty, or leave it out."
    raise InputError(f"is {value!r}", field="thread_id", remedy=remedy)


def _milliseconds(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= sys.float_info.max:
        return float(value)
    remedy = "Pass a finite number of milliseconds above 0, or None."
    raise InputError(f"is {value!r}", field="budget_ms", remedy=remedy)
