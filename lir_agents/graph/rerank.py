"""The late-interaction stage: MaxSim over stored token vectors, fused with what the first stage knew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import Rows
from lir_agents.graph.candidates import Candidates, Context, Reading
from lir_agents.graph.evidence import Boost
from lir_agents.graph.rooms import Rooms
from lir_agents.ranking.fusion import Fused, best_first, fuse
from lir_agents.ranking.maxsim import BLOCK_TOKENS, Maxima, meet

__all__ = ["Ranked", "rank", "token_maxima"]


@dataclass(frozen=True, slots=True)
class Ranked:
    """Every candidate, best first.

    Attributes:
        rows: int64 [n].
        fused: Scores and parts in the same order.
    """

    rows: Rows
    fused: Fused

    def breakdown(self, position: int) -> dict[str, float]:
        """The parts of one candidate's score; they sum to it."""
        return {name: float(part[position]) for name, part in self.fused.parts.items()}


def token_maxima(rooms: Rooms, readings: Sequence[Reading], rows: Rows) -> list[Maxima]:
    """What the tokens of each reading found in each row's passage. One gather, one product."""
    together = np.concatenate([reading.encoding.tokens for reading in readings])
    maxima = meet(together, rooms.tokens.gather(rows, multiple=BLOCK_TOKENS))
    ends = np.cumsum([0, *(len(reading.encoding.tokens) for reading in readings)]).tolist()
    return [maxima.of(slice(start, end)) for start, end in pairwise(ends)]


def rank(
    rooms: Rooms,
    turn: Reading,
    candidates: Candidates,
    *,
    context: Context | None = None,
    boosts: Sequence[Boost] = (),
) -> Ranked:
    """Fuses MaxSim, dense and lexical evidence of the turn and its context, adds what tools say, and orders."""
    readings = [turn] if context is None else [turn, context.reading]
    maxsim = [
        maxima.score(reading.weights, block_share=rooms.weights.block)
        for maxima, reading in zip(token_maxima(rooms, readings, candidates.rows), readings, strict=True)
    ]
    own = 1.0 if context is None else 1.0 - context.share
    fused = fuse(
        {"maxsim": own * maxsim[0], "dense": own * candidates.dense, "lexical": candidates.lexical},
        weights=rooms.weights,
        lexical_ceiling=turn.lexical_ceiling,
        context=None
        if context is None
        else {
            "maxsim": context.share * maxsim[1],
            "dense": context.share * candidates.context_dense,
            "lexical": candidates.context_lexical,
        },
        pooled=candidates.pooled,
        extra=_boosted(candidates.rows, boosts),
    )
    return in_order(candidates.rows, fused)


def _boosted(rows: Rows, boosts: Sequence[Boost]) -> dict[str, NDArray[np.float64]]:
    parts: dict[str, NDArray[np.float64]] = {}
    for boost in boosts:
        part = np.where(boost.rows[rows], boost.strength, 0.0)
        # One tool may speak through several fields: its part is their sum.
        parts[boost.label] = parts[boost.label] + part if boost.label in parts else part
    return parts


def in_order(rows: Rows, fused: Fused) -> Ranked:
    """Sorts candidates and their parts, best first; equal scores by row."""
    order = best_first(fused.score, rows)
    parts = {name: part[order] for name, part in fused.parts.items()}
    return Ranked(rows=rows[order], fused=Fused(score=fused.score[order], parts=parts))
