"""The two built-in policies: one person's own files, and access-control lists."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence

from lir_agents.errors import ConfigError, InputError
from lir_agents.policy.base import (
    OWNER_ACTIONS,
    READ_ACTIONS,
    SCOPES_KEPT,
    AccessScope,
    Lru,
    kept_verdicts,
    refuse,
)
from lir_agents.policy.grants import GrantIndex
from lir_agents.policy.keys import acl_key, principal_digest
from lir_agents.types import Decision, Document, Principal

__all__ = ["AclPolicy", "OpenPolicy"]

_OPEN_KEY = "open"


class OpenPolicy:
    """`access="open"`: everything in the index belongs to whoever opens it.

    A document that carries an ACL is refused, because this policy would not honour it. A search needs no
    principal; one that is given is recorded.

    Args:
        rights: Actions beyond those of an owner (reading, "replay", "rollback"), e.g. ``["vault:read"]``.
    """

    name = "open"
    epoch = 0

    def __init__(self, *, rights: Iterable[str] = ()) -> None:
        self._actions = READ_ACTIONS | OWNER_ACTIONS | frozenset(rights)
        self._verdicts, self._masks = Lru(SCOPES_KEPT), Lru(SCOPES_KEPT)

    def access_key(self, document: Document) -> str:
        """Always "open". Raises InputError for a document that carries an ACL."""
        if document.acl is not None:
            raise InputError(
                "this index is open, and an ACL would not be honoured",
                field="acl",
                remedy='Create the index with access="acl", or add the document without an ACL.',
            )
        return _OPEN_KEY

    def authorize(self, principal: Principal | None, action: str) -> AccessScope:
        """Everything, for any action of an owner. Raises AccessDenied for other actions."""
        if action not in self._actions:
            refuse(principal, action, self.epoch, "this open index gives nobody that right")
        cache_key = principal_digest(principal, principal.grants if principal else frozenset(), ("open", action))
        decision = Decision(True, action, principal.id if principal else "", "the index is open", self.epoch)
        return AccessScope(
            policy=self,
            principal=principal,
            decision=decision,
            cache_key=cache_key,
            decide=_open,
            verdicts=kept_verdicts(self._verdicts, cache_key),
            masks=self._masks,
        )


def _open(keys: Sequence[str]) -> tuple[list[bool], Mapping[str, str]]:
    # A key that this policy did not make (an index that was governed once) is not open to anybody.
    return [key == _OPEN_KEY for key in keys], {}


class AclPolicy:
    """`access="acl"`: a document is readable by principals who hold at least one grant of its ACL.

    No ACL and an empty ACL both mean nobody. Grants are compared exactly, code point by code point. A search
    without a principal is refused.

    Args:
        rights: Who may do more than read: action to grants, e.g. ``{"replay": ["group:audit"]}``. An action
            that is not listed is refused to everybody.
        revoked: Grants that count for nobody from the start; see `revoke`.
    """

    name = "acl"

    def __init__(self, *, rights: Mapping[str, Collection[str]] | None = None, revoked: Iterable[str] = ()) -> None:
        for action, grants in (rights or {}).items():
            if isinstance(grants, str):
                raise ConfigError(f"rights[{action!r}] is one string", setting="rights", remedy="Pass a list.")
        self._rights = {action: frozenset(grants) for action, grants in (rights or {}).items()}
        self._lock = threading.Lock()
        self._state: tuple[int, frozenset[str]] = (0, frozenset(revoked))
        self._index = GrantIndex()
        self._verdicts, self._masks = Lru(SCOPES_KEPT), Lru(SCOPES_KEPT)

    @property
    def epoch(self) -> int:
        return self._state[0]

    @property
    def revoked(self) -> frozenset[str]:
        """Grants that count for nobody."""
        return self._state[1]

    def revoke(self, grant: str) -> None:
        """Makes a grant count for nobody, from the next search on and for searches under way.

        A principal whose own id is revoked is refused altogether. This is the list for emergencies: it lives
        as long as this policy object (pass `revoked` when opening again), while what lasts is changed where
        groups and ACLs are kept.
        """
        with self._lock:
            epoch, revoked = self._state
            self._state = (epoch + 1, revoked | {grant})

    def restore(self, grant: str) -> None:
        """Takes a grant off the list of revoked ones."""
        with self._lock:
            epoch, revoked = self._state
            self._state = (epoch + 1, revoked - {grant})

    def access_key(self, document: Document) -> str:
        """The sorted distinct grants as JSON; "null" for a document without an ACL."""
        return acl_key(document.acl)

    def authorize(self, principal: Principal | None, action: str) -> AccessScope:
        """The documents whose ACL meets the principal's grants. Raises AccessDenied; see the class."""
        epoch, revoked = self._state  # one read: epoch and list belong together
        if not isinstance(principal, Principal):
            refuse(None, action, epoch, "no principal was given", remedy="Pass principal=Principal(...).")
        if principal.id in revoked:
            refuse(principal, action, epoch, "the principal is revoked")
        grants = principal.grants - revoked if revoked else principal.grants
        if action not in READ_ACTIONS and grants.isdisjoint(self._rights.get(action, ())):
            refuse(principal, action, epoch, "the principal does not have that right")
        cache_key = principal_digest(principal, grants, ("acl", action, str(epoch)))

        def decide(keys: Sequence[str]) -> tuple[list[bool], Mapping[str, str]]:
            return self._index.any_of(grants, keys).tolist(), {}

        return AccessScope(
            policy=self,
            principal=principal,
            decision=Decision(True, action, principal.id, f"{len(grants)} grants meet the ACLs", epoch),
            cache_key=cache_key,
            decide=decide,
            verdicts=kept_verdicts(self._verdicts, cache_key),
            masks=self._masks,
        )
