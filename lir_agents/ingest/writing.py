"""Passages into the derived stores: encode what is new, copy what was encoded before, in bounded slabs.

The model has all processors for most of the time, and a thread of its own; words and codes are made beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import PackedTokens, Rows
from lir_agents.encoding.asking import encoded_documents
from lir_agents.encoding.base import Encoder
from lir_agents.ingest.ahead import ahead
from lir_agents.ingest.compose import Composed, Composer
from lir_agents.stores.base import LexicalStore, TokenStore, VectorStore
from lir_agents.stores.catalog import Catalog

__all__ = ["DerivedStores", "PassageWriter", "PreparedPassage", "prepare_passage"]

_SLAB = 1024
"""Passages held in memory at a time: at 220 tokens and 384 dims about 43 MB of codes in 4 bits."""

_AHEAD = 128
"""Passages that the model may be ahead: more than it reads at once. At 220 tokens and 384 dims 43 MB of float32,
beside the slab."""


@dataclass(frozen=True, slots=True)
class PreparedPassage:
    """A passage ready to be written: what is encoded, and what BM25 reads (the whole title and all headings)."""

    composed: Composed
    lexical_text: str

    @property
    def encoding_sha256(self) -> str:
        return self.composed.sha256


def prepare_passage(composer: Composer, title: str, headings: Sequence[str], body: str) -> PreparedPassage:
    """Composes a passage for the encoder and for BM25."""
    words = "\n".join(part for part in (title, *headings, body) if part)
    return PreparedPassage(composer.compose(title, headings, body), words)


@dataclass(frozen=True, slots=True)
class DerivedStores:
    """The stores that can be rebuilt from the catalog."""

    tokens: TokenStore
    vectors: VectorStore
    lexical: LexicalStore

    def drop(self, rows: Rows) -> None:
        """Removes rows from all three."""
        if len(rows):
            self.vectors.delete(rows)
            self.lexical.delete(rows)
            self.tokens.delete(rows)


class PassageWriter:
    """Writes the words, tokens and vectors of catalog rows. Idempotent: writing again replaces."""

    def __init__(self, catalog: Catalog, encoder: Encoder, stores: DerivedStores) -> None:
        self._catalog = catalog
        self._encoder = encoder
        self._stores = stores

    def write(self, rows: Rows, passages: Sequence[PreparedPassage]) -> None:
        """Writes passages under their rows; equal texts are encoded once, here and ever before.

        Raises:
            StoreError: A store failed; what was written is of no harm until the catalog commits.
            IntegrityError: The encoder gave something that is no vector; likewise.
        """
        for start in range(0, len(rows), _SLAB):
            self._write_slab(rows[start : start + _SLAB], passages[start : start + _SLAB])

    def _write_slab(self, rows: Rows, passages: Sequence[PreparedPassage]) -> None:
        known = self._catalog.reusable([passage.encoding_sha256 for passage in passages])
        fresh = [i for i, passage in enumerate(passages) if passage.encoding_sha256 not in known]

        def add_words() -> None:
            self._stores.lexical.add(rows, [passage.lexical_text for passage in passages])

        if fresh:
            self._encode(rows[fresh], [passages[i] for i in fresh], meanwhile=add_words)
        else:
            add_words()
        copied = [i for i, passage in enumerate(passages) if passage.encoding_sha256 in known]
        if copied:
            origin = np.array([known[passages[i].encoding_sha256] for i in copied], np.int64)
            self._copy(rows[copied], origin, [passages[i] for i in copied])

    def _encode(
        self, rows: Rows, passages: Sequence[PreparedPassage], *, meanwhile: Callable[[], None] = lambda: None
    ) -> None:
        """Writes what is encoded now; `meanwhile` is called once the model has begun."""
        first: dict[str, int] = {}
        for passage in passages:
            first.setdefault(passage.encoding_sha256, len(first))
        texts = {passage.encoding_sha256: passage.composed.text for passage in passages}
        codec = self._stores.tokens.codec
        codes: list[NDArray[np.uint8]] = [np.empty((0, codec.width), np.uint8)] * len(texts)
        pooled = np.empty((len(texts), self._encoder.dense_dim), np.float32)
        with ahead(encoded_documents(self._encoder, list(texts.values())), _AHEAD) as encodings:
            meanwhile()
            for i, encoding in encodings:
                codes[i] = codec.encode(encoding.tokens)
                pooled[i] = encoding.pooled
        which = [first[passage.encoding_sha256] for passage in passages]
        packed = PackedTokens.pack([codes[i] for i in which], codec)
        self._put(rows, packed, pooled[which])

    def _copy(self, rows: Rows, origin: Rows, passages: Sequence[PreparedPassage]) -> None:
        packed = self._stores.tokens.gather(origin)
        lost = np.flatnonzero(packed.lengths == 0).tolist()
        if lost:  # the row the catalog knew of has no vectors (a damaged store): encode after all
            self._encode(rows[lost], [passages[i] for i in lost])
            kept = np.flatnonzero(packed.lengths > 0)
            if len(kept) == 0:
                return
            rows, origin = rows[kept], origin[kept]
            packed = self._stores.tokens.gather(origin)
        self._put(rows, packed, self._stores.tokens.pooled(origin))

    def _put(self, rows: Rows, packed: PackedTokens, pooled: NDArray[np.float32]) -> None:
        self._stores.tokens.put(rows, packed, pooled)
        classes = self._catalog.access_class_column()
        self._stores.vectors.upsert(rows, pooled, classes[rows].tolist())
