"""The first stage: one reading of the query, the passages it may look at, and the union of two candidate lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import Encoding, RowMask, Rows
from lir_agents.encoding.base import QueryText
from lir_agents.errors import IntegrityError, StoreError
from lir_agents.graph.conversation import Conversation
from lir_agents.graph.parts import WHOLE, Parts
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


@dataclass(frozen=True, slots=True)
class Candidates:
    """The union of the first-stage lists, in row order, with every first-stage signal of each.

    Attributes:
        rows: int64 [n], ascending.
        dense: float32 [n], the turn's cosine in [-1, 1].
        lexical: float32 [n], the turn's BM25, >= 0.
        pooled: float32 [n, dense_dim].
        context_dense, context_lexical: The same of the context; zeros where there is none.
        lacking: Signals that no room gave: "dense", "lexical" or "pooled". What stands in their place says nothing.
    """

    rows: Rows
    dense: NDArray[np.float32]
    lexical: NDArray[np.float32]
    pooled: NDArray[np.float32]
    context_dense: NDArray[np.float32]
    context_lexical: NDArray[np.float32]
    lacking: frozenset[str] = frozenset()


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


def encode(rooms: Rooms, queries: Sequence[QueryText], parts: Parts) -> list[Encoding]:
    """The queries' vectors, in one batch; without tokens where the encoder gave none."""

    def work() -> list[Encoding]:
        found = rooms.encoder.encode_queries(queries)
        if len(found) != len(queries) or not all(np.isfinite(one.tokens).all() for one in found):
            raise IntegrityError("The encoder gave something that is no vector.")
        return found

    given = parts.ask("encoder", work, f"{len(queries)} texts")
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
    light, weights, counts = conversation.light, rooms.weights, conversation.trust
    if not light or counts == 0.0:
        return read_query(rooms, query, view, parts=parts), None
    turn, lit = encode(rooms, [QueryText(query), QueryText(query, light)], parts)
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


def find_candidates(
    rooms: Rooms,
    turn: Reading,
    view: View,
    depth: int,
    *,
    context: Context | None = None,
    boosted: Sequence[RowMask] = (),
    parts: Parts = WHOLE,
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
        parts: Runs what is asked of each room.
    """
    lexical, words = _by_words(rooms, turn, view, context, parts)
    masks = [view.allowed, *(mask & view.allowed for mask in boosted)]
    masks = [view.allowed, *(mask for mask in masks[1:] if mask.any())]
    near = _by_vectors(rooms, turn, masks, depth, context, parts)
    found = [rows for rows, _ in near or ()]
    if lexical is not None and words is not None:
        together = lexical + words
        found += [_best(together if mask is view.allowed else np.where(mask, together, 0), depth) for mask in masks]
    rows = np.unique(np.concatenate([np.zeros(0, np.int64), *found])).astype(np.int64)
    return _with_signals(rooms, rows, turn, context, lexical, words, near, parts)


def _by_words(
    rooms: Rooms, turn: Reading, view: View, context: Context | None, parts: Parts
) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
    """BM25 of every row, of the turn and of the conversation's words; None where words cannot be had."""

    def work() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        lexical = rooms.lexical.scores(turn.terms, view.allowed)
        words = np.zeros_like(lexical)
        if context is not None:
            words = rooms.lexical.scores(context.reading.terms, view.allowed)
        _require_finite("lexical", lexical, len(view.allowed))
        return lexical, words

    return parts.ask("lexical", work, "scores") or (None, None)


def _by_vectors(
    rooms: Rooms, turn: Reading, masks: Sequence[RowMask], depth: int, context: Context | None, parts: Parts
) -> list[tuple[Rows, NDArray[np.float32]]] | None:
    """The nearest within each mask, with their cosines; None where vectors cannot be had."""
    if not turn.encoded:
        return None
    pooled = direction = turn.encoding.pooled
    if context is not None:
        mixed = (1 - context.share) * pooled + context.share * context.reading.encoding.pooled
        direction = (mixed / np.linalg.norm(mixed)).astype(np.float32)

    def near(mask: RowMask) -> tuple[Rows, NDArray[np.float32]]:
        rows, scores = rooms.vectors.search(direction, depth, mask)
        if len(rows) != len(scores) or (len(rows) and (rows.max() >= len(mask) or not mask[rows].all())):
            raise _damaged("vectors", "rows that were not asked for")
        return rows, scores

    return parts.ask("vectors", lambda: [near(mask) for mask in masks])


def _with_signals(
    rooms: Rooms,
    rows: Rows,
    turn: Reading,
    context: Context | None,
    lexical: NDArray[np.float32] | None,
    words: NDArray[np.float32] | None,
    near: list[tuple[Rows, NDArray[np.float32]]] | None,
    parts: Parts,
) -> Candidates:
    nothing = np.zeros(len(rows), np.float32)
    lacking = set() if lexical is not None else {"lexical"}

    def work() -> NDArray[np.float32]:
        vectors = rooms.tokens.pooled(rows)
        _require_finite("tokens", vectors, len(rows))
        return vectors

    vectors = parts.ask("tokens", work, "pooled") if turn.encoded else None
    dense = context_dense = nothing
    if vectors is not None:
        dense = product(vectors, turn.encoding.pooled)
        context_dense = nothing if context is None else product(vectors, context.reading.encoding.pooled)
    else:
        lacking |= {"pooled"} if near else {"pooled", "dense"}
        dense = _cosines(rows, near or ())
    return Candidates(
        rows=rows,
        dense=dense,
        lexical=nothing if lexical is None else lexical[rows],
        pooled=np.zeros((len(rows), 0), np.float32) if vectors is None else vectors,
        context_dense=context_dense,
        context_lexical=nothing if words is None else words[rows],
        lacking=frozenset(lacking),
    )


def _cosines(rows: Rows, near: Sequence[tuple[Rows, NDArray[np.float32]]]) -> NDArray[np.float32]:
    """What the vector search told of each row; of those it did not list, that they are no nearer than the last."""
    told = {
        row: score for found, scores in near for row, score in zip(found.tolist(), scores.tolist(), strict=True)
    }
    least = min(told.values(), default=0.0)
    return np.array([told.get(row, least) for row in rows.tolist()], np.float32)


def _require_finite(store: str, values: NDArray[np.float32], length: int) -> None:
    if len(values) != length or not np.isfinite(values).all():
        raise _damaged(store, "something that is no score")


def _damaged(store: str, what: str) -> StoreError:
    return StoreError(f"gave {what}", store=store, operation="search", remedy="Run `lir doctor`.")


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
