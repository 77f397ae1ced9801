"""Metadata filters against a direct reading of their rules in plain Python."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lir_agents.errors import InputError
from lir_agents.stores.catalog import Catalog
from lir_agents.stores.filters import MAX_CONDITIONS, MAX_DEPTH, MAX_VALUES, parse_filter
from tests.catalog_documents import document

KEYS = ["a", "b", "c.d", "$-free", "ключ"]
SCALARS = st.one_of(
    st.sampled_from([0, 1, 1.0, -0.0, 2**53, 2**53 + 1, float(2**53), True, False, "", "1", "a", "b", "ä", "True"]),
    st.integers(-3, 3),
    st.floats(-2, 2, allow_nan=False).map(lambda x: round(x, 1)),
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3))
METADATA = st.dictionaries(st.sampled_from(KEYS).map(lambda k: k.lstrip("$")), VALUES, max_size=4)


def conditions() -> st.SearchStrategy[Any]:
    ordered = st.one_of(
        st.integers(-3, 3),
        st.floats(allow_nan=False, allow_infinity=False),
        st.sampled_from(["", "a", "ä", 2**53 + 1]),
    )
    operator = st.one_of(
        *(VALUES.map(lambda v, op=op: {op: v}) for op in ("$eq", "$ne")),
        *(st.lists(VALUES, max_size=3).map(lambda v, op=op: {op: v}) for op in ("$in", "$nin")),
        *(ordered.map(lambda v, op=op: {op: v}) for op in ("$gt", "$gte", "$lt", "$lte")),
        st.booleans().map(lambda v: {"$exists": v}),
        SCALARS.map(lambda v: {"$contains": v}),
    )
    joined = st.tuples(operator, operator).map(lambda two: {**two[0], **two[1]})
    return st.dictionaries(
        st.sampled_from([*(k.lstrip("$") for k in KEYS), "unknown"]),
        st.one_of(VALUES, operator, joined),
        max_size=2,
    )


FILTERS = st.recursive(
    conditions(),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda v: {"$and": v}),
        st.lists(inner, min_size=1, max_size=3).map(lambda v: {"$or": v}),
        inner.map(lambda v: {"$not": v}),
        st.tuples(conditions(), inner).map(lambda two: {**two[0], "$or": [two[1]]}),
    ),
    max_leaves=6,
)


# ---------------------------------------------------------------- the rules, as plainly as they can be said


def same(left: Any, right: Any) -> bool:
    if isinstance(left, list) != isinstance(right, list) or isinstance(left, bool) != isinstance(right, bool):
        return False
    if isinstance(left, list):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return isinstance(left, str) == isinstance(right, str) and left == right


def comparable(left: Any, right: Any) -> bool:
    def kind(value: Any) -> str:
        if isinstance(value, bool | list):
            return "none"
        return "text" if isinstance(value, str) else "number"

    return kind(left) == kind(right) != "none"


def holds(operator: str, value: Any, operand: Any) -> bool:
    match operator:
        case "$eq":
            return same(value, operand)
        case "$ne":
            return not same(value, operand)
        case "$in":
            return any(same(value, item) for item in operand)
        case "$nin":
            return not any(same(value, item) for item in operand)
        case "$gt":
            return comparable(value, operand) and value > operand
        case "$gte":
            return comparable(value, operand) and value >= operand
        case "$lt":
            return comparable(value, operand) and value < operand
        case "$lte":
            return comparable(value, operand) and value <= operand
        case "$contains":
            return isinstance(value, list) and any(same(item, operand) for item in value)
    raise AssertionError(operator)


def matches(given_filter: dict[str, Any], metadata: dict[str, Any]) -> bool:
    for key, wanted in given_filter.items():
        if key == "$and":
            ok = all(matches(part, metadata) for part in wanted)
        elif key == "$or":
            ok = any(matches(part, metadata) for part in wanted)
        elif key == "$not":
            ok = not matches(wanted, metadata)
        else:
            operators = wanted if isinstance(wanted, dict) else {"$eq": wanted}
            ok = all(
                (key in metadata) == operand
                if operator == "$exists"
                else key in metadata and holds(operator, metadata[key], operand)
                for operator, operand in operators.items()
            )
        if not ok:
            return False
    return True


# ---------------------------------------------------------------- the properties


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), corpus=st.lists(METADATA, min_size=1, max_size=8))
def test_a_filter_means_what_its_rules_say(data, corpus):
    with tempfile.TemporaryDirectory() as folder, Catalog.open(Path(folder) / "catalog.sqlite") as catalog:
        half = len(corpus) // 2
        rows = catalog.stage([document(f"d{i}", ["x", "y"], metadata=m) for i, m in enumerate(corpus[:half])])
        catalog.commit(rows)
        catalog.match({"a": 1})  # columns are read now and have to grow below
        rows += catalog.stage([document(f"d{i % 3}", ["z"], metadata=m) for i, m in enumerate(corpus[half:])])
        catalog.commit(rows)
        catalog.stage([document("pending", metadata=corpus[0])])
        for given_filter in data.draw(st.lists(FILTERS, min_size=12, max_size=12)):
            mask = catalog.match(given_filter)
            assert mask.shape == catalog.live().shape
            wanted = {row for own, m in zip(rows, corpus, strict=True) for row in own if matches(given_filter, m)}
            assert set(np.flatnonzero(mask)) == wanted, given_filter
            complement = catalog.match({"$not": given_filter})
            assert (mask ^ complement).tolist() == catalog.match({}).tolist()


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.one_of(st.none(), SCALARS, st.floats(), st.binary(max_size=2)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.sampled_from(["a", "", "$and", "$or", "$not", "$eq", "$in", "$gt", "$where"]), inner, max_size=2
            ),
        ),
    )
)
def test_anything_else_is_refused_with_a_typed_error(junk):
    error: Exception | None = None
    try:
        parse_filter(junk)
    except InputError as caught:
        error = caught
    assert error is None or error.field.startswith("filter")


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ([], "filter"),
        ("a", "filter"),
        ({1: 1}, "filter"),
        ({"": 1}, "filter"),
        ({"a": None}, "filter.a.$eq"),
        ({"a": {}}, "filter.a"),
        ({"a": {"b": 1}}, "filter.a"),
        ({"a": {"$regex": "x"}}, "filter.a"),
        ({"a": {"$not": {"$eq": 1}}}, "filter.a"),
        ({"a": {1: 1}}, "filter.a"),
        ({"$where": "1"}, "filter.$where"),
        ({"$and": []}, "filter.$and"),
        ({"$or": {"a": 1}}, "filter.$or"),
        ({"$or": [{"a": 1}, 7]}, "filter.$or[1]"),
        ({"$not": [{"a": 1}]}, "filter.$not"),
        ({"a": {"$in": "abc"}}, "filter.a.$in"),
        ({"a": {"$in": [None]}}, "filter.a.$in"),
        ({"a": {"$gt": True}}, "filter.a.$gt"),
        ({"a": {"$lt": [1]}}, "filter.a.$lt"),
        ({"a": {"$gt": float("nan")}}, "filter.a.$gt"),
        ({"a": {"$lt": float("inf")}}, "filter.a.$lt"),
        ({"a": {"$exists": 1}}, "filter.a.$exists"),
        ({"a": {"$contains": ["x"]}}, "filter.a.$contains"),
        ({"a": [[1]]}, "filter.a.$eq"),
    ],
)
def test_a_malformed_filter_names_the_place(bad, field):
    with pytest.raises(InputError) as caught:
        parse_filter(bad)
    assert caught.value.field == field
    assert caught.value.remedy


def test_size_has_limits(tmp_path):
    deep: dict[str, Any] = {"a": 1}
    for _ in range(MAX_DEPTH):
        deep = {"$not": deep}
    parse_filter(deep)
    endless: dict[str, Any] = {}
    endless["$and"] = [endless]
    for bad in (
        {"$not": deep},
        endless,
        {"$or": [{"a": 1}] * (MAX_CONDITIONS + 1)},
        {"a": {"$in": list(range(MAX_VALUES + 1))}},
    ):
        with pytest.raises(InputError, match=r"filter: .*(deeper|more than)"):
            parse_filter(bad)
    many = list(range(MAX_VALUES))
    with Catalog.open(tmp_path / "catalog.sqlite") as catalog:
        catalog.commit(catalog.stage([document("x", metadata={"a": MAX_VALUES - 1})]))
        assert catalog.match({"a": {"$in": many}}).sum() == 1
        assert catalog.match({"no such key": 1}).sum() == 0
        with pytest.raises(InputError):
            catalog.match({"\ud800": 1})


def test_known_keys_are_those_of_the_passages_asked_about(tmp_path):
    with Catalog.open(tmp_path / "catalog.sqlite") as catalog:
        mine, theirs = catalog.stage([document("a", metadata={"open": 1}), document("b", metadata={"secret": 1})])
        catalog.commit([mine, theirs])
        scope = np.zeros_like(catalog.live())
        scope[mine] = True
        assert catalog.known_filter_keys(scope) == {"open"}
        assert catalog.known_filter_keys() == {"open", "secret"}
        catalog.commit(catalog.stage([document("b", "new", metadata={"other": 1})]))
        assert catalog.known_filter_keys() == {"open", "other"}
        catalog.stage([document("c", metadata={"pending": 1})])
        assert catalog.known_filter_keys() == {"open", "other"}
