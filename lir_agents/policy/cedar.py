"""Policies beyond ACLs, written in Cedar (https://docs.cedarpolicy.com) and decided once per access class.

Cedar alone fails open in one place: a `forbid` that cannot be evaluated is skipped. Here a schema is required,
policies are validated against it, and any diagnostic error denies, with the reason kept for the audit log.
"""

from __future__ import annotations

import importlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lir_agents.errors import AccessDenied, ConfigError, InputError, MissingExtra
from lir_agents.policy.base import SCOPES_KEPT, AccessScope, Lru, kept_verdicts, refuse
from lir_agents.policy.cedar_entities import CedarModel, principal_entities, resource_entity
from lir_agents.policy.deadline import Deadline, told
from lir_agents.policy.keys import canonical_json, principal_digest
from lir_agents.types import Decision, Document, Principal

__all__ = ["CedarPolicy"]

_FAULT_CHARS = 300  # of a diagnostic are kept: enough to find the policy and the attribute
_BATCH = 256  # requests per call of the engine, which holds the interpreter lock while it answers


@dataclass(frozen=True, slots=True)
class _Compiled:
    """One state of the policy; replaced as a whole, so that no decision mixes two."""

    epoch: int
    policies: Any
    schema: Any
    resources: dict[str, str | None] = field(default_factory=dict)  # key -> entity JSON; None: not conforming


class CedarPolicy:
    """A Cedar policy set with its schema.

    The resource that Cedar sees is the access class of a document: the attributes named in
    `resource_attributes`, read from the document's metadata, and `acl` from its ACL. The principal has its id,
    its groups as parents, and the attributes named in `principal_attributes` ("grants", "tenant" and "groups"
    are those of the `Principal`; all others come from its `attributes`). What is not named, Cedar never sees.
    The action is ``Action::"search"`` and so on.

    Args:
        policies: Cedar policies as text.
        schema: Cedar schema as text or JSON; it must declare the actions and entity types used.
        resource_attributes: Metadata keys that the policies read; may include "acl".
        principal_attributes: Attributes of the principal that the policies read.
        model: Names of the entity types in the schema.
        deadline_s: Seconds that one round of decisions may take.

    Raises:
        ConfigError: Policies or schema do not parse, or do not fit each other.
        MissingExtra: `cedarpy` is not installed.
    """

    name = "cedar"

    def __init__(
        self,
        policies: str,
        schema: str | Mapping[str, Any],
        *,
        resource_attributes: Sequence[str] = (),
        principal_attributes: Sequence[str] = (),
        model: CedarModel | None = None,
        deadline_s: float = 2.0,
    ) -> None:
        self._model = model or CedarModel()
        self._resource_attributes = tuple(resource_attributes)
        self._principal_attributes = tuple(principal_attributes)
        self._deadline = Deadline(deadline_s)
        self._lock = threading.Lock()
        self._verdicts, self._masks = Lru(SCOPES_KEPT), Lru(SCOPES_KEPT)
        self._schema_text = schema if isinstance(schema, str) else json.dumps(dict(schema))
        self._state = _compile(policies, self._schema_text, epoch=0)

    @property
    def epoch(self) -> int:
        return self._state.epoch

    def update(self, policies: str, schema: str | Mapping[str, Any] | None = None) -> None:
        """Replaces the policies (and the schema) for the next search and for searches under way.

        Raises:
            ConfigError: They do not validate; what was in force stays in force.
        """
        with self._lock:
            if schema is not None:
                schema = schema if isinstance(schema, str) else json.dumps(dict(schema))
            self._state = _compile(policies, schema or self._schema_text, epoch=self._state.epoch + 1)
            self._schema_text = schema or self._schema_text

    def access_key(self, document: Document) -> str:
        """Canonical JSON of the ACL and the listed attributes that the document has.

        Raises:
            InputError: A listed attribute has a type that Cedar lacks (a fraction, a number beyond 64 bits).
        """
        attributes = {
            name: _plain(document.metadata[name], name)
            for name in self._resource_attributes
            if name != "acl" and name in document.metadata
        }
        acl = None if document.acl is None else sorted(set(document.acl))
        return canonical_json({"acl": acl, "attributes": attributes}, field="metadata")

    def authorize(self, principal: Principal | None, action: str) -> AccessScope:
        """A scope whose verdicts Cedar gives. Raises AccessDenied without a principal."""
        state = self._state
        if not isinstance(principal, Principal):
            refuse(None, action, state.epoch, "no principal was given", remedy="Pass principal=Principal(...).")
        cache_key = principal_digest(principal, principal.grants, ("cedar", action, str(state.epoch)))

        def decide(keys: Sequence[str]) -> tuple[list[bool], Mapping[str, str]]:
            try:
                return self._deadline.run(lambda: self._evaluate(state, principal, action, keys))
            except AccessDenied:
                raise
            except Exception as error:  # noqa: BLE001 - whatever the engine raises denies
                refuse(principal, action, state.epoch, f"Cedar {told(error)}", error)

        return AccessScope(
            policy=self,
            principal=principal,
            decision=Decision(True, action, principal.id, "Cedar decides per access class", state.epoch),
            cache_key=cache_key,
            decide=decide,
            verdicts=kept_verdicts(self._verdicts, cache_key),
            masks=self._masks,
        )

    def _evaluate(
        self, state: _Compiled, principal: Principal, action: str, keys: Sequence[str]
    ) -> tuple[list[bool], Mapping[str, str]]:
        cedarpy = _cedarpy()
        entities = {key: self._entity(state, key) for key in keys}
        sound = {key: entity for key, entity in entities.items() if entity is not None}
        faults = {key: "its attributes do not conform to the schema" for key in keys if key not in sound}
        try:
            people = principal_entities(principal, self._principal_attributes, self._model)
            base = cedarpy.Entities.from_json_str(f"[{','.join(sound.values())}]", state.schema)
            world = base.with_added_json_str(json.dumps(people), state.schema)
        except (ValueError, InputError) as error:
            refuse(principal, action, state.epoch, "the principal does not conform to the Cedar schema", error)
        requests = [
            {"principal": people[0]["uid"], "action": self._model.action_uid(action), "resource": uid}
            for uid in map(self._model.resource_uid, sound)
        ]
        allowed: dict[str, bool] = {}
        for key, answer in zip(sound, _answers(requests, state, world), strict=True):
            if answer.decision is cedarpy.Decision.NoDecision:
                refuse(principal, action, state.epoch, "Cedar knows no such request: check action and principal")
            if answer.diagnostics.errors:
                faults[key] = "; ".join(map(str, answer.diagnostics.errors))[:_FAULT_CHARS]
            allowed[key] = answer.allowed is True and key not in faults
        return [allowed.get(key, False) for key in keys], faults

    def _entity(self, state: _Compiled, key: str) -> str | None:
        if key not in state.resources:
            state.resources[key] = self._conforming(state, key)
        return state.resources[key]

    def _conforming(self, state: _Compiled, key: str) -> str | None:
        # One by one: in one set, a single class that does not conform would make Cedar refuse all of them.
        try:
            entity = json.dumps(resource_entity(key, self._resource_attributes, self._model))
            _cedarpy().Entities.from_json_str(f"[{entity}]", state.schema)
        except (ValueError, InputError):  # becomes a fault of this class, told to the audit log
            return None
        return entity


def _answers(requests: list[dict[str, Any]], state: _Compiled, world: Any) -> Iterator[Any]:
    for start in range(0, len(requests), _BATCH):
        batch = requests[start : start + _BATCH]
        yield from _cedarpy().is_authorized_batch(batch, state.policies, world, state.schema)


def _plain(value: Any, name: str) -> Any:
    values = value if isinstance(value, list | tuple) else [value]
    for item in values:
        if not isinstance(item, str | bool | int) or (isinstance(item, int) and not -(2**63) <= item < 2**63):
            raise InputError(
                f"holds {type(item).__name__} {item!r}, which Cedar has no type for",
                field=f"metadata.{name}",
                remedy="Use strings, booleans, whole numbers of 64 bits, or lists of them.",
            )
    return sorted(values, key=lambda item: json.dumps(item)) if isinstance(value, list | tuple) else value


def _cedarpy() -> Any:
    try:
        return importlib.import_module("cedarpy")
    except ImportError as error:
        raise MissingExtra("CedarPolicy", extra="cedar") from error


def _compile(policies: str, schema: str, *, epoch: int) -> _Compiled:
    cedarpy = _cedarpy()
    try:
        read_schema = cedarpy.Schema.from_json_str if schema.lstrip().startswith("{") else cedarpy.Schema.from_str
        compiled_schema = read_schema(schema)
    except ValueError as error:
        raise ConfigError(
            f"the Cedar schema does not parse: {error}", setting="schema", remedy="See docs/policy.md."
        ) from error
    result = cedarpy.validate_policies(policies, schema)
    if not result.validation_passed:
        told_errors = "; ".join(str(error) for error in result.errors)
        raise ConfigError(
            f"the Cedar policies do not validate: {told_errors}",
            setting="policies",
            remedy="Correct them; guard optional attributes with `has`.",
        )
    return _Compiled(epoch, cedarpy.PolicySet.from_str(policies), compiled_schema)
