"""Cedar behind the policy port, with the real engine: validated, decided per class, denied on any error."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from lir_agents import LateInteractionIndex
from lir_agents.errors import AccessDenied, ConfigError, InputError
from lir_agents.policy import CedarModel, CedarPolicy, recheck, scope_mask
from lir_agents.types import Document, Principal
from tests.hashed_encoder import HashedEncoder

cedarpy = pytest.importorskip("cedarpy", reason="pip install 'lir-agents[cedar]'")

SCHEMA = """
entity Group;
entity User in [Group] { clearance: Long, region?: String };
entity Document { acl?: Set<String>, level?: Long, region?: String, tags?: Set<String> };
action "search", "vault:read" appliesTo { principal: User, resource: Document };
"""
POLICIES = """
permit(principal, action == Action::"search", resource)
when { resource has level && principal.clearance >= resource.level };

permit(principal in Group::"group:board", action, resource);

@id("eu-only")
forbid(principal, action, resource)
when { resource has region && !(principal has region && principal.region == resource.region) };
"""


def make(policies: str = POLICIES, schema: str = SCHEMA, **options) -> CedarPolicy:
    return CedarPolicy(
        policies,
        schema,
        resource_attributes=options.pop("resource_attributes", ["level", "region", "tags"]),
        principal_attributes=["clearance", "region"],
        **options,
    )


def person(clearance: object = 2, *groups: str, **attributes) -> Principal:
    return Principal("ann", groups=list(groups), attributes={"clearance": clearance, **attributes})


def test_attributes_decide():
    policy = make()
    scope = policy.authorize(person(2, region="eu"), "search")
    cases = [({"level": 2}, True), ({"level": 3}, False), ({"level": 1, "region": "eu"}, True),
             ({"level": 1, "region": "us"}, False), ({}, False)]  # fmt: skip
    for metadata, expected in cases:
        assert scope.allows(policy.access_key(Document("t", metadata=metadata))) is expected
    assert dict(scope.faults) == {}


def test_groups_are_parents():
    policy = make()
    key = policy.access_key(Document("t", metadata={"level": 9}))
    assert policy.authorize(person(0, "group:board"), "search").allows(key)
    assert not policy.authorize(person(0, "group:Board"), "search").allows(key)


def test_rights_beyond_reading_are_decided_by_cedar_too():
    policy = make()
    key = policy.access_key(Document("t", metadata={"level": 0}))
    assert policy.authorize(person(0, "group:board"), "vault:read").allows(key)
    assert not policy.authorize(person(9), "vault:read").allows(key)
    with pytest.raises(AccessDenied, match="no such request"):
        policy.authorize(person(9, "group:board"), "write").allows(key)


def test_a_missing_attribute_that_a_policy_reads_denies_with_the_reason():
    # Evaluated without `has`, this forbid fails on a document without a level and would be skipped by Cedar
    # alone. Validation refuses it where the attribute is optional; where it is required, the document that
    # lacks it does not conform.
    careless = (
        "permit(principal, action, resource); forbid(principal, action, resource) when { resource.level > 3 };"
    )
    with pytest.raises(ConfigError, match="validate"):
        make(careless)
    policy = make(careless, SCHEMA.replace("level?: Long", "level: Long"))
    with_level = policy.access_key(Document("t", metadata={"level": 1}))
    without = policy.access_key(Document("t", metadata={"region": "eu"}))
    scope = policy.authorize(person(), "search")
    assert scope.allows_many([without, with_level]).tolist() == [False, True]
    assert list(scope.faults) == [without]
    assert "conform" in scope.faults[without]


def test_an_error_in_one_class_denies_that_class_alone():
    overflow = """permit(principal, action, resource);
    forbid(principal, action, resource) when { resource has level && resource.level * 4611686018427387904 < 0 };"""
    policy = make(overflow)
    bad, good = (policy.access_key(Document("t", metadata={"level": level})) for level in (4, 1))
    scope = policy.authorize(person(), "search")
    assert scope.allows_many([bad, good]).tolist() == [False, True]
    assert "overflow" in scope.faults[bad]


def test_the_search_says_in_the_log_how_many_classes_it_could_not_judge_and_why(tmp_path):
    overflow = """permit(principal, action, resource);
    forbid(principal, action, resource) when { resource has level && resource.level * 4611686018427387904 < 0 };"""
    with LateInteractionIndex.open(tmp_path / "i.lir", access=make(overflow), encoder=HashedEncoder()) as index:
        index.add([Document("soup at noon", id="good", metadata={"level": 1})])
        plain = index.search("soup", principal=person())
        assert "policy_faults" not in index.audit.get(plain.event_id).payload
        index.add([Document("soup at one", id="bad", metadata={"level": 4})])
        result = index.search("soup", principal=person())
        assert [hit.document_id for hit in result] == ["good"]
        told = index.audit.get(result.event_id).payload["policy_faults"]
        assert told["count"] == 1
        assert "overflow" in told["reasons"][0]
        assert "overflow" not in repr(result)
        assert index.verify() == []


@pytest.mark.parametrize("metadata", [{"level": "high"}, {"region": 3}, {"tags": "one"}, {"tags": [1, "a"]}])
def test_a_class_of_the_wrong_type_is_denied_and_told_to_the_audit_log(metadata):
    policy = make("permit(principal, action, resource);")
    key = policy.access_key(Document("t", metadata=metadata))
    scope = policy.authorize(person(), "search")
    assert scope.allows_many([key, policy.access_key(Document("t"))]).tolist() == [False, True]
    assert key in scope.faults


@pytest.mark.parametrize("value", [1.5, 2**63, [0.5], [["a"]], {"__entity": {"type": "User", "id": "x"}}])
def test_values_without_a_cedar_type_are_refused_when_a_document_is_added(value):
    with pytest.raises(InputError) as refused:
        make().access_key(Document("t", metadata={"level": value}))
    assert refused.value.field == "metadata.level"


def test_a_principal_that_does_not_conform_is_refused():
    policy = make("permit(principal, action, resource);")
    key = policy.access_key(Document("t"))
    escape = {"__entity": {"type": "Group", "id": "group:board"}}
    for who in (Principal("x"), person("high"), person(1, region=escape), person(2**70)):
        with pytest.raises(AccessDenied, match="principal does not conform"):
            policy.authorize(who, "search").allows(key)


@pytest.mark.parametrize(
    ("policies", "schema", "setting"),
    [
        ("permit(", SCHEMA, "policies"),
        ("permit(principal, action, resource) when { resource.nope };", SCHEMA, "policies"),
        (POLICIES, "entity", "schema"),
        (POLICIES, "{}", "policies"),
    ],
)
def test_policies_and_schema_are_validated_when_made_and_when_updated(policies, schema, setting):
    with pytest.raises(ConfigError) as refused:
        make(policies, schema)
    assert refused.value.setting == setting
    policy = make()
    with pytest.raises(ConfigError):
        policy.update(policies, schema)
    assert policy.epoch == 0
    assert policy.authorize(person(0, "group:board"), "search").allows(policy.access_key(Document("t")))


def test_an_update_counts_for_the_next_search_and_for_one_under_way():
    policy = make()
    classes = {0: policy.access_key(Document("t", metadata={"level": 1}))}
    column = np.array([0], dtype=np.int32)
    column.setflags(write=False)
    scope = policy.authorize(person(), "search")
    assert scope_mask(scope, column, classes).tolist() == [True]
    policy.update("forbid(principal, action, resource);")
    assert recheck(scope, [0], classes) == [False]
    assert scope_mask(policy.authorize(person(), "search"), column, classes).tolist() == [False]
    assert policy.epoch == 1


def test_document_ids_and_unlisted_attributes_never_reach_the_key():
    policy = make()
    one = policy.access_key(Document("a", id="1", title="x", metadata={"level": 1, "author": "a"}))
    two = policy.access_key(Document("b", id="2", title="y", metadata={"level": 1, "author": "b"}))
    assert one == two
    assert policy.access_key(Document("a", metadata={"tags": ["b", "a"]})) == policy.access_key(
        Document("a", metadata={"tags": ["a", "b"]})
    )
    assert one != policy.access_key(Document("a", metadata={"level": "1"}))


def test_namespaced_types_and_hostile_ids_work():
    schema = "namespace Library {\n" + SCHEMA.replace("User", "Reader") + "}"
    policies = 'permit(principal in Library::Group::"a\\"b\\n", action, resource);'
    model = CedarModel("Library::Reader", "Library::Group", "Library::Document", "Library::Action")
    policy = make(policies, schema, model=model)
    key = policy.access_key(Document("t"))
    hostile = Principal('ann", x\n::"', groups=['a"b\n'], attributes={"clearance": 1})
    assert policy.authorize(hostile, "search").allows(key)
    assert not policy.authorize(replace_groups(hostile), "search").allows(key)


def replace_groups(principal: Principal) -> Principal:
    return Principal(principal.id, groups=['a\\"b\\n', "a"], attributes=principal.attributes)


def test_an_engine_that_raises_or_hangs_denies(monkeypatch):
    policy = make(deadline_s=0.1)
    key = policy.access_key(Document("t", metadata={"level": 1}))

    def boom(*_):
        raise RuntimeError("inside")

    monkeypatch.setattr(cedarpy, "is_authorized_batch", boom)
    with pytest.raises(AccessDenied, match="RuntimeError") as refused:
        policy.authorize(person(), "search").allows(key)
    assert refused.value.decision.reason == "Cedar raised RuntimeError"
    release = threading.Event()
    monkeypatch.setattr(cedarpy, "is_authorized_batch", lambda *_: release.wait(30))
    with pytest.raises(AccessDenied, match="within"):
        policy.authorize(person(), "search").allows(key)
    release.set()
    monkeypatch.undo()
    assert policy.authorize(person(), "search").allows(key)


def test_cedar_agrees_with_a_plain_reading_of_the_policies():
    policy = make(resource_attributes=["acl", "level", "region"])
    levels, regions = [None, 0, 1, 2, 3], [None, "eu", "us"]
    shapes = [(level, region) for level in levels for region in regions]
    classes = {}
    for number, (level, region) in enumerate(shapes * 20):
        metadata = {key: value for key, value in (("level", level), ("region", region)) if value is not None}
        classes[number] = policy.access_key(Document("t", acl=[f"g{number // 15}"], metadata=metadata))
    column = np.arange(len(classes), dtype=np.int32)
    for clearance in (0, 2):
        for home in regions:
            for board in (False, True):
                who = person(clearance, *(["group:board"] if board else []), **({"region": home} if home else {}))
                expected = [
                    (board or (level is not None and clearance >= level)) and (region is None or region == home)
                    for level, region in shapes * 20
                ]
                assert scope_mask(policy.authorize(who, "search"), column, classes).tolist() == expected
