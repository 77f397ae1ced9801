"""Asking an encoder: what comes back is held to what the port promises, whoever wrote the encoder."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from operator import index
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import Encoding
from lir_agents.encoding.base import Encoder, QueryText
from lir_agents.errors import IntegrityError

__all__ = ["encoded_documents", "encoded_queries"]

_TOLERANCE: Final = 1e-2
"""How far from one the length of a pooled vector may be: more than rounding to 16 bits changes."""


def encoded_queries(encoder: Encoder, queries: Sequence[QueryText]) -> list[Encoding]:
    """`Encoder.encode_queries`, one sound encoding per query.

    Raises:
        IntegrityError: The encoder gave something else.
    """
    found = _listed(encoder.encode_queries(queries))
    if len(found) != len(queries):
        _refuse(f"{len(found)} encodings of {len(queries)} queries")
    return [_sound(one, encoder) for one in found]


def encoded_documents(encoder: Encoder, texts: Sequence[str]) -> Iterator[tuple[int, Encoding]]:
    """`Encoder.encode_documents`, one sound encoding per text.

    Raises:
        IntegrityError: The encoder gave something else; what was yielded before is sound.
    """
    missing = set(range(len(texts)))
    items: Any = encoder.encode_documents(texts)
    if not isinstance(items, Iterable):
        _refuse(f"a {type(items).__name__}")
    try:
        for item in items:
            at, one = _pair(item)
            if at not in missing:
                _refuse(f"text {at} of {len(texts)}, or the same one twice")
            missing.remove(at)
            yield at, _sound(one, encoder)
    finally:
        if isinstance(items, Generator):
            items.close()  # here, where it ran, and not wherever it is collected
    if missing:
        _refuse(f"{len(texts) - len(missing)} encodings of {len(texts)} texts")


def _pair(item: Any) -> tuple[int, object]:
    try:
        at, one = item
        return index(at), one
    except (TypeError, ValueError):
        _refuse("no pair of an index and an encoding")


def _listed(found: object) -> list[Any]:
    return list(found) if isinstance(found, list | tuple) else _refuse(f"a {type(found).__name__}")


def _sound(one: object, encoder: Encoder) -> Encoding:
    """The very encoding where its arrays are float32, else one whose are."""
    if not isinstance(one, Encoding):
        _refuse(f"a {type(one).__name__}")
    pooled, tokens = _numbers(one.pooled, "pooled"), _numbers(one.tokens, "tokens")
    if pooled.shape != (encoder.dense_dim,):
        _refuse(f"pooled {list(pooled.shape)} where [{encoder.dense_dim}] is promised")
    if tokens.ndim != 2 or not len(tokens) or tokens.shape[1] != encoder.token_dim:
        _refuse(f"tokens {list(tokens.shape)} where [1 or more, {encoder.token_dim}] is promised")
    if np.shape(one.spans) != (len(tokens), 2):
        _refuse(f"spans {list(np.shape(one.spans))} where [{len(tokens)}, 2] is promised")
    if not np.isfinite(tokens).all():
        _refuse("tokens with a NaN or an infinity")
    if not abs(float(np.linalg.norm(pooled.astype(np.float64))) - 1) < _TOLERANCE:  # also where it is no number
        _refuse("a pooled vector that is not finite and of length one")
    return one if pooled is one.pooled and tokens is one.tokens else Encoding(pooled, tokens, one.spans)


def _numbers(given: object, name: str) -> NDArray[np.float32]:
    try:
        return np.asarray(given, np.float32)
    except (TypeError, ValueError):
        _refuse(f"{name} that are no numbers")


def _refuse(what: str) -> NoReturn:
    raise IntegrityError(
        f"The encoder gave something that is no vector: {what}.", remedy="Check the model and its precision."
    )
