"""The first stage: the union of what the words and the vectors find, with every signal of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import RowMask, Rows
from lir_agents.errors import StoreError
from lir_agents.graph.parts import WHOLE, Parts
from lir_agents.graph.reading import Context, Reading
from lir_agents.graph.rooms import Rooms
from lir_agents.graph.view import View
from lir_agents.threads import product

__all__ = ["Candidates", "find_candidates"]


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


def find_candidates(
    rooms: Rooms,
    turn: Reading,
    view: View,
    depth: int,
    *,
    context: Context | None = None,
    boosted: Sequence[RowMask] = (),
    documents: int = 1,
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
        documents: Where the lists hold fewer documents than these, more lists are taken of all others.
        parts: Runs what is asked of each room.
    """
    lexical, words = _by_words(rooms, turn, view, context, parts)
    together = lexical if lexical is None or words is None else lexical + words
    chosen, left = np.zeros_like(view.allowed), view.allowed
    near: list[tuple[Rows, NDArray[np.float32]]] = []
    while True:
        masks = [left, *(mask for mask in (mask & left for mask in boosted) if mask.any())]
        nearest = _by_vectors(rooms, turn, masks, depth, context, parts, len(near)) or []
        found = [rows for rows, _ in nearest]
        if together is not None:
            found += [
                _best(together if mask is view.allowed else np.where(mask, together, 0), depth) for mask in masks
            ]
        for rows in found:
            chosen[rows if left is view.allowed else _first_of_each(view.snapshot.document, rows)] = True
        near += nearest
        if documents == 1 or not any(map(len, found)):
            break
        known = np.unique(view.snapshot.document[chosen])
        left = view.allowed & ~np.isin(view.snapshot.document, known)
        if len(known) >= documents or not left.any():
            break
    rows = np.flatnonzero(chosen)
    return _with_signals(rooms, rows, turn, context, lexical, words, near, parts)


def _by_words(
    rooms: Rooms, turn: Reading, view: View, context: Context | None, parts: Parts
) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
    """BM25 of every row, of the turn and of the conversation's words; None where there is none to be had."""

    def work() -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        lexical = rooms.lexical.scores(turn.terms, view.allowed)
        _require_finite("lexical", lexical, len(view.allowed))
        return lexical, None if context is None else rooms.lexical.scores(context.reading.terms, view.allowed)

    return parts.ask("lexical", work, "scores") or (None, None)


def _by_vectors(
    rooms: Rooms,
    turn: Reading,
    masks: Sequence[RowMask],
    depth: int,
    context: Context | None,
    parts: Parts,
    behind: int,
) -> list[tuple[Rows, NDArray[np.float32]]] | None:
    """The nearest within each mask, with their cosines; None where vectors cannot be had.

    `behind` lists that were taken already this is another question.
    """
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

    return parts.ask("vectors", lambda: [near(mask) for mask in masks], f"{behind}")


def _with_signals(
    rooms: Rooms,
    rows: Rows,
    turn: Reading,
    context: Context | None,
    lexical: NDArray[np.float32] | None,
    words: NDArray[np.float32] | None,
    near: Sequence[tuple[Rows, NDArray[np.float32]]],
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
        dense = _cosines(rows, near)
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


def _first_of_each(document: NDArray[np.int64], rows: Rows) -> Rows:
    """The first row of each document: one of many passages does not take the rest of the ranking's time."""
    return rows[np.unique(document[rows], return_index=True)[1]]


def _best(scores: NDArray[np.float32], depth: int) -> Rows:
    """Rows of the largest positive scores, best first, at most `depth`; among equals the smaller row."""
    positive = np.flatnonzero(scores > 0)
    if len(positive) > depth:
        # Everything above the cut, then the first rows of those that tie at it.
        found = scores[positive]
        cut = np.partition(found, len(found) - depth)[len(found) - depth]
        above = positive[found > cut]
        ties = positive[found == cut][: depth - len(above)]
        positive = np.concatenate([above, ties])
    return positive[np.argsort(-scores[positive], kind="stable")]
