"""Who may read what: principals, decisions, scopes, and the check before anything surfaces.

A search asks the policy once (`authorize`) and gets an access scope or a refusal. `scope_mask` turns the scope
into a bitmap over rows, by one verdict per access class. Before anything surfaces, `recheck` asks the policy as
it is at that moment. Deny by default throughout: what fails, hangs or makes no sense is denied.
"""

from lir_agents.policy.acl import AclPolicy, OpenPolicy
from lir_agents.policy.base import READ_ACTIONS, AccessScope, Policy
from lir_agents.policy.cedar import CedarPolicy
from lir_agents.policy.cedar_entities import CedarModel
from lir_agents.policy.guard import GuardedPolicy, open_policy
from lir_agents.policy.masks import recheck, scope_mask

__all__ = [
    "READ_ACTIONS",
    "AccessScope",
    "AclPolicy",
    "CedarModel",
    "CedarPolicy",
    "GuardedPolicy",
    "OpenPolicy",
    "Policy",
    "open_policy",
    "recheck",
    "scope_mask",
]
