"""`LateInteractionRetriever`: an index as a LlamaIndex retriever."""

from __future__ import annotations

import hashlib
from typing import Any

from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import (
    NodeRelationship,
    NodeWithScore,
    ObjectType,
    QueryBundle,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores.types import MetadataFilters

from lir_agents.engine import LateInteractionIndex
from lir_agents.errors import InputError
from lir_agents.graph.surface import metadata_of
from lir_agents.llama_index.filters import to_filter
from lir_agents.types import Hit, Principal, SearchResult

__all__ = ["LateInteractionRetriever", "PassageNode", "as_nodes"]


class LateInteractionRetriever(BaseRetriever):
    """Passages of an index, best first, as nodes with scores.

    `node_id` is the passage id, the source relationship names the document, and ``metadata["lir"]`` (which no model
    is shown) holds score, rank, breakdown, document id, version and the id of the audit event.

    Args:
        index: The open index; shared, never closed by the retriever.
        k: Nodes wanted; None: the index's default.
        principal: Who asks. Every index that is not open refuses None.
        thread_id: The conversation to recall, and to remember each query in; None: neither.
        filters: Metadata filters; translated wholly, or refused. May be assigned anew.
        budget_ms: Time for each search in milliseconds; None: as the settings say.
        callback_manager: As of every LlamaIndex retriever.
        verbose: As of every LlamaIndex retriever.

    Raises:
        InputError: The filters are no `MetadataFilters`, or hold an operator that the index does not know.

    Example:
        >>> retriever = LateInteractionRetriever(index, k=5, principal=alice)
        >>> RetrieverQueryEngine.from_args(retriever, llm=llm).query("how many days off do I get?")
    """

    def __init__(
        self,
        index: LateInteractionIndex,
        *,
        k: int | None = None,
        principal: Principal | None = None,
        thread_id: str | None = None,
        filters: MetadataFilters | None = None,
        budget_ms: float | None = None,
        callback_manager: CallbackManager | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(callback_manager=callback_manager, verbose=verbose)
        self.index = index
        self.k = k
        self.principal = principal
        self.thread_id = thread_id
        self.filters = filters
        self.budget_ms = budget_ms

    @property
    def filters(self) -> MetadataFilters | None:
        """What every search is held to."""
        return self._filters

    @filters.setter
    def filters(self, filters: MetadataFilters | None) -> None:
        to_filter(filters)  # what cannot be translated is refused here, and the filters stay as they were
        self._filters = filters

    def as_principal(self, principal: Principal | None) -> LateInteractionRetriever:
        """The same retriever for somebody else; this one stays as it is."""
        return LateInteractionRetriever(
            self.index,
            k=self.k,
            principal=principal,
            thread_id=self.thread_id,
            filters=self.filters,
            budget_ms=self.budget_ms,
            callback_manager=self.callback_manager,
            verbose=self._verbose,
        )

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return as_nodes(self.index.search(_verbatim(query_bundle), **self._asked()))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return as_nodes(await self.index.asearch(_verbatim(query_bundle), **self._asked()))

    def _asked(self) -> dict[str, Any]:
        return {
            "k": self.k,
            "principal": self.principal,
            "thread_id": self.thread_id,
            # Translated each time: LlamaIndex's filters can be changed where they stand.
            "filter": to_filter(self._filters),
            "budget_ms": self.budget_ms,
        }


class PassageNode(TextNode):
    """A passage, as a node that is the same one in every search.

    LlamaIndex tells nodes apart by `hash`, which is made of text and metadata. What one search says of the passage
    (``metadata["lir"]``: score, rank, event) is left out of it, so that a `QueryFusionRetriever` meets the passage
    again. Serialised, it is a `TextNode`.
    """

    @property
    def hash(self) -> str:
        """Of id, text and the document's own metadata."""
        own = {key: value for key, value in self.metadata.items() if key != "lir"}
        return hashlib.sha256(repr((self.id_, self.text, own)).encode("utf-8", "surrogatepass")).hexdigest()


def as_nodes(result: SearchResult) -> list[NodeWithScore]:
    """Hits as nodes with scores, best first."""
    return [NodeWithScore(node=_node(hit, result), score=hit.score) for hit in result]


def _node(hit: Hit, result: SearchResult) -> PassageNode:
    return PassageNode(
        id_=hit.passage_id,
        text=hit.text,
        metadata=metadata_of(hit, result),
        excluded_llm_metadata_keys=["lir"],
        excluded_embed_metadata_keys=["lir"],
        start_char_idx=hit.start,
        end_char_idx=hit.end,
        relationships={
            NodeRelationship.SOURCE: RelatedNodeInfo(
                node_id=hit.document_id, node_type=ObjectType.DOCUMENT, hash=hit.content_sha256
            )
        },
    )


def _verbatim(query_bundle: QueryBundle) -> str:
    """The query as it was asked; texts that a transform put in its place are refused rather than ignored."""
    others = [text for text in query_bundle.custom_embedding_strs or () if text != query_bundle.query_str]
    if others:
        raise InputError(
            "are other texts than the query, which late interaction does not average",
            field="custom_embedding_strs",
            remedy="Leave the transform out (HyDE and its like), or pass its text as the query.",
        )
    return query_bundle.query_str
