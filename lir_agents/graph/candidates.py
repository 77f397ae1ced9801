"""The first stage: one reading of the query, the passages it may look at, and the union of two candidate lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import Encoding, RowMask, Rows
from lir_agents.encoding.base import QueryText
from lir_agents.graph.request import Request
from lir_agents.graph.rooms import Rooms
from lir_agents.policy.base import AccessScope
from lir_agents.policy.masks import scope_mask
from lir_agents.ranking.fusion import token_weights
from lir_agents.stores.columns import Snapshot

__all__ = ["Candidates", "Reading", "View", "find_candidates", "look_at", "read_query"]


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
        text: What was encoded.
        encoding: Its vectors; tokens float32 [q_len, token_dim].
        terms: Stemmed terms with weights, for BM25.
        weights: float32 [q_len], > 0: MaxSim weight of each token.
        lexical_ceiling: The largest BM25 these terms could reach in this view.
    """

    text: str
    encoding: Encoding
    terms: tuple[tuple[str, float], ...]
    weights: NDArray[np.float32]
    lexical_ceiling: float


@dataclass(frozen=True, slots=True)
class Candidates:
    """The union of both first-stage lists, in row order, with every first-stage signal of each.

    Attributes:
        rows: int64 [n], ascending.
        dense: float32 [n], cosine in [-1, 1].
        lexical: float32 [n], BM25, >= 0.
        pooled: float32 [n, dense_dim].
    """

    rows: Rows
    dense: NDArray[np.float32]
    lexical: NDArray[np.float32]
    pooled: NDArray[np.float32]


def look_at(rooms: Rooms, request: Request, scope: AccessScope) -> View:
    """Intersects what is live, what the scope may read and what the filter asks for.

    Raises:
        InputError: The filter is malformed, or `as_of` lies outside the index's history.
        AccessDenied: The policy could not decide.
    """
    snapshot = rooms.catalog.snapshot()
    live = snapshot.live if request.as_of is None else snapshot.live_at(_epoch(rooms, request))
    # Who may read an old version is decided by the ACL of today's: a grant withdrawn since holds for history too.
    classes = snapshot.access_class if request.as_of is None else snapshot.newest_access_class
    allowed = live & scope_mask(scope, classes, snapshot.access_keys)
    if request.filter is not None:
        allowed = allowed & rooms.catalog.match(request.filter, snapshot=snapshot)
    return View(snapshot=snapshot, allowed=allowed)


def _epoch(rooms: Rooms, request: Request) -> int:
    return request.as_of if isinstance(request.as_of, int) else rooms.catalog.epoch_at(request.as_of)  # type: ignore[arg-type]


def read_query(rooms: Rooms, text: str, view: View, *, context: str = "") -> Reading:
    """Encodes the query once and analyses it; document frequencies are those of the view alone.

    Args:
        rooms: The open rooms.
        text: The query.
        view: What the search may look at.
        context: What was said before; it shapes the query's token vectors and never scores by itself.
    """
    (encoding,) = rooms.encoder.encode_queries([QueryText(text, context)])
    terms = rooms.lexical.analyze(text)
    idf = rooms.lexical.idf(terms, view.allowed)
    words = [rooms.lexical.analyze(word) for word in _words_around(text, encoding.spans)]
    by_term = dict(zip(terms, idf.tolist(), strict=True))
    token_idf = np.array(
        [max((by_term.get(term, 0.0) for term in word), default=0.0) for word in words], np.float32
    )
    return Reading(
        text=text,
        encoding=encoding,
        terms=tuple((term, 1.0) for term in terms),
        weights=token_weights(token_idf, rooms.weights.idf_power),
        # BM25's term frequency part stays below k1 + 1 = 2.2.
        lexical_ceiling=float(2.2 * idf.sum()),
    )


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


def find_candidates(rooms: Rooms, readings: Sequence[Reading], view: View, depth: int) -> Candidates:
    """Takes the best `depth` of the dense and of the lexical list of every reading.

    Args:
        rooms: The open rooms.
        readings: Readings of the query; the signals are those of the first.
        view: Where to look.
        depth: Candidates per list.
    """
    found: list[Rows] = []
    turn = readings[0]
    lexical = rooms.lexical.scores(turn.terms, view.allowed)
    found.append(_best(lexical, depth))
    found += [rooms.vectors.search(reading.encoding.pooled, depth, view.allowed)[0] for reading in readings]
    rows = np.unique(np.concatenate(found)).astype(np.int64)
    pooled = rooms.tokens.pooled(rows)
    return Candidates(rows=rows, dense=pooled @ turn.encoding.pooled, lexical=lexical[rows], pooled=pooled)


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
