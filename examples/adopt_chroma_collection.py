"""An existing Chroma collection, adopted: same ids, texts, metadata and vectors, and token vectors from now on.

Run it:  python examples/adopt_chroma_collection.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import chromadb
from _handbook import DOCUMENTS
from chromadb.api.models.Collection import Collection
from langchain_core.embeddings import DeterministicFakeEmbedding

from lir_agents import LateInteractionIndex
from lir_agents.langchain import LateInteractionVectorStore, adopted_encoder

EMBEDDING = DeterministicFakeEmbedding(size=64)  # stands in for the one that filled your collection


def existing_collection(folder: Path) -> Collection:
    """Stands in for the collection that you have."""
    collection = chromadb.PersistentClient(str(folder)).create_collection("handbook")
    collection.add(
        ids=[str(document.id) for document in DOCUMENTS],
        documents=[document.text for document in DOCUMENTS],
        metadatas=[{"title": document.title, **document.metadata} for document in DOCUMENTS],
        embeddings=EMBEDDING.embed_documents([document.text for document in DOCUMENTS]),  # type: ignore[arg-type]
    )
    return collection


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        collection = existing_collection(Path(folder) / "chroma")
        path = Path(folder) / "handbook.lir"
        with LateInteractionIndex.open(path, encoder=adopted_encoder(EMBEDDING)) as index:
            store = LateInteractionVectorStore.from_chroma(collection, index=index)
            for document, score in store.similarity_search_with_score("how do I work from home?", k=2):
                print(f"{document.id}  {score:+.2f}  {document.metadata}")
            again = LateInteractionVectorStore.from_chroma(collection, index=index)  # nothing is encoded twice
            print(f"{again.index.stats()['documents']} documents")


if __name__ == "__main__":
    main()
