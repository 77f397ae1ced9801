"""`LateInteractionVectorStore`: LangChain's standard tests, moving over from Chroma, and access."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromadb
import pytest
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager
from langchain_core.indexing import aindex as aindexed
from langchain_core.indexing import index as indexed
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import VectorStoreIntegrationTests

from lir_agents import AccessDenied, IndexLocked, InputError, LateInteractionIndex
from lir_agents.ingest.adapters import to_document
from lir_agents.langchain import LateInteractionVectorStore
from lir_agents.langchain.adopt import adopt_collection
from tests.doors import ALICE, BOB, QUERIES, readers
from tests.hashed_encoder import HashedEncoder

pytestmark = [
    pytest.mark.filterwarnings("error::DeprecationWarning:lir_agents"),
    pytest.mark.filterwarnings("error::DeprecationWarning:langchain"),
    pytest.mark.filterwarnings("error::PendingDeprecationWarning:langchain"),
]


class TestStandard(VectorStoreIntegrationTests):
    """LangChain's own suite, nothing expected to fail, with access off and on."""

    @pytest.fixture(params=["open", "acl"])
    def vectorstore(self, request: pytest.FixtureRequest, quick_path: Path) -> Iterator[VectorStore]:  # type: ignore[override]
        with LateInteractionIndex.open(
            quick_path / "i.lir", access=request.param, encoder=HashedEncoder()
        ) as index:
            governed = request.param == "acl"
            yield LateInteractionVectorStore(
                index=index, principal=ALICE if governed else None, acl=["group:staff"] if governed else None
            )


@pytest.fixture
def store(open_index: LateInteractionIndex) -> LateInteractionVectorStore:
    return LateInteractionVectorStore(index=open_index)


async def test_it_ranks_as_the_index_does(store: LateInteractionVectorStore) -> None:
    for query in QUERIES:
        best = list(dict.fromkeys(hit.document_id for hit in store.index.search(query, k=20)))
        assert [found.id for found in store.similarity_search(query, 5)] == best[:5]
        assert [found.id for found in await store.asimilarity_search(query, 5)] == best[:5]
        scores = [score for _, score in store.similarity_search_with_score(query, 5)]
        assert scores == sorted(scores, reverse=True)
        relevances = [score for _, score in store.similarity_search_with_relevance_scores(query, 5)]
        assert all(0 <= score <= 1 for score in relevances)
        assert relevances == sorted(relevances, reverse=True)


async def test_long_documents_come_back_once_and_whole(quick_path: Path, encoder: HashedEncoder) -> None:
    long = "\n\n".join(f"Chapter {n}. The cat sat on the mat and talked of leave, number {n}." for n in range(60))
    with LateInteractionIndex.open(quick_path / "i.lir", encoder=encoder) as index:
        store = LateInteractionVectorStore(index=index)
        store.add_texts([long, "The dog rents an office."], ids=["long", "short"])
        found = store.similarity_search("the cat sat on the mat", k=2)
        assert {(document.id, document.page_content) for document in found} == {
            ("long", long),
            ("short", "The dog rents an office."),
        }
        assert await store.asimilarity_search("the cat sat on the mat", k=2) == found


async def test_one_long_document_takes_no_other_ones_place(quick_path: Path, encoder: HashedEncoder) -> None:
    """Its passages fill every list of the first stage; the question is asked, and recorded, once all the same."""
    parts = (
        f"Chapter {n}. The cat sat on the mat and talked of leave, number {n}. " + "Leave. " * 60
        for n in range(400)
    )
    with LateInteractionIndex.open(quick_path / "i.lir", encoder=encoder) as index:
        store = LateInteractionVectorStore(index=index)
        store.add_texts(
            ["\n\n".join(parts), "A dog.", "An office.", "A rule."], ids=["long", "dog", "office", "rule"]
        )
        assert index.stats()["passages"] > 300
        everything = ["dog", "long", "office", "rule"]
        for found in (
            store.similarity_search("the cat sat on the mat", k=4),
            await store.asimilarity_search("the cat sat on the mat", k=9),
            store.max_marginal_relevance_search("the cat sat on the mat", k=4),
        ):
            assert sorted(str(document.id) for document in found) == everything
        assert len(index.audit.events(kind="retrieval")) == 3


async def test_langchains_indexing_api_adds_skips_and_cleans_up(quick_path: Path, encoder: HashedEncoder) -> None:
    given = [
        Document(page_content="Lunch is at noon.", metadata={"source": "a"}),
        Document(page_content="Doors close at nine.", metadata={"source": "b"}),
    ]
    told: dict[str, Any] = {"cleanup": "full", "source_id_key": "source", "key_encoder": "sha256"}
    with LateInteractionIndex.open(quick_path / "i.lir", encoder=encoder) as index:
        store, records = LateInteractionVectorStore(index=index), InMemoryRecordManager(namespace="n")
        records.create_schema()
        assert indexed(given, records, store, **told)["num_added"] == 2
        assert (await aindexed(given, records, store, **told))["num_skipped"] == 2
        given[0] = Document(page_content="Lunch is at one.", metadata={"source": "a"})
        done = indexed(given, records, store, **told)
        assert (done["num_added"], done["num_skipped"], done["num_deleted"]) == (1, 1, 1)
        texts = {one.page_content for one in store.similarity_search("lunch", k=5)}
        assert texts == {"Lunch is at one.", "Doors close at nine."}


def test_what_cannot_be_added_keeps_nothing_else_out(quick_path: Path, encoder: HashedEncoder) -> None:
    given = [
        Document(page_content="A strange one.", id="strange", metadata={"key": object()}),
        Document(page_content="A plain one.", id="plain"),
    ]
    with LateInteractionIndex.open(quick_path / "i.lir", encoder=encoder) as index:
        store = LateInteractionVectorStore(index=index)
        with pytest.raises(InputError, match=r"strange.*key"):
            store.add_documents(given)
        assert [one.id for one in store.get_by_ids(["strange", "plain"])] == ["plain"]


@pytest.mark.parametrize("name", ["../escaped", "a/b", "/abs", ""])
def test_a_name_is_no_path(tmp_path: Path, encoder: HashedEncoder, name: str) -> None:
    with pytest.raises(InputError, match="collection_name"):
        LateInteractionVectorStore(name, persist_directory=tmp_path / "here", encoder=encoder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["similarity", "mmr", "similarity_score_threshold"])
async def test_every_kind_of_retriever(store: LateInteractionVectorStore, kind: str) -> None:
    asked: dict[str, Any] = {"k": 3, "filter": {"parity": "odd"}}
    if kind == "similarity_score_threshold":
        asked["score_threshold"] = 0.0
    retriever = store.as_retriever(search_type=kind, search_kwargs=asked)
    found = retriever.invoke(QUERIES[0])
    assert len(found) == 3
    assert {document.metadata["parity"] for document in found} == {"odd"}
    assert await retriever.ainvoke(QUERIES[0]) == found


def test_mmr_prefers_variety(store: LateInteractionVectorStore) -> None:
    def kinds(found: list[Document]) -> int:
        return len({int(document.metadata["number"]) % 10 for document in found})

    plain = store.similarity_search(QUERIES[2], k=5)
    varied = store.max_marginal_relevance_search(QUERIES[2], k=5, fetch_k=50, lambda_mult=0.0)
    assert kinds(varied) > kinds(plain)


async def test_access(acl_index: LateInteractionIndex) -> None:
    store = LateInteractionVectorStore(index=acl_index)
    every = [f"doc/{number}" for number in range(50)]
    for principal, grant in ((ALICE, "group:staff"), (BOB, "group:guests")):
        readable = {f"doc/{number}" for number in range(50) if grant in readers(number)}
        theirs = store.as_principal(principal)
        assert {found.id for found in theirs.similarity_search(QUERIES[0], k=50)} == readable
        assert {found.id for found in await theirs.asimilarity_search(QUERIES[0], k=50)} == readable
        assert {found.id for found in theirs.get_by_ids(every)} == readable
        assert {found.id for found in theirs.max_marginal_relevance_search(QUERIES[0], k=50)} <= readable
    for refused in (lambda: store.similarity_search(QUERIES[0]), lambda: store.get_by_ids(every)):
        with pytest.raises(AccessDenied):
            refused()


def test_what_a_store_adds_is_for_those_it_names(quick_path: Path, encoder: HashedEncoder) -> None:
    with LateInteractionIndex.open(quick_path / "i.lir", access="acl", encoder=encoder) as index:
        store = LateInteractionVectorStore(index=index, principal=ALICE, acl=["group:staff"])
        given = [Document(page_content="The cat sat.", id="cat"), Document(page_content="A dog.", id="dog")]
        given[1].metadata["acl"] = ["group:guests"]
        store.add_documents(given)
        assert [one.id for one in store.get_by_ids(["cat", "dog"])] == ["cat"]
        assert [one.id for one in store.as_principal(BOB).get_by_ids(["cat", "dog"])] == ["dog"]
        assert given[0].metadata == {}


def test_a_name_made_of_a_text_does_not_tell_what_was_redacted_in_it(
    quick_path: Path, encoder: HashedEncoder
) -> None:
    """A name is returned to whoever adds, before the text is redacted, and shown to whoever reads."""
    text = "Call 555-867-5309 or write to jane.roe@example.com."
    with LateInteractionIndex.open(quick_path / "i.lir", encoder=encoder, redactor=True) as index:
        store = LateInteractionVectorStore(index=index)
        (name,) = store.add_texts([text])
        assert store.add_texts([text]) == [name]
        (found,) = store.similarity_search("call or write", k=5)
        assert found.id == name
        assert "jane" not in found.page_content
    assert name != to_document({"text": text}).id


def test_code_written_for_langchain_chroma_moves_over(tmp_path: Path, encoder: HashedEncoder) -> None:
    documents = [
        Document(page_content="The cat sat.", metadata={"page": 1}),
        Document(page_content="A dog talked."),
    ]
    with pytest.warns(UserWarning, match="embedding_function is not used") as warned:
        store = LateInteractionVectorStore.from_documents(
            documents,
            VectorStoreIntegrationTests.get_embeddings(),
            ids=["cat", "dog"],
            collection_name="pets",
            persist_directory=tmp_path,
            encoder=encoder,
        )
    assert [one.filename for one in warned] == [__file__]  # at the line to change
    assert store.similarity_search("cats", k=1, filter={"page": 1})[0].id == "cat"
    with pytest.raises(IndexLocked):
        LateInteractionVectorStore("pets", persist_directory=tmp_path, encoder=encoder)
    store.close()
    reopened = LateInteractionVectorStore("pets", persist_directory=tmp_path, encoder=encoder)
    assert [found.id for found in reopened.get_by_ids(["dog", "none"])] == ["dog"]
    reopened.close()


def test_a_store_without_a_directory_leaves_nothing_behind(encoder: HashedEncoder) -> None:
    store = LateInteractionVectorStore.from_texts(["The cat sat."], encoder=encoder)
    path = store.index.path
    assert path.exists()
    del store
    gc.collect()
    assert not path.exists()


def test_nothing_is_ignored_or_dropped_in_silence(store: LateInteractionVectorStore) -> None:
    for refused, field in (
        (lambda: store.similarity_search("cat", where_document={"$contains": "x"}), "where_document"),
        (lambda: store.add_documents([Document(page_content="x")], namespace="y"), "namespace"),
        (lambda: store.add_texts(["a", "b"], ids=["1"]), "ids"),
        (lambda: store.add_texts(["a", "b"], [{}]), "metadatas"),
        (lambda: store.add_documents([Document(page_content="x", metadata={"bad": [[1]]})]), "bad"),
        (lambda: store.delete(), "ids"),
        (lambda: store.similarity_search("cat", k=0), "k"),
        (lambda: store.similarity_search(""), "query"),
        (lambda: LateInteractionVectorStore(index=store.index, persist_directory="x"), "index"),
    ):
        with pytest.raises(InputError, match=field):
            refused()
    assert store.index.stats()["documents"] == 50


def test_adopting_a_chroma_collection(tmp_path: Path, encoder: HashedEncoder) -> None:
    client = chromadb.PersistentClient(str(tmp_path / "chroma"))
    collection = client.create_collection("pets")
    many = 1_203
    vectors = [[float(number % 7), 1.0, 2.0] for number in range(many)]
    texts = [f"Cat number {number} sat on the mat." for number in range(many)]
    collection.add(
        [f"pet-{n}" for n in range(many)], vectors, [{"n": n, "even": n % 2 == 0} for n in range(many)], texts
    )
    before = collection.get(include=["documents", "metadatas", "embeddings"])
    path = tmp_path / "pets.lir"
    with LateInteractionIndex.open(path, encoder=encoder) as index:
        store = LateInteractionVectorStore.from_chroma(collection, index=index, reencode=True)
        assert index.stats()["documents"] == many
        (found,) = store.get_by_ids(["pet-1202"])
        assert (found.page_content, found.metadata) == (texts[1202], {"n": 1202, "even": True})
        assert store.similarity_search("number 77", filter={"even": False})[0].id == "pet-77"
        encoder.documents.clear()
        collection.update("pet-7", documents="Cat number 7 left.", embeddings=[1.0, 1.0, 1.0])
        assert adopt_collection(index, collection).updated == 1
        assert len(encoder.documents) == 1, "what has not changed is not encoded again"
        collection.add("vector-only", [1.0, 1.0, 1.0])
        with pytest.raises(InputError, match="vector-only: the record holds a vector and no text"):
            LateInteractionVectorStore.from_chroma(collection, index=index, reencode=True)
    after = collection.get(ids=before["ids"], include=["embeddings", "metadatas"])
    assert after["metadatas"] == before["metadatas"]


def test_adopting_under_access(tmp_path: Path, quick_path: Path, encoder: HashedEncoder) -> None:
    collection = chromadb.EphemeralClient().create_collection("governed")
    own: Any = [{"acl": ["group:guests"]}, {"n": 1}]
    collection.add(["his", "hers"], [[1.0], [2.0]], own, ["The cat sat.", "The cat left."])
    with LateInteractionIndex.open(quick_path / "i.lir", access="acl", encoder=encoder) as index:
        store = LateInteractionVectorStore.from_chroma(collection, index=index, acl=["group:staff"], reencode=True)
        assert [found.id for found in store.as_principal(ALICE).similarity_search("cat")] == ["hers"]
        assert [found.id for found in store.as_principal(BOB).similarity_search("cat")] == ["his"]
