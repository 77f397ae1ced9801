"""`LateInteractionVectorStore`: an index in the shape of a LangChain vector store."""

from __future__ import annotations

import math
import sys
import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import run_in_executor
from langchain_core.vectorstores import VectorStore
from langchain_core.vectorstores.utils import maximal_marginal_relevance

from lir_agents.encoding.asking import encoded_queries
from lir_agents.encoding.base import QueryText
from lir_agents.engine import LateInteractionIndex
from lir_agents.errors import InputError
from lir_agents.ingest.adapters import to_document
from lir_agents.langchain.adopt import adopt_collection, adopted_encoder, require_adoptable
from lir_agents.langchain.caller import ambient_runtime, caller
from lir_agents.opening import Access
from lir_agents.reports import AddReport, Failure
from lir_agents.types import Filter, Hit, Principal

__all__ = ["LateInteractionVectorStore"]

_K: Final = 4


class LateInteractionVectorStore(VectorStore):
    """Documents in, documents out, ranked by late interaction: for code that was written for a vector store.

    A document comes back as it was added, whole and under its own id, once per result, placed by its best passage.
    `LateInteractionRetriever` gives passages instead, with breakdowns and the audit event, and is what new code
    wants.

    What differs from `langchain-chroma`:

    * Scores are "higher is better" (Chroma's are distances).
    * The index encodes with its own model: an `embedding_function` is not used, and a warning says so.
    * Text and metadata come back normalised (NFC, line ends, nested keys joined by dots, None left out).
    * A document without an id gets one derived from its content: adding it twice adds it once.
    * Searching by a vector is not possible: one vector is not enough to interact late with.
    * Unknown keyword arguments are refused, never ignored.

    Args:
        collection_name: Names the index directory under `persist_directory`.
        embedding_function: Not used.
        persist_directory: Where the index ``<collection_name>.lir`` lies; None: a directory that is removed when
            the store is closed.
        index: An open index instead of the three above; it stays open when the store is closed.
        access: As in `LateInteractionIndex.open`, for an index opened here.
        encoder: As in `LateInteractionIndex.open`, for an index opened here.
        principal: Who asks. Every index that is not open refuses None.
        acl: Grants for documents whose metadata names no "acl" of their own.

    Raises:
        InputError: Both an index and a directory were given.
        IndexLocked: The directory's index is open already, here or in another process.
    """

    def __init__(
        self,
        collection_name: str = "langchain",
        embedding_function: Embeddings | None = None,
        persist_directory: str | Path | None = None,
        *,
        index: LateInteractionIndex | None = None,
        access: Access | None = None,
        encoder: Any = None,
        principal: Principal | None = None,
        acl: Sequence[str] | None = None,
    ) -> None:
        _warn_unused(embedding_function)
        self.principal = principal
        self.acl = acl
        self._close: Callable[[], Any] = lambda: None
        self._keeps: Any = None
        if index is not None:
            if persist_directory is not None or access is not None or encoder is not None:
                raise InputError(
                    "was given beside persist_directory, access or encoder", field="index", remedy="Give one."
                )
            self.index = index
            return
        if not collection_name or Path(collection_name).name != collection_name:
            raise InputError(
                f"is {collection_name!r}", field="collection_name", remedy="Pass a name without a path in it."
            )
        folder = None if persist_directory is not None else tempfile.TemporaryDirectory(prefix="lir-")
        root = Path(persist_directory if persist_directory is not None else folder.name)  # type: ignore[union-attr]
        self.index = LateInteractionIndex.open(root / f"{collection_name}.lir", access=access, encoder=encoder)
        self._close = weakref.finalize(self, _release, self.index, folder)

    def close(self) -> None:
        """Closes the index that the store opened; one that it was given stays open. Idempotent."""
        self._close()

    def as_principal(self, principal: Principal | None) -> LateInteractionVectorStore:
        """The same documents for somebody else, over the same open index."""
        store = LateInteractionVectorStore(index=self.index, principal=principal, acl=self.acl)
        store._keeps = self  # the index closes with the store that opened it
        return store

    # ------------------------------------------------------------ from elsewhere

    @classmethod
    def from_texts(
        cls: type[LateInteractionVectorStore],
        texts: list[str],
        embedding: Embeddings | None = None,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> LateInteractionVectorStore:
        """A store with these texts in it.

        Args:
            texts: To add.
            embedding: Not used, see `embedding_function`.
            metadatas: One per text.
            ids: One per text.
            **kwargs: As of the constructor.
        """
        _warn_unused(embedding)
        store = cls(**kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    def from_chroma(
        cls,
        collection: Any,
        *,
        embedding: Embeddings | None = None,
        index: LateInteractionIndex | None = None,
        reencode: bool = False,
        **kwargs: Any,
    ) -> LateInteractionVectorStore:
        """A store that adopts an existing Chroma collection: its ids, texts, metadata and vectors.

        With `embedding`, a record that fits one passage keeps the vector that the collection holds of it, scaled to
        length one (the first stage goes by cosine, whatever distance the collection uses); the encoder adds its
        token vectors. The embedding is asked for queries, for the passages of longer records, and for what is added
        later. A redacted record is embedded anew. Records of equal text and title share one vector, the first.

        Without it the index's own encoder gives pooled and token vectors in one forward pass. Where the collection
        was filled with that same model nothing is lost by it, and a few records are tried to see whether it was;
        where it was not, this is refused, unless `reencode` says that the collection's vectors may stay behind.

        The collection is only read; adopting it again adds what is new, updates what changed (a text or metadata; a
        vector alone is no change) and encodes nothing else. To open the index again, call this again, or pass
        ``encoder=adopted_encoder(embedding)`` to the constructor or to `LateInteractionIndex.open`: an index whose
        vectors are of two models opens with both and not otherwise.

        Args:
            collection: A `chromadb` collection.
            embedding: What the collection was filled with.
            index: As of the constructor; to adopt vectors, it was opened with an `adopted_encoder`.
            reencode: Leave the collection's vectors behind, whatever they are.
            **kwargs: As of the constructor; `encoder` gives the token vectors, `acl` is for records whose metadata
                names no "acl" of their own.

        Raises:
            InputError: `embedding`: it is missing, or not the one that the collection was filled with. `index`: it
                was opened with an encoder that adopts no vectors. `documents`: records could not be adopted (they
                hold no text or no vector); the message names them, and all others are in.
            IntegrityError: The directory's index was made with another encoder or embedding.
        """
        if embedding is not None and reencode:
            raise InputError("was given beside embedding", field="reencode", remedy="Give one.")
        if embedding is not None and index is None:
            kwargs["encoder"] = adopted_encoder(embedding, encoder=kwargs.get("encoder"))
        store = cls(index=index, **kwargs)
        try:
            require_adoptable(store.index, collection, embedding, reencode=reencode)
            _require_all(adopt_collection(store.index, collection, acl=store.acl, reencode=reencode))
        except BaseException:
            store.close()
            raise
        return store

    # ------------------------------------------------------------ documents

    def add_documents(
        self,
        documents: list[Document],
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Adds documents, or updates those that changed.

        Args:
            documents: To add; they stay as they are.
            ids: One per document; they win over the documents' own.
            batch_size: Of no effect: the index makes batches of its own (`ingest.batch_documents`). LangChain's
                `index` names one in every call.
            **kwargs: None are known.

        Returns:
            Their ids, in order.

        Raises:
            InputError: Counts differ, or documents could not be added; the message names them. All others are in.
        """
        _refuse(kwargs)
        names, key = _as_many(ids, len(documents), "ids"), self.index.rooms.catalog.id_key()
        given = [self._document(name or one.id, one, key) for name, one in zip(names, documents, strict=True)]
        _require_all(self.index.add(given))
        return [str(one.id) for one in given]

    def _document(self, id: str | None, given: Document, id_key: bytes) -> Any:
        """A document of the index, or why it cannot be one."""
        about = {"id": id, "text": given.page_content, "metadata": given.metadata} | self._grants(given)
        try:
            return to_document(about, id_key=id_key)
        except InputError as error:
            return Failure(str(id or "a document without an id"), str(error))

    def _grants(self, document: Document) -> dict[str, Any]:
        return {} if self.acl is None or "acl" in document.metadata else {"acl": list(self.acl)}

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Adds texts; see `add_documents`."""
        bodies = list(texts)
        about = _as_many(metadatas, len(bodies), "metadatas")
        pairs = zip(bodies, about, strict=True)
        documents = [Document(page_content=text, metadata=dict(metadata or {})) for text, metadata in pairs]
        return self.add_documents(documents, ids=ids, **kwargs)

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Retires documents: they surface no more. `index.erase` removes them from the disk as well.

        Raises:
            InputError: No ids were given; nothing is deleted by leaving them out.
        """
        _refuse(kwargs)
        if ids is None:
            raise InputError("is missing", field="ids", remedy="Name the documents to delete.")
        self.index.delete(ids)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents of these ids that are there and may be read."""
        who = self._who()
        found = (self.index.get(name, principal=who) for name in dict.fromkeys(ids))
        return [_as_added(one.id, one.text, one.metadata) for one in found if one is not None]

    # ------------------------------------------------------------ search

    def similarity_search(
        self, query: str, k: int = _K, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        """The k best documents, best first.

        Args:
            query: The question.
            k: Documents wanted.
            filter: Metadata filter, see `lir_agents.types.Filter`.
            **kwargs: None are known.
        """
        return [document for document, _ in self.similarity_search_with_score(query, k, filter, **kwargs)]

    async def asimilarity_search(
        self, query: str, k: int = _K, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        """`similarity_search`, without blocking the event loop."""
        found = await self.asimilarity_search_with_score(query, k, filter, **kwargs)
        return [document for document, _ in found]

    def similarity_search_with_score(
        self, query: str, k: int = _K, filter: Filter | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Documents with their scores: the sum of their best passage's breakdown, higher is better."""
        _refuse(kwargs)
        who = self._who()
        return self._documents(
            self.index.search(query, k=k, one_per_document=True, principal=who, filter=filter), who
        )

    async def asimilarity_search_with_score(
        self, query: str, k: int = _K, filter: Filter | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """`similarity_search_with_score`, without blocking the event loop."""
        _refuse(kwargs)
        who = self._who()
        result = await self.index.asearch(query, k=k, one_per_document=True, principal=who, filter=filter)
        return await run_in_executor(None, self._documents, result, who)

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = _K, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        return _logistic(self.similarity_search_with_score(query, k, **kwargs))

    async def _asimilarity_search_with_relevance_scores(
        self, query: str, k: int = _K, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        return _logistic(await self.asimilarity_search_with_score(query, k, **kwargs))

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = _K,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Of the `fetch_k` best documents those k that repeat each other least.

        The selection is LangChain's own, over the pooled vectors of their best passages.

        Args:
            query: The question.
            k: Documents wanted.
            fetch_k: Documents to choose from.
            lambda_mult: 1 for relevance alone, 0 for variety alone.
            filter: Metadata filter.
            **kwargs: None are known.
        """
        _refuse(kwargs)
        most = k if k < 1 else max(k, fetch_k)  # what is no number of documents is refused as in every search
        who = self._who()
        best = self.index.search(query, k=most, one_per_document=True, principal=who, filter=filter)
        if not best:
            return []
        rooms = self.index.rooms
        (turn,) = encoded_queries(rooms.encoder, [QueryText(query)])
        pooled = rooms.tokens.pooled(np.array([hit.row for hit in best], np.int64))
        chosen = maximal_marginal_relevance(turn.pooled, list(pooled), lambda_mult=lambda_mult, k=k)
        return [document for document, _ in self._documents([best[at] for at in chosen], who)]

    def _who(self) -> Principal | None:
        return caller(self.index, self.principal, None, ambient_runtime()).principal

    def _documents(self, hits: Iterable[Hit], who: Principal | None) -> list[tuple[Document, float]]:
        found = [(self.index.get(hit.document_id, hit.version, principal=who), hit.score) for hit in hits]
        return [(_as_added(one.id, one.text, one.metadata), score) for one, score in found if one is not None]


def _warn_unused(embedding: Embeddings | None) -> None:
    """Warns at the line that calls this package, through however many of LangChain's constructors."""
    if embedding is None:
        return
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(
        ("lir_agents", "langchain_core")
    ):
        frame, level = frame.f_back, level + 1
    warnings.warn(
        "embedding_function is not used: the index encodes with its own model. Pass encoder= to choose it.",
        stacklevel=level,
    )


def _as_added(id: str, text: str, metadata: Any) -> Document:
    return Document(id=id, page_content=text, metadata=dict(metadata))


def _logistic(found: list[tuple[Document, float]]) -> list[tuple[Document, float]]:
    """Scores brought into [0, 1], order kept; .5 is the average of what was considered for the query."""
    return [(document, 1 / (1 + math.exp(-score))) for document, score in found]


def _as_many(values: Sequence[Any] | None, count: int, field: str) -> Sequence[Any]:
    if values is None:
        return [None] * count
    if len(values) != count:
        raise InputError(f"has {len(values)} entries for {count} documents", field=field, remedy="Give one each.")
    return values


def _refuse(kwargs: dict[str, Any]) -> None:
    if kwargs:
        name = next(iter(kwargs))
        raise InputError("is not known here", field=name, remedy="Leave it out; nothing is ignored in silence.")


def _require_all(report: AddReport) -> None:
    if report.failed:
        named = "; ".join(f"{failure.id}: {failure.reason}" for failure in report.failed[:5])
        more = f"; and {len(report.failed) - 5} more" if len(report.failed) > 5 else ""
        raise InputError(f"could not all be added: {named}{more}", field="documents", remedy="The others are in.")


def _release(index: LateInteractionIndex, folder: tempfile.TemporaryDirectory[str] | None) -> None:
    index.close()
    if folder is not None:
        folder.cleanup()
