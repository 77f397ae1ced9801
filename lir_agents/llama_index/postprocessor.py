"""`LateInteractionPostprocessor`: reranks the nodes of any LlamaIndex retriever."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr, model_validator
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from llama_index_instrumentation import get_dispatcher

from lir_agents.encoding.open import open_encoder
from lir_agents.errors import InputError
from lir_agents.graph.texts import TextReranker
from lir_agents.stores.token_cache import DiskTokenCache, MemoryTokenCache

__all__ = ["LateInteractionPostprocessor"]

dispatcher = get_dispatcher(__name__)


class LateInteractionPostprocessor(BaseNodePostprocessor):
    """Orders nodes by late interaction, whoever retrieved them; needs no index.

    Token vectors are kept by a hash of the text: a node is encoded the first time it is seen, and never again
    while the cache holds it. The order that the nodes came in stays a part of the score. New `NodeWithScore`s
    come back; the ones given, and their nodes, stay as they were.

    Example:
        >>> RetrieverQueryEngine.from_args(retriever, node_postprocessors=[LateInteractionPostprocessor(top_n=5)])
    """

    model_config = ConfigDict(extra="forbid")  # a misspelt argument is refused, not ignored

    top_n: int | None = Field(default=None, ge=1, description="Nodes kept; None: all.")
    encoder: Any = Field(default=None, exclude=True, description="As in `LateInteractionIndex.open`.")
    metadata_mode: MetadataMode = Field(
        default=MetadataMode.NONE, description="Which metadata is scored with a node's text."
    )
    cache_path: Path | None = Field(
        default=None, description="A directory that keeps token vectors across processes; None: in memory."
    )
    cache_bytes: int = Field(default=256 << 20, ge=0, description="Bytes of token vectors kept at most.")

    _reranker: TextReranker = PrivateAttr()

    @model_validator(mode="before")
    @classmethod
    def _without_class_name(cls, given: Any) -> Any:
        """LlamaIndex writes the name of the class beside its fields."""
        if isinstance(given, Mapping) and given.get("class_name") == cls.class_name():
            return {name: value for name, value in given.items() if name != "class_name"}
        return given

    def model_post_init(self, context: Any, /) -> None:
        """Opens the encoder and the cache."""
        super().model_post_init(context)
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

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex serialises it under."""
        return "LateInteractionPostprocessor"

    def close(self) -> None:
        """Releases the cache's file, where there is one. Idempotent."""
        if isinstance(self._reranker.cache, DiskTokenCache):
            self._reranker.cache.close()

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _required(query_bundle)
        with self._reported(nodes, query) as ranked:
            ranked += self._ranked(nodes, query)
        return ranked

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _required(query_bundle)
        with self._reported(nodes, query) as ranked:
            ranked += await asyncio.to_thread(self._ranked, nodes, query)
        return ranked

    def _ranked(self, nodes: Sequence[NodeWithScore], query: str) -> list[NodeWithScore]:
        texts = [one.node.get_content(metadata_mode=self.metadata_mode) for one in nodes]
        ranked = self._reranker.rank(query, texts)[: self.top_n]
        return [NodeWithScore(node=nodes[one.position].node, score=one.score) for one in ranked]

    @contextmanager
    def _reported(self, nodes: list[NodeWithScore], query: str) -> Iterator[list[NodeWithScore]]:
        """Tells LlamaIndex's instrumentation and callbacks what went in, and what was put into the list given."""
        top_n, model = self.top_n or len(nodes), self._reranker.encoder.name
        dispatcher.event(ReRankStartEvent(query=query, nodes=nodes, top_n=top_n, model_name=model))
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: model,
            EventPayload.QUERY_STR: query,
            EventPayload.TOP_K: top_n,
        }
        ranked: list[NodeWithScore] = []
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            yield ranked
            event.on_end(payload={EventPayload.NODES: ranked})
        dispatcher.event(ReRankEndEvent(nodes=ranked))


def _required(query_bundle: QueryBundle | None) -> str:
    if query_bundle is None:
        raise InputError("is missing", field="query", remedy="Pass query_bundle or query_str.")
    return query_bundle.query_str
