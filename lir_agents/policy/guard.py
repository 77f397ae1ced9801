"""What stands between a policy that somebody else wrote and the index: a deadline, and denial for any failure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeGuard

from lir_agents.bounds import MAX_INT_BITS
from lir_agents.errors import AccessDenied, ConfigError, InputError
from lir_agents.policy.acl import AclPolicy, OpenPolicy
from lir_agents.policy.base import SCOPES_KEPT, AccessScope, Decide, Lru, Policy, kept_verdicts, refuse
from lir_agents.policy.cedar import CedarPolicy
from lir_agents.policy.deadline import Deadline, told
from lir_agents.policy.keys import principal_digest
from lir_agents.types import Decision, Document, Principal

__all__ = ["GuardedPolicy", "open_policy"]


class GuardedPolicy:
    """Any object with the four members of `Policy`, held to them.

    What it raises, what it answers too late and what it answers in another shape is a denial with a reason.

    Args:
        policy: The policy.
        deadline_s: Seconds that one answer may take.
    """

    def __init__(self, policy: Policy, *, deadline_s: float = 2.0) -> None:
        self.inner = policy
        self._deadline = Deadline(deadline_s)
        self._verdicts, self._masks = Lru(SCOPES_KEPT), Lru(SCOPES_KEPT)

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def epoch(self) -> int:
        return self.inner.epoch

    def access_key(self, document: Document) -> str:
        """As the policy says. Raises InputError when it fails or gives something that is not a string."""
        try:
            key = self._deadline.run(lambda: self.inner.access_key(document))
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"the policy could not place this document ({told(error)})",
                field="acl",
                remedy="Correct the document or the policy.",
            ) from error
        if not isinstance(key, str):
            raise InputError(f"the policy gave {type(key).__name__} as access key", field="acl")
        return key

    def authorize(self, principal: Principal | None, action: str) -> AccessScope:
        """As the policy says. Raises AccessDenied also when it fails, hangs or answers for somebody else."""
        epoch = -1  # not known yet

        def ask() -> tuple[int, AccessScope]:
            # First the epoch: what is revoked while the policy answers must not be kept under the epoch after it.
            nonlocal epoch
            epoch = int(self.inner.epoch)
            return epoch, self.inner.authorize(principal, action)

        try:
            asked, scope = self._deadline.run(ask)
        except AccessDenied as error:
            raise _on_record(error, principal, action, epoch) from error.__cause__
        except Exception as error:  # noqa: BLE001 - whatever it raises denies
            refuse(principal, action, epoch, f"the policy {told(error)}", error)
        if not isinstance(scope, AccessScope) or not _sound(scope.decision) or not isinstance(scope.cache_key, str):
            refuse(principal, action, asked, "the policy gave no scope with a decision that can be recorded")
        if scope.principal != principal or scope.action != action:
            refuse(principal, action, asked, "the policy answered another question")
        if scope.decision.allowed is not True:
            refusal = AccessDenied(f"{action} refused: {scope.decision.reason}", decision=scope.decision)
            raise _on_record(refusal, principal, action, asked)
        # The key is made anew: a policy that forgot somebody or something in its own cannot mix up two callers.
        state = ("guarded", action, str(asked), scope.cache_key)
        cache_key = principal_digest(principal, principal.grants if principal else frozenset(), state)
        return replace(
            scope,
            policy=self,
            cache_key=cache_key,
            decide=self._within_deadline(scope),
            verdicts=kept_verdicts(self._verdicts, cache_key),
            masks=self._masks,
        )

    def _within_deadline(self, scope: AccessScope) -> Decide:
        def decide(keys: Sequence[str]) -> tuple[list[bool], Mapping[str, str]]:
            try:
                return self._deadline.run(lambda: scope.decide(keys))
            except AccessDenied as error:
                about = scope.principal, scope.action, scope.decision.epoch
                raise _on_record(error, *about) from error.__cause__
            except Exception as error:  # noqa: BLE001 - whatever it raises denies
                refuse(scope.principal, scope.action, scope.decision.epoch, f"the policy {told(error)}", error)

        return decide


def _on_record(error: AccessDenied, principal: Principal | None, action: str, epoch: int) -> AccessDenied:
    """The refusal with a decision, without which it would stand in no log."""
    if not _sound(error.decision) or error.decision.allowed is not False:
        error.decision = Decision(False, action, principal.id if principal else "", str(error), epoch)
    return error


def _sound(decision: object) -> TypeGuard[Decision]:
    """Whether the log can hold it."""
    return (
        isinstance(decision, Decision)
        and all(isinstance(text, str) for text in (decision.action, decision.principal_id, decision.reason))
        and isinstance(decision.epoch, int)
        and decision.epoch.bit_length() <= MAX_INT_BITS
    )


def open_policy(spec: Literal["open", "acl"] | Policy) -> Policy:
    """The policy of an index: a built-in one, or your own (also one derived from a built-in one), guarded.

    Raises:
        ConfigError: Neither a known name nor an object with `name`, `epoch`, `access_key` and `authorize`.
    """
    if isinstance(spec, str):
        if spec == "open":
            return OpenPolicy()
        if spec == "acl":
            return AclPolicy()
    elif type(spec) in (OpenPolicy, AclPolicy, CedarPolicy) or isinstance(spec, GuardedPolicy):
        return spec  # what is derived from them is somebody else's
    elif isinstance(spec, Policy):
        return GuardedPolicy(spec)
    raise ConfigError(
        f"access={spec!r} is not a policy",
        setting="access",
        remedy='Use "open", "acl" or an object that is a Policy.',
    )
