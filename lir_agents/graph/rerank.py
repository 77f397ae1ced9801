"""The late-interaction stage: MaxSim over stored token vectors, fused with what the first stage knew."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import Rows
from lir_agents.graph.candidates import Candidates, Reading
from lir_agents.graph.rooms import Rooms
from lir_agents.ranking.fusion import Fused, best_first, fuse
from lir_agents.ranking.maxsim import token_maxima, weigh

__all__ = ["Ranked", "maxsim_scores", "rank"]


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


def maxsim_scores(rooms: Rooms, reading: Reading, rows: Rows) -> NDArray[np.float32]:
    """`maxsim_score` of each row: float32 [n] in [-1, 1]. One gather, one product."""
    if len(rows) == 0:
        return np.zeros(0, np.float32)
    return weigh(token_maxima(reading.encoding.tokens, rooms.tokens.gather(rows)), reading.weights)


def rank(rooms: Rooms, turn: Reading, candidates: Candidates) -> Ranked:
    """Fuses MaxSim, dense and lexical evidence and orders the candidates."""
    signals = {
        "maxsim": maxsim_scores(rooms, turn, candidates.rows),
        "dense": candidates.dense,
        "lexical": candidates.lexical,
    }
    fused = fuse(signals, weights=rooms.weights, lexical_ceiling=turn.lexical_ceiling, pooled=candidates.pooled)
    return in_order(candidates.rows, fused)


def in_order(rows: Rows, fused: Fused) -> Ranked:
    """Sorts candidates and their parts, best first; equal scores by row."""
    order = best_first(fused.score, rows)
    parts = {name: part[order] for name, part in fused.parts.items()}
    return Ranked(rows=rows[order], fused=Fused(score=fused.score[order], parts=parts))
