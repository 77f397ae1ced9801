"""`from_chroma` keeps the vectors of a real Chroma collection, and says so where it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import chromadb
import numpy as np
import pytest
from chromadb.api.models.Collection import Collection
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings

from lir_agents import InputError, IntegrityError, LateInteractionIndex
from lir_agents.encoding.adopted import AdoptedEncoder
from lir_agents.encoding.base import Encoder, QueryText
from lir_agents.encoding.bundled import bundled_folder
from lir_agents.langchain import LateInteractionVectorStore, adopted_encoder
from tests.conftest import office_documents
from tests.hashed_encoder import HashedEncoder

OFFICE = office_documents()
LONG = " ".join(f"Rule {number} says that the canteen of house {number} is closed." for number in range(60))


class Foreign(Embeddings):
    """Another model, which counts what it is asked for; its vectors are not of length one."""

    def __init__(self, seed: int = 7, model: str = "foreign-1") -> None:
        self.model = model
        self._hashed = HashedEncoder(seed)
        self.documents: list[str] = []
        self.queries: list[str] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.documents += texts
        return [self.of(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        self.queries.append(text)
        return self.of(text)

    def of(self, text: str) -> list[float]:
        (one,) = self._hashed.encode_queries([QueryText(text)])
        vector: list[float] = (3 * one.pooled).tolist()
        return vector


@pytest.fixture
def embedding() -> Foreign:
    return Foreign()


def filled(texts: dict[str, str], embedding: Foreign, metadatas: Any = None) -> Collection:
    collection = chromadb.EphemeralClient().create_collection(f"c-{uuid4().hex}", metadata={"hnsw:space": "cosine"})
    vectors: Any = [embedding.of(text) for text in texts.values()]
    collection.add(list(texts), vectors, metadatas, list(texts.values()))
    return collection


def offices(embedding: Foreign) -> Collection:
    """Sixty records under titles, which are encoded with the text and were not embedded."""
    return filled(
        {str(one.id): one.text for one in OFFICE}, embedding, [{"title": one.title, "n": 1} for one in OFFICE]
    )


def pooled(index: LateInteractionIndex) -> dict[str, np.ndarray[Any, Any]]:
    rows = np.flatnonzero(index.rooms.catalog.live()).astype(np.int64)
    owners = [passage.document_id for passage in index.rooms.catalog.passages(rows)]
    vectors = index.rooms.tokens.pooled(np.array([p.row for p in index.rooms.catalog.passages(rows)], np.int64))
    return dict(zip(owners, vectors, strict=True))


def test_stored_vectors_are_kept(quick_path: Path, encoder: HashedEncoder, embedding: Foreign) -> None:
    collection = offices(embedding)
    store = LateInteractionVectorStore.from_chroma(
        collection, embedding=embedding, encoder=encoder, persist_directory=quick_path
    )
    assert embedding.documents == [], "every record brought its vector"
    assert len(encoder.documents) == len(OFFICE), "and was given token vectors"
    kept = pooled(store.index)
    stored = collection.get(include=["embeddings"])
    assert stored["embeddings"] is not None
    for name, vector in zip(stored["ids"], np.asarray(stored["embeddings"]), strict=True):
        assert np.allclose(kept[name], vector / np.linalg.norm(vector), atol=1e-3)  # the store keeps float16
        assert kept[name] @ vector / np.linalg.norm(vector) > 0.999999
    for query in (OFFICE[3].text, OFFICE[25].text, "invoices paid within fourteen days office in Athens"):
        embedding.queries.clear()
        found = store.similarity_search(query, k=5)
        assert embedding.queries == [query]
        nearest = collection.query(query_embeddings=[embedding.of(query)], n_results=1)["ids"][0][0]  # type: ignore[arg-type]
        table = store.index.candidates(query)
        assert table.document_ids[int(table.dense.argmax())] == nearest, "the first stage is the collection's"
        assert nearest in [one.id for one in found]
    store.close()


def test_what_brings_no_vector_is_embedded(quick_path: Path, encoder: HashedEncoder, embedding: Foreign) -> None:
    collection = filled({"short": "Soup is served at noon.", "long": LONG}, embedding)
    store = LateInteractionVectorStore.from_chroma(
        collection, embedding=embedding, encoder=encoder, persist_directory=quick_path
    )
    assert len(embedding.documents) > 1
    assert all(text in LONG for text in embedding.documents), "only passages of the long record"
    store.add_texts(["Salad comes later."], ids=["later"])
    assert embedding.documents[-1] == "Salad comes later."
    assert np.allclose(3 * pooled(store.index)["later"], embedding.of("Salad comes later."), atol=3e-3)
    store.close()


def test_page_after_page(quick_path: Path, encoder: HashedEncoder, embedding: Foreign) -> None:
    collection = filled({f"{n}": f"  Cat {n}\r\nsat on a mat. " for n in range(1100)}, embedding)
    store = LateInteractionVectorStore.from_chroma(
        collection, embedding=embedding, encoder=encoder, persist_directory=quick_path
    )
    assert store.index.stats()["documents"] == 1100
    assert embedding.documents == [], "whatever normalising did to the text"
    store.close()


def test_what_was_redacted_is_embedded_anew(quick_path: Path, encoder: HashedEncoder, embedding: Foreign) -> None:
    collection = filled({"a": "Write to soup@example.org today.", "b": "Soup is served at noon."}, embedding)
    with LateInteractionIndex.open(
        quick_path / "i.lir", encoder=adopted_encoder(embedding, encoder=encoder), redactor=True
    ) as index:
        LateInteractionVectorStore.from_chroma(collection, index=index)
        (anew,) = embedding.documents
        assert "soup@example.org" not in anew


def test_adopting_again_encodes_nothing_and_reopening_needs_both(
    quick_path: Path, encoder: HashedEncoder, embedding: Foreign
) -> None:
    collection = offices(embedding)
    at: dict[str, Any] = {"persist_directory": quick_path, "encoder": encoder}
    LateInteractionVectorStore.from_chroma(collection, embedding=embedding, **at).close()
    encoder.documents.clear()
    store = LateInteractionVectorStore.from_chroma(collection, embedding=Foreign(), **at)
    assert store.index.stats()["documents"] == len(OFFICE)
    changed: Any = [embedding.of("Soup again.")]
    collection.update("oslo/canteen", changed, documents="Soup again.")
    LateInteractionVectorStore.from_chroma(collection, index=store.index)
    LateInteractionVectorStore.from_chroma(collection, index=store.index, embedding=embedding)
    assert [text.splitlines()[-1] for text in encoder.documents] == ["Soup again."]
    assert embedding.documents == []
    with pytest.raises(InputError, match=r"embedding: gives .*foreign-2") as caught:
        LateInteractionVectorStore.from_chroma(collection, index=store.index, embedding=Foreign(model="foreign-2"))
    assert caught.value.remedy
    store.close()

    path = quick_path / "langchain.lir"
    with LateInteractionIndex.open(path, encoder=adopted_encoder(embedding, encoder=encoder)) as index:
        assert index.search("canteen Oslo", k=1)
        assert index.search("canteen Oslo", k=1)[0].explain()
    with pytest.raises(IntegrityError, match="foreign-1"):
        LateInteractionIndex.open(path, encoder=encoder)
    with pytest.raises(IntegrityError, match="foreign-2"):
        LateInteractionVectorStore.from_chroma(collection, embedding=Foreign(model="foreign-2"), **at)
    with pytest.raises(InputError, match=r"encoder: .*foreign-1.*Encoder itself"):
        LateInteractionIndex.open(path)


def test_without_the_embedding(quick_path: Path, encoder: HashedEncoder, embedding: Foreign) -> None:
    foreign = offices(embedding)
    with LateInteractionIndex.open(quick_path / "i.lir", encoder=encoder) as index:
        with pytest.raises(InputError, match="mean cosine") as caught:
            LateInteractionVectorStore.from_chroma(foreign, index=index)
        assert caught.value.field == "embedding"
        for way_out in ("embedding=", "reencode=True"):
            assert way_out in caught.value.remedy
        narrow = chromadb.EphemeralClient().create_collection(f"c-{uuid4().hex}")
        narrow.add(["a"], [[1.0, 2.0]], None, ["Soup."])
        with pytest.raises(InputError, match=r"embedding: is missing: .* 2 numbers"):
            LateInteractionVectorStore.from_chroma(narrow, index=index)
        with pytest.raises(InputError, match="no record is short enough"):
            LateInteractionVectorStore.from_chroma(filled({"long": LONG}, embedding), index=index)
        assert index.stats()["documents"] == 0, "nothing was added"

        own = filled({str(one.id): one.text for one in OFFICE}, Foreign(seed=0))
        LateInteractionVectorStore.from_chroma(own, index=index)
        assert index.stats()["documents"] == len(OFFICE), "its own vectors need no adopting"
        encoder.documents.clear()
        LateInteractionVectorStore.from_chroma(own, index=index)
        assert encoder.documents == []
        LateInteractionVectorStore.from_chroma(narrow, index=index, reencode=True)
        with pytest.raises(InputError, match="index: was opened with hashed") as caught:
            LateInteractionVectorStore.from_chroma(foreign, index=index, embedding=embedding)
        assert "adopted_encoder" in caught.value.remedy


def test_a_collection_of_the_bundled_model_needs_no_embedding(quick_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    texts = [one.text for one in OFFICE[:12]]
    collection = chromadb.EphemeralClient().create_collection(f"c-{uuid4().hex}")
    vectors: Any = SentenceTransformer(str(bundled_folder()), device="cpu").encode(texts)
    collection.add([f"{n}" for n in range(12)], vectors, None, texts)
    store = LateInteractionVectorStore.from_chroma(collection, persist_directory=quick_path)
    assert store.similarity_search("When may I eat soup?", k=1)[0].page_content.startswith("The canteen")
    store.close()


def test_what_cannot_be_adopted(quick_path: Path, encoder: HashedEncoder, embedding: Foreign) -> None:
    collection = offices(embedding)
    for given, field in (
        ({"embedding": DeterministicFakeEmbedding(size=8)}, "embedding: gives vectors of 8 numbers.*48"),
        ({"embedding": embedding, "reencode": True}, "reencode: was given beside embedding"),
        ({"embedding": object()}, "embedding: is object"),
        ({"embedding": embedding, "encoder": adopted_encoder(embedding)}, "encoder: holds an embedding already"),
    ):
        rest: dict[str, Any] = {"encoder": encoder, "persist_directory": quick_path / str(len(field)), **given}
        with pytest.raises(InputError, match=field) as caught:
            LateInteractionVectorStore.from_chroma(collection, **rest)
        assert caught.value.remedy
        # Nothing stays open.
        LateInteractionVectorStore(persist_directory=rest["persist_directory"] / "other", encoder=encoder).close()

    nowhere: Any = [[0.0] * 48]
    collection.add("nowhere", nowhere, None, "It has no direction.")
    with LateInteractionIndex.open(
        quick_path / "i.lir", encoder=adopted_encoder(embedding, encoder=encoder)
    ) as index:
        with pytest.raises(InputError, match="nowhere: its vector has no direction"):
            LateInteractionVectorStore.from_chroma(collection, index=index)
        assert index.stats()["documents"] == len(OFFICE), "all others are in"
        LateInteractionVectorStore.from_chroma(collection, index=index, reencode=True)
        assert embedding.documents == ["It has no direction."]
        with pytest.raises(InputError, match="collection: holds no vectors"):
            LateInteractionVectorStore.from_chroma(_Vectorless(), index=index)


class _Vectorless:
    """A collection whose vectors do not come along."""

    def get(self, **_: Any) -> dict[str, Any]:
        return {"ids": ["a"], "documents": ["Soup."], "metadatas": [None], "embeddings": None}


def test_the_encoder_pairs_two_models(encoder: HashedEncoder, embedding: Foreign) -> None:
    paired = adopted_encoder(embedding, encoder=encoder)
    assert isinstance(paired, Encoder)
    plain, lit = paired.encode_queries([QueryText("soup"), QueryText("soup", "the canteen")])
    assert np.array_equal(plain.pooled, lit.pooled), "the other model knows of no contexts"
    assert not np.array_equal(plain.tokens, lit.tokens)
    assert paired.fingerprint == adopted_encoder(Foreign(), encoder=HashedEncoder()).fingerprint
    others = [
        adopted_encoder(embedding, encoder=HashedEncoder(1)),
        adopted_encoder(embedding, encoder=encoder, name="mine"),
    ]
    assert len({one.fingerprint for one in [paired, *others]}) == 3
    broken: Any
    for broken in ([[1.0]], [[float("nan")] * 48], [[1.0], [1.0, 2.0]], []):
        bad = AdoptedEncoder(encoder, documents=lambda _, b=broken: b, query=len, dense_dim=48, name="bad")
        with pytest.raises(InputError, match="embedding: bad gave"):
            list(bad.encode_documents(["soup"]))
        with pytest.raises(InputError, match="embedding: bad gave"):
            bad.encode_queries([QueryText("soup")])
