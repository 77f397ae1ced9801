"""What a user would pick instead, each written as its own documentation says, over the same model."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import numpy as np

from lir_agents import LateInteractionIndex
from lir_agents.encoding.bundled import bundled_folder

_BATCH = 1000


def sentence_embeddings() -> Any:
    """The bundled model as LangChain embeddings, through sentence-transformers."""
    from langchain_core.embeddings import Embeddings
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(bundled_folder()), device="cpu")

    class SentenceEmbeddings(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [vector.tolist() for vector in model.encode(texts, show_progress_bar=False)]

        def embed_query(self, text: str) -> list[float]:
            return self.embed_documents([text])[0]

    return SentenceEmbeddings()


def chroma_store(folder: Path, name: str = "bench") -> Any:
    """An empty langchain-chroma vector store on disk, with the bundled model."""
    import chromadb
    from langchain_chroma import Chroma

    client = chromadb.PersistentClient(str(folder))
    return Chroma(name, sentence_embeddings(), client=client, collection_metadata={"hnsw:space": "cosine"})


def chroma_retriever(index: LateInteractionIndex, folder: Path, *, k: int = 10) -> Any:
    """A dense retriever over the passages of an index, as one writes it with LangChain.

    The passages' vectors are the index's own: the model that LangChain asks for the query made them.
    """
    store = chroma_store(folder)
    rows = np.flatnonzero(index.rooms.catalog.live()).astype(np.int64)
    for start in range(0, len(rows), _BATCH):
        part = rows[start : start + _BATCH]
        texts = [passage.text for passage in index.rooms.catalog.passages(part)]
        ids = [str(row) for row in part.tolist()]
        store._collection.add(ids=ids, embeddings=index.rooms.tokens.pooled(part), documents=texts)
    return store.as_retriever(search_kwargs={"k": k})


def multi_vector_encoder() -> Any:
    """The bundled model as a late-interaction encoder of sentence-transformers, with the product's token vectors.

    From modules, because `MultiVectorEncoder(path)` appends a random projection to a plain checkpoint.
    """
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    transformer = Transformer(str(bundled_folder()))
    mask = MultiVectorMask(skiplist_words=list(string.punctuation))
    return MultiVectorEncoder(
        modules=[transformer, mask, Normalize(module_input_name="token_embeddings")], device="cpu"
    )
