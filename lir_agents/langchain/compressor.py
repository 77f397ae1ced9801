"""`LateInteractionCompressor`: reranks the documents of any LangChain retriever."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import ConfigDict, Field, PrivateAttr

from lir_agents.encoding.open import open_encoder
from lir_agents.graph.texts import RankedText, TextReranker
from lir_agents.stores.token_cache import DiskTokenCache, MemoryTokenCache

__all__ = ["LateInteractionCompressor"]


class LateInteractionCompressor(BaseDocumentCompressor):
    """Orders documents by late interaction, whoever retrieved them; needs no index.

    Token vectors are kept by a hash of the text: a document is encoded the first time it is seen, and never again
    while the cache holds it. The order that the documents came in stays a part of the score. Documents come back
    as copies with ``metadata["lir"] = {"score", "rank", "breakdown"}``; the ones given stay as they were.

    Example:
        >>> compressor = LateInteractionCompressor(top_n=5)
        >>> compressor.compress_documents(retriever.invoke(question), question)
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    top_n: int | None = Field(default=None, ge=1)
    """Documents kept; None: all."""
    encoder: Any = Field(default=None, repr=False)
    """As in `LateInteractionIndex.open`: None for the bundled model, a folder, a hub name or an `Encoder`."""
    cache_path: Path | None = None
    """A directory that keeps token vectors across processes, one process at a time; None: in memory."""
    cache_bytes: int = Field(default=256 << 20, ge=0)
    """Bytes of token vectors kept at most."""

    _reranker: TextReranker = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Opens the encoder and the cache."""
        encoder = open_encoder(self.encoder)
        cache: MemoryTokenCache | DiskTokenCache = MemoryTokenCache(self.cache_bytes)
        if self.cache_path is not None:
            cache = DiskTokenCache(
                self.cache_path,
                fingerprint=encoder.fingerprint,
                dense_dim=encoder.dense_dim,
                max_bytes=self.cache_bytes,
            )
        self._reranker = TextReranker(encoder, cache)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """The best `top_n` documents, best first, as copies.

        Args:
            documents: In the order of whoever retrieved them. Ids may be missing or equal; texts may be equal.
            query: What they were retrieved for.
            callbacks: Not used: reranking calls no model that reports to them.

        Raises:
            InputError: The query is empty.
        """
        ranked = self._reranker.rank(query, [document.page_content for document in documents])
        return [_annotated(documents[one.position], one, rank) for rank, one in enumerate(ranked[: self.top_n], 1)]

    def close(self) -> None:
        """Releases the cache's file, where there is one. Idempotent."""
        if isinstance(self._reranker.cache, DiskTokenCache):
            self._reranker.cache.close()


def _annotated(document: Document, one: RankedText, rank: int) -> Document:
    known = document.metadata.get("lir")
    lir = {
        **(known if isinstance(known, dict) else {}),
        "score": one.score,
        "rank": rank,
        "breakdown": one.breakdown,
    }
    return document.model_copy(update={"metadata": {**document.metadata, "lir": lir}})
