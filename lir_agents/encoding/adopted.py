"""Pooled vectors of somebody else's model beside the token vectors of an encoder: for collections that are adopted.

A collection that was filled elsewhere holds one vector per record. They are kept: the first stage goes on in the
space that they span, and an encoder adds what they lack, the token vectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from threading import Lock
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lir_agents.arrays import Encoding
from lir_agents.encoding.base import Encoder, QueryText
from lir_agents.encoding.fingerprint import combine
from lir_agents.encoding.vectors import unit
from lir_agents.errors import InputError

__all__ = ["AdoptedEncoder"]

_WINDOW: Final = 1024


class AdoptedEncoder:
    """Token vectors of one encoder, pooled vectors of another model, or of nobody's: those that are there already.

    A query read in the light of a context keeps the pooled vector of the query alone: the other model knows of no
    contexts. Its vectors are scaled to length one. Of that model only the name enters the fingerprint, as nobody
    can look at its weights: give another name to another model.

    Args:
        base: Gives the token vectors, the offsets, and the length of a passage.
        documents: Texts to the other model's vectors, one each, in order.
        query: A query to its vector, in the same space.
        dense_dim: Their width.
        name: What a person calls the other model.
    """

    def __init__(
        self,
        base: Encoder,
        *,
        documents: Callable[[list[str]], ArrayLike],
        query: Callable[[str], ArrayLike],
        dense_dim: int,
        name: str,
    ) -> None:
        self.base = base
        self._documents = documents
        self._query = query
        self._dense_dim = dense_dim
        self._dense_name = name
        self._offered: Mapping[str, NDArray[np.float32]] = {}
        self._offering = Lock()

    @property
    def name(self) -> str:
        return f"{self.base.name} with vectors of {self._dense_name}"

    @property
    def dense_dim(self) -> int:
        return self._dense_dim

    @property
    def token_dim(self) -> int:
        return self.base.token_dim

    @property
    def max_tokens(self) -> int:
        return self.base.max_tokens

    @cached_property
    def fingerprint(self) -> str:
        return combine(
            {
                "kind": "adopted",
                "tokens": self.base.fingerprint,
                "dense": self._dense_name,
                "dense_dim": self._dense_dim,
            }
        )

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        return self.base.token_spans(text)

    @contextmanager
    def offering(self, vectors: Mapping[str, NDArray[np.float32]]) -> Iterator[None]:
        """While it lasts, the texts of these sha256 have these vectors, and the other model is not asked for them.

        Args:
            vectors: Hex sha256 of a text as it is encoded, to float32 [dense_dim].
        """
        with self._offering:
            self._offered = vectors
            try:
                yield
            finally:
                self._offered = {}

    def encode_documents(self, texts: Sequence[str]) -> Iterator[tuple[int, Encoding]]:
        for start in range(0, len(texts), _WINDOW):
            window = list(texts[start : start + _WINDOW])
            pooled = self._pooled(window)
            for at, one in self.base.encode_documents(window):
                yield start + at, replace(one, pooled=pooled[at])

    def encode_queries(self, queries: Sequence[QueryText]) -> list[Encoding]:
        plain = {text: self._unit([self._query(text)], 1)[0] for text in dict.fromkeys(one.text for one in queries)}
        encodings = self.base.encode_queries(queries)
        return [replace(one, pooled=plain[query.text]) for one, query in zip(encodings, queries, strict=True)]

    def _pooled(self, texts: list[str]) -> NDArray[np.float32]:
        """float32 [n, dense_dim]: what is offered, and the other model's word for the rest."""
        offered = self._offered
        pooled = np.empty((len(texts), self._dense_dim), np.float32)
        rest: list[int] = []
        for at, text in enumerate(texts):
            found = offered.get(hashlib.sha256(text.encode()).hexdigest()) if offered else None
            if found is None:
                rest.append(at)
            else:
                pooled[at] = self._unit([found], 1)[0]
        if rest:
            pooled[rest] = self._unit(self._documents([texts[at] for at in rest]), len(rest))
        return pooled

    def _unit(self, vectors: Any, count: int) -> NDArray[np.float32]:
        try:
            given = np.asarray(vectors, np.float32)
        except (TypeError, ValueError):
            given = np.empty(0, np.float32)
        if given.shape != (count, self._dense_dim) or not np.isfinite(given).all():
            raise InputError(
                f"{self._dense_name} gave {list(given.shape)} for {count} texts, or numbers that are not finite",
                field="embedding",
                remedy=f"It has to give one finite vector of {self._dense_dim} numbers per text.",
            )
        return unit(given)
