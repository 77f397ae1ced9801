"""Whatever the grants, ACLs and classes: a scope allows exactly what brute force allows."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lir_agents.policy import AclPolicy, recheck, scope_mask
from lir_agents.types import Document, Principal

# Few distinct names, so that grants meet; odd ones, so that escaping, sorting and look-alikes are tried.
ODD = ['"', '","', "]", '["a"]', "null", "a\x00b", "\u00e9", "e\u0301", "\ufb01", "fi", "\uff41", "a",
       "A", " a", "a ", "\u200ba", "\U0001f600", "\\", "\\u0061", "true", "1", "группа", "a,b", "\n"]  # fmt: skip
grants = st.one_of(st.sampled_from(ODD), st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4))
acls = st.one_of(st.none(), st.lists(grants, max_size=4))
principals = st.builds(
    Principal, id=grants, groups=st.lists(grants, max_size=4), tenant=st.sampled_from(["", "t1", "t2"])
)
malformed = st.one_of(
    st.text(max_size=12),
    st.recursive(
        st.none() | st.booleans() | st.integers() | grants,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(grants, inner, max_size=2),
        max_leaves=5,
    ).map(lambda value: json.dumps(value, ensure_ascii=False)),
)


def readable(principal: Principal, acl: list[str] | None, revoked: frozenset[str] = frozenset()) -> bool:
    return acl is not None and any(
        grant in acl for grant in [principal.id, *principal.groups] if grant not in revoked
    )


@settings(max_examples=400, deadline=None)
@given(principals, st.lists(acls, max_size=30))
def test_a_scope_allows_what_brute_force_allows(principal, many):
    policy = AclPolicy()
    keys = [policy.access_key(Document("t", acl=acl)) for acl in many]
    expected = [readable(principal, acl) for acl in many]
    assert policy.authorize(principal, "search").allows_many(keys).tolist() == expected
    fresh = AclPolicy().authorize(principal, "search")
    assert [fresh.allows(key) for key in keys] == expected


@settings(max_examples=300, deadline=None)
@given(st.lists(principals, min_size=1, max_size=3), st.lists(acls, max_size=25), st.data())
def test_a_mask_equals_the_verdict_on_every_row(people, many, data):
    policy = AclPolicy()
    classes = {number: policy.access_key(Document("t", acl=acl)) for number, acl in enumerate(many)}
    rows = data.draw(st.lists(st.integers(-1, len(many) + 2), max_size=60))
    column = np.array(rows, dtype=np.int32)
    column.setflags(write=data.draw(st.booleans()))
    for principal in people * 2:  # the second round meets what the first one left behind
        scope = policy.authorize(principal, "search")
        expected = [0 <= row < len(many) and readable(principal, many[row]) for row in rows]
        assert scope_mask(scope, column, classes).tolist() == expected
        assert recheck(scope, [None if row < 0 else row for row in rows], classes) == expected


@settings(max_examples=200, deadline=None)
@given(principals, st.lists(malformed, min_size=1, max_size=25))
def test_malformed_access_keys_allow_nobody(principal, keys):
    scope = AclPolicy().authorize(principal, "search")
    verdicts = scope.allows_many(keys).tolist()
    for key, verdict in zip(keys, verdicts, strict=True):
        try:
            acl = json.loads(key)
        except ValueError:
            acl = None
        sound = isinstance(acl, list) and all(isinstance(grant, str) for grant in acl) and key == key.strip()
        assert verdict == (sound and readable(principal, acl))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(grants, max_size=4), min_size=2, max_size=8))
def test_access_keys_are_equal_exactly_when_the_sets_of_grants_are(many):
    policy = AclPolicy()
    keys = [policy.access_key(Document("t", acl=acl)) for acl in many]
    for one, key in zip(many, keys, strict=True):
        assert set(json.loads(key)) == set(one)
        for other, other_key in zip(many, keys, strict=True):
            assert (key == other_key) == (set(one) == set(other))


@settings(max_examples=200, deadline=None)
@given(principals, st.lists(acls, min_size=1, max_size=25), st.lists(st.tuples(st.booleans(), grants), max_size=6))
def test_revocations_count_from_the_next_question_on(principal, many, changes):
    policy = AclPolicy()
    classes = {number: policy.access_key(Document("t", acl=acl)) for number, acl in enumerate(many)}
    began = policy.authorize(principal, "search")
    scope_mask(began, np.arange(len(many), dtype=np.int32), classes)
    revoked: set[str] = set()
    for revoke, grant in changes:
        if grant == principal.id:
            continue
        (policy.revoke if revoke else policy.restore)(grant)
        (revoked.add if revoke else revoked.discard)(grant)
    expected = [readable(principal, acl, frozenset(revoked)) for acl in many]
    assert recheck(began, list(classes), classes) == expected
    now = policy.authorize(principal, "search")
    assert scope_mask(now, np.arange(len(many), dtype=np.int32), classes).tolist() == expected


@settings(max_examples=200, deadline=None)
@given(principals, principals)
def test_equal_cache_keys_mean_equal_grants_and_tenant(one, other):
    policy = AclPolicy()
    same = policy.authorize(one, "search").cache_key == policy.authorize(other, "search").cache_key
    assert same == ((one.id, one.tenant, one.grants) == (other.id, other.tenant, other.grants))
