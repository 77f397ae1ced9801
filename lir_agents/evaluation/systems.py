"""Systems over one open index: four baselines on the same first stage, and the product as a user gets it.

========  =====================================================================================
bm25      passages by lexical score alone
dense     passages by the cosine of pooled vectors alone
hybrid    the two lists joined by reciprocal rank fusion, k = 60 (Cormack, Clarke, Büttcher 2009)
maxsim    hybrid's candidates, ordered by MaxSim alone
lir       `LateInteractionIndex.search`, with the query's history and tool outputs
========  =====================================================================================

A document stands where its first passage stands. Every system answers with its best 100 passages out of the same
first stage, 100 from each list: what a user's search looks at, so that asking for more changes no order. The
baselines read the turn alone, under the same access scope and filter as the product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lir_agents.errors import InputError
from lir_agents.evaluation.experiment import Ranking, System

if TYPE_CHECKING:
    from lir_agents.engine import CandidateTable, LateInteractionIndex
    from lir_agents.evaluation.dataset import EvalQuery
    from lir_agents.types import Principal

__all__ = ["BASELINES", "SYSTEMS", "Situation", "bind_systems", "check_systems", "fuse_ranks"]

BASELINES = ("bm25", "dense", "hybrid", "maxsim")
SYSTEMS = (*BASELINES, "lir")

_RRF_K = 60


@dataclass(frozen=True, slots=True)
class Situation:
    """Which parts of a query's situation are fed to the systems.

    Attributes:
        memory: The conversation so far.
        tools: What tools answered just before.
        principal: Turns a query into who asks.
    """

    memory: bool = True
    tools: bool = True
    principal: Callable[[EvalQuery], Principal | None] = lambda query: query.principal


def fuse_ranks(lists: Sequence[NDArray[np.int64]], n: int, k: int = _RRF_K) -> NDArray[np.float64]:
    """Reciprocal rank fusion: the sum of 1 / (k + rank) over the lists that hold a candidate.

    Args:
        lists: Each the positions of candidates, best first.
        n: Number of candidates.
        k: Dampens the first ranks.

    Returns:
        float64 [n], 0 for a candidate that no list holds.
    """
    fused = np.zeros(n)
    for positions in lists:
        fused[positions] += 1.0 / (k + np.arange(1, len(positions) + 1))
    return fused


def _descending(scores: NDArray[np.floating], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions by score, best first; ties by row, so that the order is the same on every run."""
    return np.lexsort((rows, -scores.astype(np.float64))).astype(np.int64)


def _lexical_order(table: CandidateTable, depth: int) -> NDArray[np.int64]:
    order = _descending(table.lexical, table.rows)
    return order[table.lexical[order] > 0.0][:depth]


def _dense_order(table: CandidateTable, depth: int) -> NDArray[np.int64]:
    return _descending(table.dense, table.rows)[:depth]


def _hybrid_order(table: CandidateTable, depth: int) -> NDArray[np.int64]:
    lists = [_lexical_order(table, depth), _dense_order(table, depth)]
    fused = fuse_ranks(lists, len(table.rows))
    order = _descending(fused, table.rows)
    return order[fused[order] > 0.0]


def _maxsim_order(table: CandidateTable, depth: int) -> NDArray[np.int64]:
    held = np.sort(_hybrid_order(table, depth))
    return held[_descending(table.maxsim[held], table.rows[held])]


_ORDERS: Mapping[str, Callable[[CandidateTable, int], NDArray[np.int64]]] = {
    "bm25": _lexical_order,
    "dense": _dense_order,
    "hybrid": _hybrid_order,
    "maxsim": _maxsim_order,
}


def _baseline(index: LateInteractionIndex, name: str, situation: Situation, depth: int) -> System:
    order = _ORDERS[name]

    def system(query: EvalQuery) -> Ranking:
        table = index.candidates(query.text, principal=situation.principal(query), filter=query.filter, depth=depth)
        positions = order(table, depth)[:depth]
        return Ranking(
            tuple(dict.fromkeys(table.document_ids[position] for position in positions)),
            passages=len(positions),
        )

    return system


def _product(index: LateInteractionIndex, situation: Situation, depth: int) -> System:
    def system(query: EvalQuery) -> Ranking:
        result = index.search(
            query.text,
            k=depth,
            principal=situation.principal(query),
            history=query.history if situation.memory else (),
            tool_signals=query.tool_signals if situation.tools else (),
            filter=query.filter,
        )
        return Ranking(
            tuple(dict.fromkeys(hit.document_id for hit in result)),
            timings_ms=result.timings_ms,
            passages=len(result),
        )

    return system


def check_systems(names: Sequence[str]) -> list[str]:
    """The names, each once and in the order given.

    Raises:
        InputError: A name is none of `SYSTEMS`, or none was given.
    """
    unknown = [name for name in names if name not in SYSTEMS]
    if unknown or not names:
        raise InputError(
            f"holds {', '.join(map(repr, unknown)) or 'nothing'}",
            field="systems",
            remedy=f"Choose from {', '.join(SYSTEMS)}.",
        )
    return list(dict.fromkeys(names))


def bind_systems(
    index: LateInteractionIndex, names: Sequence[str], *, situation: Situation | None = None, depth: int = 100
) -> dict[str, System]:
    """Ties systems to an open index.

    Args:
        index: An open index.
        names: Of `SYSTEMS`.
        situation: Which parts of a query's situation count; all by default.
        depth: Passages taken from each first-stage list, and passages that a system answers with.

    Raises:
        InputError: A name is none of `SYSTEMS`, or none was given.
    """
    chosen = situation or Situation()
    return {
        name: _product(index, chosen, depth) if name == "lir" else _baseline(index, name, chosen, depth)
        for name in check_systems(names)
    }
