"""Reranks texts that somebody else retrieved, by MaxSim and the order that they came in."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import PackedTokens
from lir_agents.codes import TokenCodec
from lir_agents.encoding.asking import encoded_documents, encoded_queries
from lir_agents.encoding.base import Encoder, QueryText
from lir_agents.errors import InputError
from lir_agents.ranking.fusion import FusionWeights, best_first, fuse
from lir_agents.ranking.maxsim import meet
from lir_agents.stores.token_cache import MemoryTokenCache, TextVectors, TokenCache
from lir_agents.telemetry import count
from lir_agents.threads import product

__all__ = ["RankedText", "TextReranker"]

_ORDER_STD: Final = 0.2
"""Spread to expect of the order signal 1 / log2(1 + rank): .18 to .22 over two to twenty texts, .14 over fifty.
Shrinking towards it keeps the order of two texts from counting as much as that of twenty."""


@dataclass(frozen=True, slots=True)
class RankedText:
    """One text of the ones given. `position` is where it stood (from 0); `score` is the sum of `breakdown`."""

    position: int
    score: float
    breakdown: dict[str, float]


@dataclass(frozen=True, slots=True)
class TextReranker:
    """MaxSim, cosine and the order of whoever retrieved the texts, fused as in a search.

    Texts are told apart by position and known again by content: ids play no part, equal texts score alike and
    keep their order. A text longer than the encoder reads is scored by its beginning.

    Args:
        encoder: Encodes the query, and each text that the cache does not know.
        cache: Keeps text vectors by a hash of encoder and text.
        weights: What each signal counts. The given order stands in for the lexical list, which texts without an
            index do not have.
    """

    encoder: Encoder
    cache: TokenCache = field(default_factory=MemoryTokenCache)
    weights: FusionWeights = field(default_factory=FusionWeights)

    def rank(self, query: str, texts: Sequence[str]) -> list[RankedText]:
        """Every text, best first; equal scores in the given order.

        Raises:
            InputError: The query is empty.
            IntegrityError: The encoder gave something that is no vector.
        """
        if not isinstance(query, str) or not query.strip():
            raise InputError("is empty", field="query", remedy="Pass at least one word.")
        if not texts:
            return []
        vectors = self._vectors(texts)
        (turn,) = encoded_queries(self.encoder, [QueryText(query.strip())])
        pooled = np.stack([one.pooled for one in vectors])
        found = meet(turn.tokens, PackedTokens.pack([one.codes for one in vectors], self._codec))
        fused = fuse(
            {"maxsim": found.score(block_share=self.weights.block), "dense": product(pooled, turn.pooled)},
            weights=self.weights,
            lexical_ceiling=0.0,
            pooled=pooled,
            extra={"order": self._order_part(len(texts))},
        )
        positions = np.arange(len(texts), dtype=np.int64)
        return [
            RankedText(
                position=int(at),
                score=float(fused.score[at]),
                breakdown={name: float(part[at]) for name, part in fused.parts.items()},
            )
            for at in best_first(fused.score, positions)
        ]

    def _order_part(self, count: int) -> NDArray[np.float64]:
        """What the given order adds: the discount of DCG, minus its mean, over its spread."""
        discount = 1 / np.log2(np.arange(count) + 2.0)
        prior = self.weights.prior_count
        variance = (count * discount.var() + prior * _ORDER_STD**2) / (count + prior)
        part: NDArray[np.float64] = self.weights.lexical * (discount - discount.mean()) / np.sqrt(variance)
        return part

    def _vectors(self, texts: Sequence[str]) -> list[TextVectors]:
        keys = [self._key(text) for text in texts]
        known = self.cache.get(keys)
        unknown = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        count("cache.hits", len(known))
        count("cache.misses", len(unknown))
        codec = self._codec
        fresh: dict[bytes, TextVectors] = {}
        names = list(unknown)
        for at, encoding in encoded_documents(self.encoder, list(unknown.values())):
            fresh[names[at]] = TextVectors(encoding.pooled, codec.encode(encoding.tokens))
        if fresh:
            self.cache.put(fresh)
        return [known[key] if key in known else fresh[key] for key in keys]

    @property
    def _codec(self) -> TokenCodec:
        return TokenCodec(self.encoder.token_dim, 8)

    def _key(self, text: str) -> bytes:
        content = f"{self.encoder.fingerprint}\x00{text}".encode("utf-8", "surrogatepass")
        return hashlib.sha256(content).digest()
