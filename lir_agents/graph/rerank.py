"""The late-interaction stage: MaxSim over stored token vectors, fused with what the first stage knew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import Rows
from lir_agents.errors import StoreError
from lir_agents.graph.candidates import Candidates
from lir_agents.graph.evidence import Boost
from lir_agents.graph.parts import WHOLE, Parts
from lir_agents.graph.reading import Context, Reading
from lir_agents.graph.rooms import Rooms
from lir_agents.ranking.fusion import Fused, best_first, fuse
from lir_agents.ranking.maxsim import Maxima, meet

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


def token_maxima(rooms: Rooms, readings: Sequence[Reading], rows: Rows, parts: Parts = WHOLE) -> list[Maxima]:
    """What the tokens of each reading found in each row's passage. One gather, one product."""
    together = np.concatenate([reading.encoding.tokens for reading in readings])
    maxima = _met(rooms, together, rows, parts)
    ends = np.cumsum([0, *(len(reading.encoding.tokens) for reading in readings)]).tolist()
    return [maxima.of(slice(start, end)) for start, end in pairwise(ends)]


def _met(rooms: Rooms, tokens: NDArray[np.float32], rows: Rows, parts: Parts) -> Maxima:
    """All passages at once; many of them, where time counts, with a look between at whether anybody still waits."""
    size = max(1, min(len(rows), parts.at_once or len(rows)))
    found: list[Maxima] = []
    for start in range(0, max(1, len(rows)), size):
        parts.check()
        some = rows[start : start + size]
        with rooms.tokens.lent(some) as stored:
            if len(stored) != len(some):
                raise StoreError(
                    "gave other passages", store="tokens", operation="gather", remedy="Run `lir doctor`."
                )
            found.append(meet(tokens, stored))
    return found[0] if len(found) == 1 else Maxima.concatenate(found)


def rank(
    rooms: Rooms,
    turn: Reading,
    candidates: Candidates,
    *,
    context: Context | None = None,
    boosts: Sequence[Boost] = (),
    parts: Parts = WHOLE,
) -> Ranked:
    """Fuses MaxSim, dense and lexical evidence of the turn and its context, adds what tools say, and orders.

    Without the tokens, or without vectors of the query, what remains is the order of the first stage.
    """
    own = 1.0 if context is None else 1.0 - context.share
    signals = {"dense": own * candidates.dense, "lexical": candidates.lexical}
    around = {"dense": candidates.context_dense, "lexical": candidates.context_lexical}
    if context is not None:
        around["dense"] = context.share * around["dense"]
    maxsim = _maxsim(rooms, [turn] if context is None else [turn, context.reading], candidates.rows, parts)
    if maxsim is not None:
        signals = {"maxsim": own * maxsim[0], **signals}
        around |= {"maxsim": context.share * maxsim[1]} if context is not None else {}
    fused = fuse(
        {name: signal for name, signal in signals.items() if name not in candidates.lacking},
        weights=rooms.weights,
        lexical_ceiling=turn.lexical_ceiling,
        context=None if context is None else around,
        pooled=None if "pooled" in candidates.lacking else candidates.pooled,
        extra=_boosted(candidates.rows, boosts),
    )
    return in_order(candidates.rows, fused)


def _maxsim(
    rooms: Rooms, readings: Sequence[Reading], rows: Rows, parts: Parts
) -> list[NDArray[np.float32]] | None:
    """MaxSim of each reading; None where it cannot be had."""
    if not readings[0].encoded:
        return None

    def work() -> list[NDArray[np.float32]]:
        maxima = token_maxima(rooms, readings, rows, parts)
        scores = [
            one.score(reading.weights, block_share=rooms.weights.block)
            for one, reading in zip(maxima, readings, strict=True)
        ]
        if not all(np.isfinite(score).all() for score in scores):
            raise StoreError("gave no vectors", store="tokens", operation="gather", remedy="Run `lir doctor`.")
        return scores

    return parts.ask("tokens", work, "gather")


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
