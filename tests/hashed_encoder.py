"""An encoder without a model: character n-grams hashed to vectors. Small, fast, and the same on every machine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import Encoding
from lir_agents.encoding.base import QueryText

__all__ = ["HashedEncoder"]

_TOKEN = re.compile(r"\w+|[^\w\s]")
_CONTEXT_SHARE = 0.25


class HashedEncoder:
    """An `Encoder` whose words are alike as far as they share trigrams: "walk" is near "walking".

    Args:
        seed: Stands for the weights: another seed, another fingerprint, other vectors.
        name: What a person calls it.

    Attributes:
        documents: Every document text that was encoded, in order.
        queries: Every query text that was encoded, in order.
    """

    dense_dim = 48
    token_dim = 32
    max_tokens = 96
    steady = True

    def __init__(self, seed: int = 0, *, name: str = "hashed") -> None:
        self._seed = seed
        self._name = name
        self.documents: list[str] = []
        self.queries: list[str] = []

    @property
    def name(self) -> str:
        return self._name

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"hashed trigrams, seed {self._seed}".encode()).hexdigest()

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        return [match.span() for match in _TOKEN.finditer(text)]

    def encode_documents(self, texts: Sequence[str]) -> Iterator[tuple[int, Encoding]]:
        for i in sorted(range(len(texts)), key=lambda i: len(texts[i])):
            self.documents.append(texts[i])
            yield i, self._encode(texts[i])

    def encode_queries(self, queries: Sequence[QueryText]) -> list[Encoding]:
        self.queries += [query.text for query in queries]
        return [self._encode(query.text, query.context) for query in queries]

    def _encode(self, text: str, context: str = "") -> Encoding:
        spans = np.array((self.token_spans(text) or [(0, 0)])[: self.max_tokens - 2], np.int32)
        tokens = np.stack([_word(self._seed, self.token_dim, text[a:b]) for a, b in spans])
        pooled = _unit(np.sum([_word(self._seed, self.dense_dim, text[a:b]) for a, b in spans], axis=0))
        if context:
            around = self._encode(context)
            tokens = _unit(tokens + _CONTEXT_SHARE * around.tokens.mean(axis=0))
            pooled = _unit(pooled + _CONTEXT_SHARE * around.pooled)
        return Encoding(pooled=pooled, tokens=tokens, spans=spans)


@lru_cache(maxsize=65_536)
def _word(seed: int, dim: int, word: str) -> NDArray[np.float32]:
    framed = f"<{word.casefold()}>"
    pieces = {framed, *(framed[i : i + 3] for i in range(len(framed) - 2))}
    return _unit(np.sum([_piece(seed, dim, piece) for piece in sorted(pieces)], axis=0))


@lru_cache(maxsize=65_536)
def _piece(seed: int, dim: int, piece: str) -> NDArray[np.float32]:
    data = hashlib.shake_128(f"{seed} {dim} {piece}".encode("utf-8", "surrogatepass")).digest(dim)
    return np.frombuffer(data, np.uint8).astype(np.float32) - np.float32(127.5)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
