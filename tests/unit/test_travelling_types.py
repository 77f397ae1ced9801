"""What is handed to other processes, queues and logs gets there whole."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle

import pytest
from pydantic import TypeAdapter

from lir_agents import Document, Principal, ToolSignal, Turn
from lir_agents.graph import RetrievalContext
from lir_agents.readonly import ReadOnly

ANN = Principal("ann", groups=["b", "a"], tenant="t", attributes={"region": "eu", "levels": [1, 2]})
THINGS = [
    ANN,
    Principal("bob"),
    Document("text"),
    Document("text", id="d", acl=["a"], metadata={"k": [1]}),
    Turn("user", "said", ["d#1.0"]),
    ToolSignal("t", {"a": 1}),
    RetrievalContext(ANN, "t", 20.0),
]


@pytest.mark.parametrize("thing", THINGS, ids=lambda thing: type(thing).__name__)
def test_they_are_copied_pickled_and_written(thing):
    assert pickle.loads(pickle.dumps(thing)) == thing
    assert copy.deepcopy(thing) == thing
    plain = dataclasses.asdict(thing)
    written = TypeAdapter(type(thing)).dump_json(thing)
    assert json.loads(written) == json.loads(json.dumps(plain))


def test_a_principal_is_the_same_whatever_order_its_groups_come_in():
    other = Principal("ann", groups=["a", "b", "a"], tenant="t", attributes={"levels": [1, 2], "region": "eu"})
    assert other == ANN
    assert hash(other) == hash(ANN)
    assert len({ANN, other}) == 1
    for field, value in (("id", "bob"), ("groups", ["a"]), ("tenant", ""), ("attributes", {"region": "us"})):
        assert dataclasses.replace(ANN, **{field: value}) != ANN
    assert ANN != ("ann", ("b", "a"), "t")


def test_what_is_read_only_refuses_every_change():
    given = {"a": 1}
    frozen = ReadOnly(given)
    given["a"] = 2
    for change in (
        lambda: frozen.__setitem__("a", 2),
        lambda: frozen.__delitem__("a"),
        lambda: frozen.update(a=2),
        lambda: frozen.pop("a"),
        lambda: frozen.popitem(),
        lambda: frozen.setdefault("b", 2),
        lambda: frozen.clear(),
        lambda: frozen.__ior__({"a": 2}),
    ):
        with pytest.raises(TypeError, match="cannot be changed"):
            change()
    assert frozen == {"a": 1}
    assert frozen | {"b": 2} == {"a": 1, "b": 2}
    with pytest.raises(TypeError):
        ANN.attributes["region"] = "us"
