"""The first stage: one reading of the query, the passages it may look at, and the union of two candidate lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import Encoding, RowMask, Rows
from lir_agents.encoding.base import QueryText
from lir_agents.graph.conversation import Conversation
from lir_agents.graph.request import Request
from lir_agents.graph.rooms import Rooms
from lir_agents.policy.base import AccessScope
from lir_agents.policy.masks import scope_mask
from lir_agents.ranking.fusion import token_weights
from lir_agents.stores.columns import Snapshot
from lir_agents.threads import product

__all__ = [
    "Candidates",
    "Context",
    "Reading",
    "View",
    "find_candidates",
    "look_at",
    "read_in_context",
    "read_query",
]


@dataclass(frozen=True, slots=True)
class View:
    """What one search may look at: an intersection of bitmaps over one snapshot of the catalog.

    Attributes:
        snapshot: The state of the catalog that every mask and column comes from.
        allowed: bool [max_row + 1]: live (or live then), readable by the principal, matching the filter.
    """

    snapshot: Snapshot
    allowed: RowMask


@dataclass(frozen=True, slots=True)
class Reading:
    """The query as the stages read it.

    Attributes:
        encoding: Its vectors; tokens float32 [q_len, token_dim].
        terms: Stemmed terms with weights, for BM25.
        weights: float32 [q_len], > 0: MaxSim weight of each token.
        lexical_ceiling: The largest BM25 these terms could reach in this view.
    """

    encoding: Encoding
    terms: tuple[tuple[str, float], ...]
    weights: NDArray[np.float32]
    lexical_ceiling: float


@dataclass(frozen=True, slots=True)
class Context:
    """The turn read in the light of the conversation.

    Attributes:
        reading: The turn's own tokens, encoded after what was said; its terms are the conversation's words.
        share: How much of every signal it makes up beside the turn, in [0, .5].
    """

    reading: Reading
    share: float


@dataclass(frozen=True, slots=True)
class Candidates:
    """The union of the first-stage lists, in row order, with every first-stage signal of each.

    Attributes:
        rows: int64 [n], ascending.
        dense: float32 [n], the turn's cosine in [-1, 1].
        lexical: float32 [n], the turn's BM25, >= 0.
        pooled: float32 [n, dense_dim].
        context_dense, context_lexical: The same of the context; zeros where there is none.
    """

    rows: Rows
    dense: NDArray[np.float32]
    lexical: NDArray[np.float32]
    pooled: NDArray[np.float32]
    context_dense: NDArray[np.float32]
    context_lexical: NDArray[np.float32]


def look_at(rooms: Rooms, request: Request, scope: AccessScope) -> View:
    """Intersects what is live, what the scope may read and what the filter asks for.

    Raises:
        InputError: The filter is malformed.
        AccessDenied: The policy could not decide.
    """
    snapshot = rooms.catalog.snapshot()
    live = snapshot.live if request.as_of is None else snapshot.live_at(_epoch(rooms, request, snapshot.epoch))
    # Who may read an old version is decided by the ACL of today's: a grant withdrawn since holds for history too.
    classes = snapshot.access_class if request.as_of is None else snapshot.newest_access_class
    allowed = live & scope_mask(scope, classes, snapshot.access_keys)
    if request.filter is not None:
        allowed = allowed & rooms.catalog.match(request.filter, snapshot=snapshot)
    return View(snapshot=snapshot, allowed=allowed)


def _epoch(rooms: Rooms, request: Request, latest: int) -> int:
    """The epoch that `as_of` means. What lies ahead means now: an error would tell how often others write."""
    then = request.as_of if isinstance(request.as_of, int) else rooms.catalog.epoch_at(request.as_of)  # type: ignore[arg-type]
    return min(then, latest)


def read_query(rooms: Rooms, text: str, view: View, encoding: Encoding | None = None) -> Reading:
    """Encodes the query once and analyses it; document frequencies are those of the view alone.

    Args:
        rooms: The open rooms.
        text: The query.
        view: What the search may look at.
        encoding: The query's vectors, where they are there already.
    """
    if encoding is None:
        (encoding,) = rooms.encoder.encode_queries([QueryText(text)])
    terms = rooms.lexical.analyze(text)
    idf = rooms.lexical.idf(terms, view.allowed)
    words = [rooms.lexical.analyze(word) for word in _words_around(text, encoding.spans)]
    by_term = dict(zip(terms, idf.tolist(), strict=True))
    token_idf = np.array(
        [max((by_term.get(term, 0.0) for term in word), default=0.0) for word in words], np.float32
    )
    return Reading(
        encoding=encoding,
        terms=tuple((term, 1.0) for term in terms),
        weights=token_weights(token_idf, rooms.weights.idf_power),
        lexical_ceiling=float(idf.sum()),  # what repetitions of a term add stays below 1 (`stores.bm25`)
    )


def read_in_context(
    rooms: Rooms, query: str, conversation: Conversation, view: View
) -> tuple[Reading, Context | None]:
    """Reads the turn by itself and in the light of the conversation, in one batch.

    Args:
        rooms: The open rooms.
        query: The turn.
        conversation: What was said before.
        view: What the search may look at.

    Returns:
        The turn's reading, and the context; None where nothing was said that may be trusted.
    """
    light, weights, counts = conversation.light, rooms.weights, conversation.trust
    if not light or counts == 0.0:
        return read_query(rooms, query, view), None
    turn, lit = rooms.encoder.encode_queries([QueryText(query), QueryText(query, light)])
    reading = read_query(rooms, query, view, turn)
    if len(dict(reading.terms)) >= weights.complete_terms:
        counts *= weights.context_of_complete
    terms = _conversation_terms(rooms, conversation, weights.context_terms * counts)
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


def find_candidates(
    rooms: Rooms,
    turn: Reading,
    view: View,
    depth: int,
    *,
    context: Context | None = None,
    boosted: Sequence[RowMask] = (),
) -> Candidates:
    """Takes the best `depth` of the lexical and of the dense list, both searched in the light of the context.

    Args:
        rooms: The open rooms.
        turn: The turn's reading.
        view: Where to look.
        depth: Candidates per list.
        context: Mixes its share into what both lists are searched for.
        boosted: Sets of passages that tools speak for; each gets lists of its own, so that evidence can lift
            what the turn alone would not have found.
    """
    lexical = rooms.lexical.scores(turn.terms, view.allowed)
    pooled = direction = turn.encoding.pooled
    words = np.zeros_like(lexical)
    if context is not None:
        words = rooms.lexical.scores(context.reading.terms, view.allowed)
        mixed = (1 - context.share) * pooled + context.share * context.reading.encoding.pooled
        direction = (mixed / np.linalg.norm(mixed)).astype(np.float32)
    found = [_best(lexical + words, depth), rooms.vectors.search(direction, depth, view.allowed)[0]]
    for mask in boosted:
        within = mask & view.allowed
        if within.any():
            found.append(_best(np.where(within, lexical + words, 0), depth))
            found.append(rooms.vectors.search(direction, depth, within)[0])
    rows = np.unique(np.concatenate(found)).astype(np.int64)
    vectors = rooms.tokens.pooled(rows)
    nothing = np.zeros(len(rows), np.float32)
    return Candidates(
        rows=rows,
        dense=product(vectors, pooled),
        lexical=lexical[rows],
        pooled=vectors,
        context_dense=nothing if context is None else product(vectors, context.reading.encoding.pooled),
        context_lexical=words[rows],
    )


def _best(scores: NDArray[np.float32], depth: int) -> Rows:
    """Rows of the largest positive scores, at most `depth`; among equals the smaller row."""
    positive = np.flatnonzero(scores > 0)
    if len(positive) > depth:
        # Everything above the cut, then the first rows of those that tie at it.
        cut = np.partition(scores[positive], len(positive) - depth)[len(positive) - depth]
        above = positive[scores[positive] > cut]
        ties = positive[scores[positive] == cut][: depth - len(above)]
        positive = np.concatenate([above, ties])
    return positive.astype(np.int64)
