"""What one search may look at: live, readable by the principal, and fitting the filter."""

from __future__ import annotations

from dataclasses import dataclass

from lir_agents.arrays import RowMask
from lir_agents.graph.request import Request
from lir_agents.graph.rooms import Rooms
from lir_agents.policy.base import AccessScope
from lir_agents.policy.masks import scope_mask
from lir_agents.stores.columns import Snapshot

__all__ = ["View", "look_at"]


@dataclass(frozen=True, slots=True)
class View:
    """What one search may look at: an intersection of bitmaps over one snapshot of the catalog.

    Attributes:
        snapshot: The state of the catalog that every mask and column comes from.
        allowed: bool [max_row + 1]: live (or live then), readable by the principal, matching the filter.
    """

    snapshot: Snapshot
    allowed: RowMask


def look_at(rooms: Rooms, request: Request, scope: AccessScope) -> View:
    """Intersects what is live, what the scope may read and what the filter asks for.

    Raises:
        InputError: The filter is malformed.
        AccessDenied: The policy could not decide.
    """
    snapshot = rooms.catalog.snapshot()
    live = snapshot.live if request.as_of is None else snapshot.live_at(_epoch(rooms, request, snapshot.epoch))
    # Who may read an old version is decided by the ACL of today's: a grant withdrawn since holds for history too.
    classes = snapshot.access_class if request.as_of is None else snapshot.newest_access_class
    allowed = live & scope_mask(scope, classes, snapshot.access_keys)
    if request.filter is not None:
        allowed = allowed & rooms.catalog.match(request.filter, snapshot=snapshot)
    return View(snapshot=snapshot, allowed=allowed)


def _epoch(rooms: Rooms, request: Request, latest: int) -> int:
    """The epoch that `as_of` means. What lies ahead means now: an error would tell how often others write."""
    then = request.as_of if isinstance(request.as_of, int) else rooms.catalog.epoch_at(request.as_of)  # type: ignore[arg-type]
    return min(then, latest)
