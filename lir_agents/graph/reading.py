"""The reading of the query: its vectors, its terms, and both once more in the light of the conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import Encoding
from lir_agents.encoding.asking import encoded_queries
from lir_agents.encoding.base import QueryText
from lir_agents.graph.conversation import Conversation
from lir_agents.graph.parts import WHOLE, Parts
from lir_agents.graph.rooms import Rooms
from lir_agents.graph.view import View
from lir_agents.ranking.fusion import token_weights

__all__ = ["Context", "Reading", "read_in_context", "read_query", "texts_of"]


@dataclass(frozen=True, slots=True)
class Reading:
    """The query as the stages read it.

    Attributes:
        encoding: Its vectors; tokens float32 [q_len, token_dim], without rows where the encoder gave none in time.
        terms: Stemmed terms with weights, for BM25.
        weights: float32 [q_len], > 0: MaxSim weight of each token.
        lexical_ceiling: The largest BM25 these terms could reach in this view.
    """

    encoding: Encoding
    terms: tuple[tuple[str, float], ...]
    weights: NDArray[np.float32]
    lexical_ceiling: float

    @property
    def encoded(self) -> bool:
        """Whether there are vectors to compare with."""
        return len(self.encoding.tokens) > 0


@dataclass(frozen=True, slots=True)
class Context:
    """The turn read in the light of the conversation.

    Attributes:
        reading: The turn's own tokens, encoded after what was said; its terms are the conversation's words.
        share: How much of every signal it makes up beside the turn, in [0, .5].
    """

    reading: Reading
    share: float


def read_query(
    rooms: Rooms, text: str, view: View, encoding: Encoding | None = None, parts: Parts = WHOLE
) -> Reading:
    """Encodes the query once and analyses it; document frequencies are those of the view alone.

    Args:
        rooms: The open rooms.
        text: The query.
        view: What the search may look at.
        encoding: The query's vectors, where they are there already.
        parts: Runs what is asked of each room.
    """
    if encoding is None:
        (encoding,) = encode(rooms, [QueryText(text)], parts)
    words = parts.ask("lexical", lambda: _words(rooms, text, view, encoding), "terms")
    if words is None:
        words = (), np.zeros(len(encoding.tokens), np.float32), 0.0
    terms, token_idf, ceiling = words
    return Reading(
        encoding=encoding,
        terms=tuple((term, 1.0) for term in terms),
        weights=token_weights(token_idf, rooms.weights.idf_power),
        lexical_ceiling=ceiling,
    )


def texts_of(query: str, conversation: Conversation) -> list[QueryText]:
    """What the encoder is asked for a turn: the turn alone, and once more in the light of what was said."""
    light = conversation.light if conversation.trust else ""
    return [QueryText(query), QueryText(query, light)] if light else [QueryText(query)]


def encode(rooms: Rooms, queries: Sequence[QueryText], parts: Parts) -> list[Encoding]:
    """The queries' vectors, in one batch; without tokens where the encoder gave none."""
    given = parts.ask("encoder", lambda: encoded_queries(rooms.encoder, queries), f"{len(queries)} texts")
    if given is not None:
        return given
    nothing = Encoding(
        np.zeros(rooms.encoder.dense_dim, np.float32),
        np.zeros((0, rooms.encoder.token_dim), np.float32),
        np.zeros((0, 2), np.int32),
    )
    return [nothing] * len(queries)


def _words(
    rooms: Rooms, text: str, view: View, encoding: Encoding
) -> tuple[tuple[str, ...], NDArray[np.float32], float]:
    """The query's terms, the inverse document frequency of each token, and the largest BM25 it can reach."""
    terms = rooms.lexical.analyze(text)
    idf = rooms.lexical.idf(terms, view.allowed)
    around = [rooms.lexical.analyze(word) for word in _words_around(text, encoding.spans)]
    by_term = dict(zip(terms, idf.tolist(), strict=True))
    token_idf = np.array(
        [max((by_term.get(term, 0.0) for term in word), default=0.0) for word in around], np.float32
    )
    return tuple(terms), token_idf, float(idf.sum())  # what repetitions of a term add stays below 1 (`stores.bm25`)


def read_in_context(
    rooms: Rooms, query: str, conversation: Conversation, view: View, parts: Parts = WHOLE
) -> tuple[Reading, Context | None]:
    """Reads the turn by itself and in the light of the conversation, in one batch.

    Args:
        rooms: The open rooms.
        query: The turn.
        conversation: What was said before.
        view: What the search may look at.
        parts: Runs what is asked of each room.

    Returns:
        The turn's reading, and the context; None where nothing was said that may be trusted, or the encoder gave
        nothing.
    """
    texts, weights, counts = texts_of(query, conversation), rooms.weights, conversation.trust
    if len(texts) == 1:
        return read_query(rooms, query, view, parts=parts), None
    turn, lit = encode(rooms, texts, parts)
    reading = read_query(rooms, query, view, turn, parts)
    if not reading.encoded:
        return reading, None
    if len(dict(reading.terms)) >= weights.complete_terms:
        counts *= weights.context_of_complete

    def work() -> tuple[tuple[str, float], ...]:
        return _conversation_terms(rooms, conversation, weights.context_terms * counts)

    terms = parts.ask("lexical", work, "terms of the conversation") or ()
    in_context = Reading(lit, terms, reading.weights, reading.lexical_ceiling)
    return reading, Context(in_context, weights.context * counts)


def _conversation_terms(rooms: Rooms, conversation: Conversation, weight: float) -> tuple[tuple[str, float], ...]:
    terms = [term for question in conversation.questions for term in rooms.lexical.analyze(question)]
    # An answer repeats its topic over and over: each of its words counts once.
    terms += [term for answer in conversation.answers[-1:] for term in sorted(set(rooms.lexical.analyze(answer)))]
    return tuple((term, weight) for term in terms)


def _words_around(text: str, spans: NDArray[np.int32]) -> list[str]:
    """The whole word that each token is a piece of; "" for markers."""
    words = []
    for start, end in spans.tolist():
        if end > start:
            while start > 0 and text[start - 1].isalnum():
                start -= 1
            while end < len(text) and text[end].isalnum():
                end += 1
        words.append(text[start:end])
    return words
