"""The policy room: who is refused, what a scope allows, what is remembered and what is not."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from lir_agents.errors import AccessDenied, ConfigError, InputError
from lir_agents.policy import (
    READ_ACTIONS,
    AccessScope,
    AclPolicy,
    GuardedPolicy,
    OpenPolicy,
    Policy,
    open_policy,
    recheck,
    scope_mask,
)
from lir_agents.types import Decision, Document, Principal

ALICE = Principal("alice", groups=["group:staff"])
BOB = Principal("bob", groups=["group:board"])


def key(policy: Policy, *acl: str) -> str:
    return policy.access_key(Document("text", acl=list(acl)))


def frozen_column(*classes: int) -> np.ndarray:
    column = np.array(classes, dtype=np.int32)
    column.setflags(write=False)
    return column


# ---------------------------------------------------------------- requests


def test_an_open_index_needs_no_principal_and_records_one_that_is_given():
    policy = OpenPolicy()
    nobody = policy.authorize(None, "search")
    somebody = policy.authorize(ALICE, "search")
    document_key = policy.access_key(Document("text"))
    assert nobody.allows(document_key)
    assert somebody.allows(document_key)
    assert (nobody.decision.principal_id, somebody.decision.principal_id) == ("", "alice")
    assert nobody.cache_key != somebody.cache_key


@pytest.mark.parametrize("acl", [[], ["group:staff"]])
def test_an_open_index_refuses_documents_with_an_acl(acl):
    with pytest.raises(InputError) as refused:
        OpenPolicy().access_key(Document("text", acl=acl))
    assert refused.value.field == "acl"
    assert 'access="acl"' in refused.value.remedy


def test_an_open_policy_reads_nothing_of_an_index_that_was_governed():
    scope = OpenPolicy().authorize(None, "search")
    assert not scope.allows(key(AclPolicy(), "alice"))
    assert not scope.allows("null")


@pytest.mark.parametrize("principal", [None, "alice", {"id": "alice"}])
def test_a_governed_search_without_a_principal_is_refused(principal):
    with pytest.raises(AccessDenied) as refused:
        AclPolicy().authorize(principal, "search")
    assert refused.value.decision.allowed is False
    assert refused.value.decision.action == "search"
    assert "no principal" in refused.value.decision.reason


@pytest.mark.parametrize("action", sorted(READ_ACTIONS))
def test_every_principal_may_ask_to_read(action):
    assert AclPolicy().authorize(ALICE, action).action == action


@pytest.mark.parametrize("action", ["vault:read", "write", "", "Search"])
def test_actions_nobody_was_given_are_refused(action):
    for policy, principal in ((AclPolicy(), ALICE), (OpenPolicy(), None)):
        with pytest.raises(AccessDenied, match="right"):
            policy.authorize(principal, action)


def test_a_right_goes_to_those_who_hold_its_grant():
    policy = AclPolicy(rights={"vault:read": ["group:board"]})
    assert policy.authorize(BOB, "vault:read").decision.allowed
    with pytest.raises(AccessDenied):
        policy.authorize(ALICE, "vault:read")
    with pytest.raises(ConfigError):
        AclPolicy(rights={"vault:read": "group:board"})


# ---------------------------------------------------------------- documents


def test_no_acl_and_an_empty_acl_mean_nobody():
    policy = AclPolicy()
    scope = policy.authorize(Principal("null", groups=["[]", "None", '[""]']), "search")
    assert not scope.allows(policy.access_key(Document("text")))
    assert not scope.allows(key(policy))
    assert not scope.allows("null")


def test_a_document_is_readable_by_any_one_of_its_grants():
    policy = AclPolicy()
    scope = policy.authorize(ALICE, "search")
    assert scope.allows(key(policy, "group:staff", "group:other"))
    assert scope.allows(key(policy, "alice"))
    assert not scope.allows(key(policy, "group:board"))


def test_equal_acls_share_an_access_key_and_others_do_not():
    policy = AclPolicy()
    assert key(policy, "a", "b") == key(policy, "b", "a", "b")
    assert key(policy, "a", "b") != key(policy, 'a","b')
    assert key(policy, "\u00e9") != key(policy, "e\u0301")  # composed and decomposed: two grants


def test_half_a_surrogate_pair_is_refused_in_an_acl():
    with pytest.raises(InputError) as refused:
        key(AclPolicy(), "\ud83d\ude00")
    assert refused.value.field == "acl"


@pytest.mark.parametrize(
    "malformed",
    ["", "null", "alice", '"alice"', '["alice"', '["alice"],["x"]', '["alice"] ', '{"alice":1}', '[["alice"]]',
     '["alice",1]', "[" * 100_000, "\x00", "open"],
)  # fmt: skip
def test_a_key_that_is_no_list_of_grants_is_readable_by_nobody(malformed):
    scope = AclPolicy().authorize(Principal("alice", groups=["x"]), "search")
    assert not scope.allows(malformed)
    many = [malformed] + [f'["g{i}"]' for i in range(40)] + ['["alice"]']
    assert scope.allows_many(many).tolist() == [False] * 41 + [True]


# ---------------------------------------------------------------- masks


def test_rows_without_a_class_or_of_an_unknown_class_are_not_in_the_mask():
    policy = AclPolicy()
    classes = {0: key(policy, "alice"), 3: key(policy, "bob"), 5: key(policy, "group:staff"), -1: '["alice"]'}
    column = np.array([0, 3, 5, -1, 4, 6, 2**31 - 1, -(2**31), 0], dtype=np.int32)
    mask = scope_mask(policy.authorize(ALICE, "search"), column, classes)
    assert mask.tolist() == [True, False, True, False, False, False, False, False, True]
    assert scope_mask(policy.authorize(ALICE, "search"), column, {}).tolist() == [False] * 9
    assert scope_mask(policy.authorize(ALICE, "search"), column[:0], classes).tolist() == []


def test_a_mask_is_kept_for_the_same_column_only():
    policy = AclPolicy()
    classes = {0: key(policy, "alice"), 1: key(policy, "bob")}
    column = frozen_column(0, 1)
    first = scope_mask(policy.authorize(ALICE, "search"), column, classes)
    assert scope_mask(policy.authorize(ALICE, "search"), column, dict(classes)) is first
    assert not first.flags.writeable
    assert scope_mask(policy.authorize(BOB, "search"), column, classes).tolist() == [False, True]
    assert scope_mask(policy.authorize(ALICE, "search"), frozen_column(1, 0), classes).tolist() == [False, True]
    reclassified = {0: classes[1], 1: classes[0]}
    assert scope_mask(policy.authorize(ALICE, "search"), column, reclassified).tolist() == [False, True]


def test_a_column_that_can_change_is_read_anew():
    policy = AclPolicy()
    classes = {0: key(policy, "alice"), 1: key(policy, "bob")}
    column = np.array([0, 1], dtype=np.int32)
    scope = policy.authorize(ALICE, "search")
    assert scope_mask(scope, column, classes).tolist() == [True, False]
    column[:] = [1, 0]
    assert scope_mask(scope, column, classes).tolist() == [False, True]


def test_what_is_remembered_is_bounded():
    policy = AclPolicy()
    column, classes = frozen_column(0), {0: key(policy, "alice")}
    for number in range(300):
        scope_mask(policy.authorize(Principal(f"p{number}"), "search"), column, classes)
    assert len(policy._masks) <= 64
    assert len(policy._verdicts) <= 64


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Principal("a"), Principal("a", tenant="t")),
        (Principal("a", groups=["b", "c"]), Principal("a", groups=["b"])),
        (Principal("a", groups=["b"]), Principal("b", groups=["a"])),
        (Principal("a", groups=['b","c']), Principal("a", groups=["b", "c"])),
        (Principal("a", attributes={"x": 1}), Principal("a", attributes={"x": True})),
        (Principal("a", attributes={"x": 1}), Principal("a", attributes={"x": "1"})),
        (Principal("a", attributes={"x": {}}), Principal("a", attributes={})),
    ],
)
def test_principals_that_differ_do_not_share_a_cache_key(one, other):
    policy = AclPolicy()
    assert policy.authorize(one, "search").cache_key != policy.authorize(other, "search").cache_key
    assert policy.authorize(one, "search").cache_key != policy.authorize(one, "get").cache_key
    assert policy.authorize(one, "search").cache_key == policy.authorize(one, "search").cache_key


@pytest.mark.parametrize("value", [object(), {1: "x"}, float("nan"), "\ud800", {"deep": [{2: 3}]}])
def test_an_attribute_that_cannot_be_written_down_is_refused(value):
    with pytest.raises(InputError) as refused:
        AclPolicy().authorize(Principal("a", attributes={"x": value}), "search")
    assert refused.value.field == "principal"


def test_large_groups_and_large_acls_are_right_and_fast():
    policy = AclPolicy()
    groups = [f"group:{i}" for i in range(1500)]
    principal = Principal("p", groups=groups)
    classes = {
        number: key(policy, *[f"other:{number}:{i}" for i in range(1499)], "group:7" if number % 3 == 0 else "no")
        for number in range(200)
    }
    column = np.arange(200, dtype=np.int32)
    expected = [number % 3 == 0 for number in range(200)]
    assert scope_mask(policy.authorize(Principal("first"), "search"), column, classes).sum() == 0
    fastest = float("inf")
    for number in range(7):
        scope = policy.authorize(replace(principal, tenant=str(number)), "search")  # nothing remembered of it
        started = time.perf_counter()
        mask = scope_mask(scope, column, classes)
        fastest = min(fastest, time.perf_counter() - started)
        assert mask.tolist() == expected
    assert fastest < 0.005  # seconds; measured .7 ms on two busy cores


# ---------------------------------------------------------------- the second wall


def test_recheck_asks_the_policy_of_this_moment():
    policy = AclPolicy()
    classes = {0: key(policy, "alice"), 1: key(policy, "group:staff"), 2: key(policy, "bob")}
    scope = policy.authorize(ALICE, "search")
    assert recheck(scope, [0, 1, 2, None, 9, 0], classes) == [True, True, False, False, False, True]
    policy.revoke("group:staff")
    assert recheck(scope, [0, 1], classes) == [True, False]
    assert scope_mask(policy.authorize(ALICE, "search"), frozen_column(0, 1, 2), classes).tolist() == [
        True,
        False,
        False,
    ]
    policy.restore("group:staff")
    assert recheck(scope, [0, 1], classes) == [True, True]
    assert policy.epoch == 2


def test_recheck_sees_a_document_that_was_reclassified_under_way():
    policy = AclPolicy()
    scope = policy.authorize(ALICE, "search")
    assert recheck(scope, [0], {0: key(policy, "alice")}) == [True]
    assert recheck(scope, [1], {0: key(policy, "alice"), 1: key(policy, "bob")}) == [False]
    assert recheck(scope, [], {}) == []


def test_a_revoked_principal_is_refused_also_under_way():
    policy = AclPolicy()
    scope = policy.authorize(ALICE, "search")
    policy.revoke("alice")
    with pytest.raises(AccessDenied, match="revoked"):
        recheck(scope, [0], {0: key(policy, "group:staff")})
    with pytest.raises(AccessDenied) as refused:
        policy.authorize(ALICE, "search")
    assert refused.value.decision.epoch == 1
    assert AclPolicy(revoked=["alice"]).revoked == {"alice"}


def test_two_principals_never_cross_while_grants_come_and_go():
    policy = AclPolicy()
    classes = {0: key(policy, "alice"), 1: key(policy, "bob"), 2: key(policy, "group:staff", "group:board")}
    column = frozen_column(*[0, 1, 2] * 50)
    crossings: list[str] = []
    stop = threading.Event()

    def ask(principal: Principal, forbidden: int) -> None:
        for _ in range(500):
            scope = policy.authorize(principal, "search")
            mask = scope_mask(scope, column, classes)
            if mask[forbidden] or not mask[1 - forbidden] or recheck(scope, [forbidden], classes) != [False]:
                crossings.append(principal.id)

    def churn() -> None:
        while not stop.is_set():
            policy.revoke("group:other")
            policy.restore("group:other")

    askers = [threading.Thread(target=ask, args=(who, row)) for who, row in ((ALICE, 1), (BOB, 0)) * 2]
    churner = threading.Thread(target=churn)
    for thread in (churner, *askers):
        thread.start()
    for thread in askers:
        thread.join()
    stop.set()
    churner.join()
    assert crossings == []


# ---------------------------------------------------------------- other people's policies


class Custom:
    """A policy of somebody else's, that reads metadata and can be told to misbehave."""

    name = "custom"

    def __init__(self) -> None:
        self.epoch = 0
        self.on_authorize = lambda: None
        self.on_decide = lambda keys: [key == "public" for key in keys]

    def access_key(self, document):
        return document.metadata["label"]

    def authorize(self, principal, action):
        self.on_authorize()
        return AccessScope(
            policy=self,
            principal=principal,
            decision=Decision(True, action, principal.id if principal else "", "custom", self.epoch),
            cache_key="always the same",
            decide=lambda keys: (self.on_decide(keys), {}),
        )


def boom(*_):
    raise RuntimeError("secret detail")


def test_open_policy_takes_names_and_policies_and_nothing_else():
    assert isinstance(open_policy("open"), OpenPolicy)
    assert isinstance(open_policy("acl"), AclPolicy)
    own = AclPolicy()
    assert open_policy(own) is own
    assert isinstance(open_policy(Custom()), GuardedPolicy)
    for spec in ("ACL", "", None, object(), {"acl": True}):
        with pytest.raises(ConfigError):
            open_policy(spec)


def test_a_custom_policy_works_through_its_guard():
    policy = open_policy(Custom())
    assert policy.access_key(Document("t", metadata={"label": "public"})) == "public"
    scope = policy.authorize(ALICE, "search")
    assert scope_mask(scope, frozen_column(0, 1), {0: "public", 1: "secret"}).tolist() == [True, False]
    assert recheck(scope, [0, 1], {0: "public", 1: "secret"}) == [True, False]
    assert policy.authorize(BOB, "search").cache_key != scope.cache_key
    with pytest.raises(InputError):
        policy.access_key(Document("t"))


def test_a_policy_that_raises_denies_and_says_so_without_details():
    custom = Custom()
    policy = open_policy(custom)
    custom.on_decide = boom
    with pytest.raises(AccessDenied) as refused:
        policy.authorize(ALICE, "search").allows("public")
    assert "RuntimeError" in refused.value.decision.reason
    assert "secret detail" not in str(refused.value)
    custom.on_authorize = boom
    with pytest.raises(AccessDenied, match="RuntimeError"):
        policy.authorize(ALICE, "search")


def test_what_is_revoked_while_a_policy_answers_counts_from_the_next_question_on():
    class Snapshots(Custom):
        readers = frozenset({ALICE.id})
        meanwhile = staticmethod(lambda: None)

        def authorize(self, principal, action):
            readers = self.readers
            self.on_decide = lambda keys: [principal.id in readers] * len(keys)
            scope = super().authorize(principal, action)
            decide = self.on_decide
            self.meanwhile()
            return replace(scope, decide=lambda keys: (decide(keys), {}))

    custom = Snapshots()
    policy = open_policy(custom)

    def revoke() -> None:
        custom.meanwhile, custom.readers, custom.epoch = (lambda: None), frozenset(), custom.epoch + 1

    custom.meanwhile = revoke
    assert policy.authorize(ALICE, "search").allows("public")  # it asked before
    assert not policy.authorize(ALICE, "search").allows("public")


def test_a_policy_that_cannot_tell_its_epoch_denies():
    class Lost(Custom):
        lost = False

        @property
        def epoch(self):
            return boom() if self.lost else 0

        @epoch.setter
        def epoch(self, value):
            pass

    custom = Lost()
    policy = open_policy(custom)
    custom.lost = True
    with pytest.raises(AccessDenied, match="RuntimeError"):
        policy.authorize(ALICE, "search")


def test_what_is_derived_from_a_built_in_policy_is_guarded_too():
    class Directory(AclPolicy):
        def authorize(self, principal, action):
            raise ConnectionError("secret detail")

    with pytest.raises(AccessDenied) as refused:
        open_policy(Directory()).authorize(ALICE, "search")
    assert "ConnectionError" in refused.value.decision.reason
    assert "secret detail" not in str(refused.value)


@pytest.mark.parametrize("decision", [None, "no", Decision(True, "search", "alice", "yes", 0)])
def test_a_refusal_of_its_own_is_one_that_can_be_recorded(decision):
    def refuse(*_):
        raise AccessDenied("only on weekdays", decision=decision, remedy="Come back on Monday.")

    custom = Custom()
    policy = open_policy(custom)
    scope = policy.authorize(ALICE, "search")
    custom.on_authorize = custom.on_decide = refuse
    for ask in (lambda: policy.authorize(ALICE, "search"), lambda: scope.allows("never asked for")):
        with pytest.raises(AccessDenied, match="only on weekdays") as refused:
            ask()
        recorded = refused.value.decision
        assert (recorded.allowed, recorded.action, recorded.principal_id) == (False, "search", ALICE.id)
        assert "only on weekdays" in recorded.reason
        assert refused.value.remedy == "Come back on Monday."


@pytest.mark.parametrize("answer", [[], [True], [1, 1], [None, True], ["yes", "yes"], [True, True, True]])
def test_an_answer_in_another_shape_denies(answer):
    custom = Custom()
    custom.on_decide = lambda keys: answer
    with pytest.raises(AccessDenied, match="plain verdict"):
        open_policy(custom).authorize(ALICE, "search").allows_many(["a", "b"])


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        ([True], {}, {}),
        "ab",
        ([True], None),
        ([True], [1, 2]),
        ([True], {5: "reason"}),
        ([True], {"a": object()}),
        ((verdict for verdict in [True]), {}),
        ({True}, {}),
        ({True: 1}, {}),
        (np.ones(1, dtype=bool), {}),
    ],
    ids=repr,
)
def test_what_is_no_list_of_verdicts_with_reasons_denies(answer):
    custom = Custom()
    policy = open_policy(custom)
    scope = replace(custom.authorize(ALICE, "search"), decide=lambda keys: answer)
    custom.authorize = lambda *_: scope
    with pytest.raises(AccessDenied, match="plain verdict") as refused:
        policy.authorize(ALICE, "search").allows("a")
    assert refused.value.decision.allowed is False


def test_a_policy_that_empties_the_list_it_was_given_changes_no_question():
    custom = Custom()
    custom.on_decide = lambda keys: [keys.clear() is None]
    scope = open_policy(custom).authorize(ALICE, "search")
    assert scope.allows_many(["a"]).tolist() == [True]
    assert scope.allows("a")


@pytest.mark.parametrize("raised", [asyncio.CancelledError, GeneratorExit, type("Panic", (BaseException,), {})])
def test_what_is_no_exception_denies_too(raised):
    def escape(*_):
        raise raised("secret detail")

    custom = Custom()
    policy = open_policy(custom)
    scope = policy.authorize(ALICE, "search")
    custom.on_authorize = custom.on_decide = escape
    for ask in (lambda: policy.authorize(ALICE, "search"), lambda: scope.allows("never asked for")):
        with pytest.raises(AccessDenied, match=raised.__name__) as refused:
            ask()
        assert refused.value.decision.allowed is False
        assert "secret detail" not in str(refused.value)
    custom.access_key = escape
    with pytest.raises(InputError, match=raised.__name__):
        policy.access_key(Document("t"))


@pytest.mark.parametrize("ended", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_ends_it(ended):
    custom = Custom()
    policy = open_policy(custom)

    def end():
        raise ended

    custom.on_authorize = end
    with pytest.raises(ended):
        policy.authorize(ALICE, "search")


@pytest.mark.parametrize(
    "wrong",
    [
        {"decision": None},
        {"decision": Decision(True, "search", "alice", object(), 0)},
        {"decision": Decision(True, "search", "alice", "yes", float("nan"))},
        {"decision": Decision(True, "search", "alice", "yes", 1 << 5000)},
        {"decision": Decision(1, "search", "alice", "yes", 0)},
        {"cache_key": object()},
    ],
    ids=repr,
)
def test_a_scope_that_no_log_can_hold_denies(wrong):
    custom = Custom()
    policy = open_policy(custom)
    scope = replace(custom.authorize(ALICE, "search"), **wrong)
    custom.authorize = lambda *_: scope
    with pytest.raises(AccessDenied) as refused:
        policy.authorize(ALICE, "search")
    recorded = refused.value.decision
    assert (recorded.allowed, recorded.epoch) == (False, 0)
    assert isinstance(recorded.reason, str)


def test_an_epoch_that_hangs_once_is_not_asked_for_again():
    class Slow(Custom):
        hangs = threading.Event()
        asked = 0

        @property
        def epoch(self):
            self.asked += 1
            return self.hangs.wait(30)

        @epoch.setter
        def epoch(self, value):
            pass

    custom = Slow()
    try:
        with pytest.raises(AccessDenied, match="within") as refused:
            GuardedPolicy(custom, deadline_s=0.05).authorize(ALICE, "search")
        assert (custom.asked, refused.value.decision.epoch) == (1, -1)
    finally:
        custom.hangs.set()


def test_a_policy_that_hangs_denies_within_its_deadline_and_threads_stay_bounded():
    custom = Custom()
    release = threading.Event()
    custom.on_decide = lambda keys: release.wait(30)
    policy = GuardedPolicy(custom, deadline_s=0.05)
    before = threading.active_count()
    try:
        for _ in range(12):
            started = time.perf_counter()
            with pytest.raises(AccessDenied, match=r"within 0\.05 s"):
                policy.authorize(ALICE, "search").allows("public")
            assert time.perf_counter() - started < 1
        assert threading.active_count() - before <= 8
    finally:
        release.set()


def test_a_failure_is_not_remembered_as_a_verdict():
    custom = Custom()
    policy = open_policy(custom)
    good, custom.on_decide = custom.on_decide, boom
    with pytest.raises(AccessDenied):
        policy.authorize(ALICE, "search").allows("public")
    custom.on_decide = good
    assert policy.authorize(ALICE, "search").allows("public")


def test_a_policy_that_answers_for_somebody_else_or_with_a_denial_denies():
    custom = Custom()
    genuine = custom.authorize
    policy = open_policy(custom)
    for wrong in (
        lambda p, a: genuine(BOB, a),
        lambda p, a: genuine(p, "get"),
        lambda p, a: None,
        lambda p, a: replace(genuine(p, a), decision=Decision(False, a, p.id, "no", 0)),
    ):
        custom.authorize = wrong
        with pytest.raises(AccessDenied):
            policy.authorize(ALICE, "search")
