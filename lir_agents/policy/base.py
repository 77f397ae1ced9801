"""The port of a policy, and the scope that it hands out. The first stage has no default scope: only a policy
can make one."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, NoReturn, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lir_agents.errors import AccessDenied
from lir_agents.types import Decision, Document, Principal

__all__ = [
    "OWNER_ACTIONS",
    "READ_ACTIONS",
    "SCOPES_KEPT",
    "AccessScope",
    "Decide",
    "Lru",
    "Policy",
    "Verdicts",
    "kept_verdicts",
    "refuse",
]

READ_ACTIONS = frozenset({"search", "get", "recall", "explain"})
"""What every principal may ask for; what comes back is what the scope allows. Any other action is refused
unless the policy was told who has that right."""

OWNER_ACTIONS = frozenset({"replay", "rollback"})
"""What the owner of an open index may do besides reading. In a governed one, those who were given the right:
"replay" asks again what another principal asked, with that principal's grants."""

SCOPES_KEPT = 64
"""Cache keys whose verdicts and masks one policy object remembers."""

Decide = Callable[[Sequence[str]], tuple[list[bool], Mapping[str, str]]]
"""Access keys to verdicts in the same order, and for keys that could not be decided (denied) the reason."""


class Lru:
    """A bounded map that forgets what was used least recently; safe to share between threads."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[Any, Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any) -> Any | None:
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key]

    def put(self, key: Any, value: Any) -> None:
        with self._lock:
            self._entries[key] = value
            self._entries.move_to_end(key)
            while len(self._entries) > self._capacity:
                self._entries.popitem(last=False)

    def __len__(self) -> int:
        return len(self._entries)


@dataclass(slots=True)
class Verdicts:
    """What one cache key was told about access keys so far."""

    allowed: dict[str, bool] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)


def kept_verdicts(cache: Lru, cache_key: str) -> Verdicts:
    """What is remembered under a cache key; a new, empty memory where nothing is."""
    verdicts: Verdicts | None = cache.get(cache_key)
    if verdicts is None:
        verdicts = Verdicts()
        cache.put(cache_key, verdicts)
    return verdicts


_NONE: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False)
class AccessScope:
    """What one principal may read under one state of a policy. Decided per access key, never per document.

    Args:
        policy: The policy that made this scope, asked again before anything surfaces.
        principal: Who asks; None in an open index when nobody was named.
        decision: Why this scope exists, for the audit log.
        cache_key: A digest of tenant, principal, grants, attributes, action and policy epoch. Two scopes with
            the same key read the same; a cache of anything derived from a search carries it in its key.
        decide: Asks the policy about access keys. It raises AccessDenied when it cannot say.
        verdicts: What was decided before under the same cache key.
        masks: Row masks made before, shared by the scopes of one policy object.
    """

    policy: Policy
    principal: Principal | None
    decision: Decision
    cache_key: str
    decide: Decide
    verdicts: Verdicts = field(default_factory=Verdicts)
    masks: Lru = field(default_factory=lambda: Lru(1))

    @property
    def action(self) -> str:
        return self.decision.action

    @property
    def faults(self) -> Mapping[str, str]:
        """Access keys that were denied because the policy could not be evaluated on them, with the reason.

        For the audit log only: a caller who saw it would learn that documents exist which it may not read.
        """
        return MappingProxyType(dict(self.verdicts.faults)) if self.verdicts.faults else _NONE

    def allows(self, access_key: str) -> bool:
        """Whether documents of this access key are readable. Raises AccessDenied if the policy cannot say."""
        return bool(self.allows_many((access_key,))[0])

    def allows_many(self, access_keys: Sequence[str]) -> NDArray[np.bool_]:
        """Verdicts on many access keys with one question to the policy: bool [n].

        Raises:
            AccessDenied: The policy failed or did not answer in time; nothing was allowed.
        """
        known = self.verdicts.allowed
        unknown = [key for key in dict.fromkeys(access_keys) if key not in known]
        if unknown:
            allowed, faults = self._ask(unknown)
            self.verdicts.faults.update(faults)
            known.update(zip(unknown, allowed, strict=True))
        return np.fromiter((known[key] for key in access_keys), dtype=np.bool_, count=len(access_keys))

    def _ask(self, keys: list[str]) -> tuple[list[bool], Mapping[str, str]]:
        epoch = self.decision.epoch
        try:
            given = self.decide(list(keys))  # a list of its own, to do with as it likes
            answer = _plain(given, len(keys))
        except AccessDenied:
            raise
        except Exception as error:  # noqa: BLE001 - a policy is anybody's code: whatever it raises denies
            refuse(self.principal, self.action, epoch, f"the policy raised {type(error).__name__}", error)
        if answer is None:
            refuse(self.principal, self.action, epoch, "the policy gave no plain verdict for each key")
        return answer


def _plain(answer: Any, keys: int) -> tuple[list[bool], Mapping[str, str]] | None:
    """An answer in the shape of `Decide`, copied; None where it is another. A set would have no order, and what is
    made while it is read (a generator) would run outside the policy's deadline."""
    if not isinstance(answer, list | tuple) or len(answer) != 2:
        return None
    allowed, faults = answer
    if not isinstance(allowed, list | tuple) or not isinstance(faults, Mapping):
        return None
    verdicts, reasons = list(allowed), dict(faults)
    plain = len(verdicts) == keys and all(verdict is True or verdict is False for verdict in verdicts)
    told = all(isinstance(text, str) for pair in reasons.items() for text in pair)
    return (verdicts, reasons) if plain and told else None


@runtime_checkable
class Policy(Protocol):
    """Who may read what. Deny by default: what a policy does not allow in so many words is denied."""

    @property
    def name(self) -> str:
        """Stored with the index; "open", "acl", "cedar", or your own."""

    @property
    def epoch(self) -> int:
        """Changes whenever the policy itself changes."""

    def access_key(self, document: Document) -> str:
        """The canonical string that documents of equal readability share.

        Raises:
            InputError: The document may not be in this index.
        """

    def authorize(self, principal: Principal | None, action: str) -> AccessScope:
        """Decides on a request.

        Raises:
            AccessDenied: The request is refused; `decision` says why.
        """


def refuse(
    principal: Principal | None,
    action: str,
    epoch: int,
    reason: str,
    cause: BaseException | None = None,
    *,
    remedy: str = "",
) -> NoReturn:
    """Raises AccessDenied that carries the decision. `reason` names no document."""
    decision = Decision(False, action, principal.id if principal else "", reason, epoch)
    raise AccessDenied(f"{action} refused: {reason}.", decision=decision, remedy=remedy) from cause
