"""What every policy has to do, built-in or not: the same questions put to each."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from lir_agents.errors import AccessDenied
from lir_agents.policy import (
    AccessScope,
    AclPolicy,
    CedarPolicy,
    GuardedPolicy,
    OpenPolicy,
    Policy,
    open_policy,
    recheck,
    scope_mask,
)
from lir_agents.types import Document, Principal

SCHEMA = """
entity Group;
entity User in [Group] { grants: Set<String> };
entity Document { acl?: Set<String> };
action "search", "get" appliesTo { principal: User, resource: Document };
"""
POLICIES = """permit(principal, action, resource)
when { resource has acl && resource.acl.containsAny(principal.grants) };"""


def cedar() -> Policy:
    if importlib.util.find_spec("cedarpy") is None:
        pytest.skip("cedarpy is not installed: pip install 'lir-agents[cedar]'")
    return CedarPolicy(POLICIES, SCHEMA, resource_attributes=["acl"], principal_attributes=["grants"])


@pytest.fixture(params=["open", "acl", "cedar", "guarded"])
def policy(request) -> Policy:
    makers = {"open": OpenPolicy, "acl": AclPolicy, "cedar": cedar, "guarded": lambda: GuardedPolicy(AclPolicy())}
    return makers[request.param]()


ALICE = Principal("alice", groups=["group:staff", "gr\u00fcppe:\U0001f600", 'odd","x'])


def own(policy: Policy) -> str:
    document = Document("t") if policy.name == "open" else Document("t", acl=["group:staff"])
    return policy.access_key(document)


def test_it_is_a_policy_and_open_policy_takes_it(policy):
    assert isinstance(policy, Policy)
    assert open_policy(policy) is policy
    assert isinstance(policy.name, str)
    assert isinstance(policy.epoch, int)


def test_a_scope_tells_who_asked_what_and_why(policy):
    scope = policy.authorize(ALICE, "search")
    assert isinstance(scope, AccessScope)
    assert scope.principal is ALICE
    assert scope.policy is policy
    decision = scope.decision
    assert (decision.allowed, decision.action, decision.principal_id) == (True, "search", "alice")
    assert decision.epoch == policy.epoch
    assert decision.reason


def test_what_is_readable_is_readable_by_every_way_of_asking(policy):
    key = own(policy)
    scope = policy.authorize(ALICE, "search")
    assert scope.allows(key)
    assert scope.allows_many([key, "nonsense", key]).tolist() == [True, False, True]
    column = np.array([7, -1, 8, 7], dtype=np.int32)
    assert scope_mask(scope, column, {7: key, 8: "nonsense"}).tolist() == [True, False, False, True]
    assert recheck(scope, [7, None, 8, 99], {7: key, 8: "nonsense"}) == [True, False, False, False]


@pytest.mark.parametrize(
    "key", ["", "null", "nonsense", "{}", "[]", '["bob"]', '{"acl":["alice"]}', '{"acl":null}']
)
def test_a_key_that_does_not_name_the_principal_is_not_readable(policy, key):
    assert not policy.authorize(ALICE, "search").allows(key)
    assert policy.authorize(ALICE, "search").allows_many([key] * 3).tolist() == [False] * 3


def test_a_governed_policy_reads_no_document_without_an_acl_and_needs_a_principal(policy):
    if policy.name == "open":
        pytest.skip("an open index has no ACLs")
    assert not policy.authorize(ALICE, "search").allows(policy.access_key(Document("t")))
    assert not policy.authorize(ALICE, "search").allows(policy.access_key(Document("t", acl=[])))
    with pytest.raises(AccessDenied) as refused:
        policy.authorize(None, "search")
    assert refused.value.decision.allowed is False


def test_an_access_key_speaks_of_readability_alone(policy):
    acl = None if policy.name == "open" else ["a", "b"]
    keys = {
        policy.access_key(Document(text, id=name, title=name, acl=acl and order, metadata={"other": name}))
        for text, name, order in (("x", "1", ["a", "b"]), ("y", "2", ["b", "a"]))
    }
    assert len(keys) == 1
    keys.pop().encode()


def test_odd_grants_are_compared_exactly(policy):
    if policy.name == "open":
        pytest.skip("an open index has no ACLs")
    scope = policy.authorize(ALICE, "search")
    for grant in ALICE.groups:
        assert scope.allows(policy.access_key(Document("t", acl=[grant])))
    for grant in ("odd", "x", "Group:staff", "group:staff ", "gru\u0308ppe:\U0001f600"):
        assert not scope.allows(policy.access_key(Document("t", acl=[grant])))


def test_cache_keys_tell_callers_actions_and_tenants_apart(policy):
    people = [ALICE, Principal("bob"), Principal("alice", tenant="t"), Principal("alice", attributes={"a": 1})]
    keys = {policy.authorize(who, action).cache_key for who in people for action in ("search", "get")}
    assert len(keys) == 8
    assert policy.authorize(ALICE, "search").cache_key in keys
