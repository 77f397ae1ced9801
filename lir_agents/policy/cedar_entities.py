"""What Cedar gets to see of a principal and of an access class."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lir_agents.errors import InputError
from lir_agents.policy.keys import digest
from lir_agents.types import Principal

__all__ = ["CedarModel", "principal_entities", "resource_entity"]

Entity = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CedarModel:
    """Entity types as the schema names them, e.g. ``"Library::Reader"``."""

    principal: str = "User"
    group: str = "Group"
    resource: str = "Document"
    action: str = "Action"

    def action_uid(self, action: str) -> dict[str, str]:
        """The uid of an action such as "search"."""
        return {"type": self.action, "id": action}

    def resource_uid(self, access_key: str) -> dict[str, str]:
        """The uid of an access class: a digest of its key, so that Cedar never learns a document's id."""
        return {"type": self.resource, "id": digest(access_key)}


def principal_entities(principal: Principal, attributes: Sequence[str], model: CedarModel) -> list[Entity]:
    """The principal, first, and its groups. An attribute that the principal lacks is left out.

    Raises:
        InputError: A mapping among the attributes has a key that Cedar's JSON gives a meaning of its own
            ("__entity", "__extn"), by which a string could pose as an entity.
    """
    own: Mapping[str, Any] = {
        **principal.attributes,
        "grants": sorted(principal.grants),
        "groups": list(principal.groups),
        "tenant": principal.tenant,
    }
    attrs = {name: own[name] for name in attributes if name in own}
    _refuse_escapes(attrs)
    parents = [{"type": model.group, "id": group} for group in dict.fromkeys(principal.groups)]
    uid = {"type": model.principal, "id": principal.id}
    return [{"uid": uid, "attrs": attrs, "parents": parents}] + [
        {"uid": parent, "attrs": {}, "parents": []} for parent in parents
    ]


def _refuse_escapes(value: Any) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str) or key.startswith("__"):
                raise InputError(f"has the key {key!r}", field="principal.attributes", remedy="Rename it.")
            _refuse_escapes(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_escapes(item)


def resource_entity(access_key: str, attributes: Sequence[str], model: CedarModel) -> Entity:
    """The access class as an entity with the listed attributes.

    Raises:
        InputError: The key was not made by a CedarPolicy.
    """
    try:
        content = json.loads(access_key)
        acl, given = content["acl"], content["attributes"]
        attrs = {name: given[name] for name in attributes if name != "acl" and name in given}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError("is not a Cedar access class", field="access_key") from error
    if acl is not None and "acl" in attributes:
        attrs["acl"] = acl
    _refuse_escapes(attrs)
    return {"uid": model.resource_uid(access_key), "attrs": attrs, "parents": []}
