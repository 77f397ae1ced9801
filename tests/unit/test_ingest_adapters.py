"""Documents of other libraries, mappings, and what is refused."""

import datetime
import enum
import pathlib
import uuid

import numpy as np
import pytest
from langchain_core.documents import Document as LangChainDocument

from lir_agents import Document
from lir_agents.errors import InputError
from lir_agents.ingest.adapters import to_document


def test_langchain_documents_keep_id_metadata_and_provenance():
    metadata = {"title": "Leave", "source": "hr/leave.md", "acl": ["group:staff"], "page": 3}
    document = to_document(LangChainDocument(id="d1", page_content="text", metadata=metadata))
    assert (document.id, document.text, document.title) == ("d1", "text", "Leave")
    assert (document.source, document.source_uri) == ("hr/leave.md", "hr/leave.md")
    assert document.acl == ("group:staff",)
    assert document.metadata == {"title": "Leave", "source": "hr/leave.md", "page": 3}
    assert metadata["acl"] == ["group:staff"]  # the caller's object is as it was


def test_nested_metadata_is_flattened_and_none_left_out():
    metadata = {"a": {"b": 1, "c": {"d": "x"}}, "none": None, "list": [1, None, "two"], "empty": {}}
    document = to_document(LangChainDocument(page_content="text", metadata=metadata))
    assert document.metadata == {"a.b": 1, "a.c.d": "x", "list": [1, "two"]}


def test_values_of_other_types_become_plain_ones():
    class Colour(enum.Enum):
        RED = "red"

    day, name = datetime.date(2024, 5, 1), uuid.UUID(int=7)
    metadata = {"day": day, "id": name, "path": pathlib.PurePosixPath("a/b"), "n": np.int64(3), "c": Colour.RED}
    assert to_document({"text": "t", "metadata": metadata}).metadata == {
        "day": "2024-05-01",
        "id": str(name),
        "path": "a/b",
        "n": 3,
        "c": "red",
    }


def test_llama_index_nodes_documents_and_scored_nodes():
    schema = pytest.importorskip("llama_index.core.schema")
    parent = schema.Document(text="whole", doc_id="parent", metadata={"acl": ["alice"], "title": "T"})
    assert to_document(parent).id == "parent"
    relation = {schema.NodeRelationship.SOURCE: schema.RelatedNodeInfo(node_id="parent")}
    node = schema.TextNode(text="part", id_="n1", metadata={"k": None, "n": 1}, relationships=relation)
    for given in (node, schema.NodeWithScore(node=node, score=0.5)):
        document = to_document(given)
        assert (document.id, document.text, document.source, document.metadata) == (
            "n1",
            "part",
            "parent",
            {"n": 1},
        )
    assert to_document(parent).acl == ("alice",)


def test_mappings_in_the_evaluation_layout():
    document = to_document({"_id": "7", "title": "T", "text": "x", "metadata": {"acl": ["a"], "k": 1}})
    assert (document.id, document.title, document.acl, document.metadata) == ("7", "T", ("a",), {"k": 1})


def test_an_absent_acl_stays_absent_and_an_empty_one_empty():
    assert to_document({"text": "x", "metadata": {"acl": None}}).acl is None
    assert to_document({"text": "x", "metadata": {"acl": []}}).acl == ()


def test_derived_ids_cover_everything_that_matters():
    same = [to_document({"text": "x", "acl": ["a", "b"]}), to_document({"text": "x", "acl": ["b", "a", "a"]})]
    assert same[0].id == same[1].id
    assert str(same[0].id).startswith("sha256:")
    others = [{"text": "y"}, {"text": "x"}, {"text": "x", "acl": []}, {"text": "x", "acl": ["a"]}]
    others += [{"text": "x", "metadata": {"k": 1}}, {"text": "x", "title": "t"}, {"text": "x", "url": "u"}]
    ids = {to_document(other).id for other in others} | {same[0].id}
    assert len(ids) == len(others) + 1


def test_ids_are_those_of_the_normalised_text():
    assert to_document({"text": "e\u0301\r\n"}).id == to_document(Document(text="é\n")).id


@pytest.mark.parametrize(
    ("thing", "field"),
    [
        (3, "document"),
        ("plain text", "document"),
        ({"title": "no text"}, "text"),
        ({"text": None}, "text"),
        ({"text": "x", "id": ""}, "id"),
        ({"text": "x", "id": ["a"]}, "id"),
        ({"text": "x", "id": "a\nb"}, "id"),
        ({"text": "x", "id": "a\ud800"}, "id"),
        ({"text": "x", "id": "a" * 3000}, "id"),
        ({"text": "x", "acl": "group:staff"}, "acl"),
        ({"text": "x", "acl": {"a": 1}}, "acl"),
        ({"text": "x", "acl": ["a", None]}, "acl"),
        ({"text": "x", "acl": ["a\0"]}, "acl"),
        ({"text": "x", "acl": ["a"], "metadata": {"acl": ["b"]}}, "acl"),
        ({"text": "x", "metadata": ["k"]}, "metadata"),
        ({"text": "x", "metadata": {1: "k"}}, "metadata"),
        ({"text": "x", "metadata": {"a.b": 1, "a": {"b": 2}}}, "metadata.a.b"),
        ({"text": "x", "metadata": {"k": [{"nested": 1}]}}, "metadata.k"),
        ({"text": "x", "metadata": {"k": float("nan")}}, "metadata.k"),
        ({"text": "x", "metadata": {"k": 2**70}}, "metadata.k"),
        ({"text": "x", "metadata": {"k": b"bytes"}}, "metadata.k"),
        ({"text": "x", "metadata": {"$k": 1}}, "metadata"),
        ({"text": "x", "title": "t" * 9000}, "title"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_name(thing, field):
    with pytest.raises(InputError) as caught:
        to_document(thing)
    assert caught.value.field == field


def test_metadata_nested_without_end_is_refused():
    loop: dict = {}
    loop["again"] = loop
    with pytest.raises(InputError, match="nested more than 16 deep"):
        to_document({"text": "x", "metadata": loop})
