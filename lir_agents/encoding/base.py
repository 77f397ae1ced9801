"""The encoder port: text in; the pooled vector and the token matrix of one forward pass out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from lir_agents.arrays import Encoding

__all__ = ["Encoder", "QueryText"]


@dataclass(frozen=True, slots=True)
class QueryText:
    """A query, and optionally text in whose light it is to be read.

    With `context`, both are encoded jointly (context first) and only the query's own token vectors come back
    (ZeCo², arXiv:2204.10613). The context shapes those vectors and never scores by itself.
    """

    text: str
    context: str = ""


@runtime_checkable
class Encoder(Protocol):
    """What an index needs from a model.

    Two encoders with equal `fingerprint` give interchangeable vectors; an index stores it and refuses any
    other. Implementations are safe to call from several threads. What is no vector, or one of another shape, is an
    `IntegrityError` when documents are added, and leaves the encoder out of a search, which says so.

    One whose vectors of a query do not depend, in any bit, on the other queries of a call says so by an attribute
    `steady` that is True (`is_steady`); then questions of a batch are encoded in one call.
    """

    @property
    def name(self) -> str:
        """What a person calls it: a hub name or a path."""

    @property
    def fingerprint(self) -> str:
        """Hex sha256 over the weights and every setting that changes a vector."""

    @property
    def dense_dim(self) -> int:
        """Width of `Encoding.pooled`."""

    @property
    def token_dim(self) -> int:
        """Width of `Encoding.tokens`."""

    @property
    def max_tokens(self) -> int:
        """Longest document input in tokens, special tokens included; longer ones are truncated."""

    def encode_queries(self, queries: Sequence[QueryText]) -> list[Encoding]:
        """Encodes queries. Texts longer than the model reads are truncated: a context loses its oldest part
        first, and never crowds out the query."""

    def encode_documents(self, texts: Sequence[str]) -> Iterator[tuple[int, Encoding]]:
        """Encodes documents in an order of its own choosing (by length), yielding (index into texts, Encoding)
        as batches finish. Every index comes exactly once. The iterator may be taken from, and closed, on another
        thread than the one that asked for it, always the same one: nobody who adds documents may hold a lock that
        it takes."""

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        """Character offsets (start, end) of the model's tokens in `text`, without special tokens, untruncated;
        what splitting counts with."""


def is_steady(encoder: Encoder) -> bool:
    """Whether the encoder says that what is encoded beside a query changes no bit of its vectors."""
    return getattr(encoder, "steady", False) is True
