"""A refusal is recorded before anybody hears of it, in whichever step the policy said no."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lir_agents.audit import payloads
from lir_agents.errors import AccessDenied
from lir_agents.graph.rooms import Rooms
from lir_agents.types import Decision, Principal

__all__ = ["refusals_recorded"]


@contextmanager
def refusals_recorded(rooms: Rooms, principal: Principal | None) -> Iterator[None]:
    """Appends every `AccessDenied` that passes to the audit log.

    Raises:
        AccessDenied: As it came.
        StoreError: The refusal could not be recorded; it stands all the same.
    """
    try:
        yield
    except AccessDenied as refusal:
        if refusal.decision is not None:
            rooms.audit.append(payloads.decision(principal or _named(refusal.decision), refusal.decision))
        raise


def _named(decision: Decision) -> Principal | None:
    """Whom the refusal names, where the caller could not be made out."""
    return Principal(decision.principal_id) if decision.principal_id else None
