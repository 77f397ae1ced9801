"""Fusion: every signal in common units, weighted, added up, with each contribution kept.

A signal is *standardised* over the candidates (minus their mean, divided by their spread) before it is weighted,
because cosines, MaxSim and BM25 have no common scale and their spread differs by query. The spread is shrunk
towards a prior (Efron and Morris's empirical Bayes, the estimate `sqrt((n s^2 + n0 s0^2) / (n + n0))`), so that
two candidates that differ by a hair do not look as far apart as two that differ by much: without it, few
candidates and ties turn noise into votes.

`neighbours` is score regularisation (Diaz, CIKM 2005): passages that resemble each other should score alike, so
each one receives a share of what its nearest neighbours among the candidates scored.

The weights were tuned once on the open sets (docs/tuning.md) and are the same everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Fused", "FusionWeights", "best_first", "fuse", "neighbour_part", "standardise", "token_weights"]


@dataclass(frozen=True, slots=True)
class FusionWeights:
    """How much each signal counts. All dimensionless; tuned on the open sets.

    Attributes:
        maxsim, dense, lexical: Weight of each standardised signal; they sum to one.
        neighbours: Share of the neighbours' mean that is added, in [0, 1].
        neighbour_count: How many neighbours speak for a passage.
        prior_count: Candidates that the prior spread is worth, `n0`.
        prior_std: The prior spread `s0` of each signal: its median over the queries of the open sets. That of
            the lexical signal is relative to the largest BM25 the query could reach.
        idf_power: Exponent of a query token's inverse document frequency in its MaxSim weight; 0 weighs all
            tokens alike.
    """

    maxsim: float = 0.4
    dense: float = 0.4
    lexical: float = 0.2
    neighbours: float = 0.3
    neighbour_count: int = 10
    prior_count: float = 20.0
    prior_std: Mapping[str, float] = field(
        default_factory=lambda: {"maxsim": 0.07, "dense": 0.106, "lexical": 0.041}
    )
    idf_power: float = 0.25


@dataclass(frozen=True, slots=True)
class Fused:
    """Scores of n candidates with their parts: `score` is the sum of `parts`, element by element.

    Attributes:
        score: float64 [n].
        parts: name to float64 [n].
    """

    score: NDArray[np.float64]
    parts: Mapping[str, NDArray[np.float64]]


def standardise(values: NDArray[np.float32], *, prior_std: float, prior_count: float) -> NDArray[np.float64]:
    """Values minus their mean, over a spread shrunk towards the prior.

    Args:
        values: [n], finite.
        prior_std: Spread to expect, > 0, in the unit of the values.
        prior_count: How many values the prior is worth, > 0.

    Returns:
        float64 [n]; all zero where all values are equal. Order is kept.
    """
    if len(values) == 0:
        return np.zeros(0, np.float64)
    centred = np.asarray(values, np.float64) - np.mean(values, dtype=np.float64)
    # Rounding can leave a mean beside equal values: a tie must stay a tie of exact zeros.
    if np.ptp(values) == 0:
        return np.zeros(len(values), np.float64)
    n = len(values)
    variance = (n * np.mean(centred**2) + prior_count * prior_std**2) / (n + prior_count)
    return np.asarray(centred / np.sqrt(variance), np.float64)


def neighbour_part(
    base: NDArray[np.float64], pooled: NDArray[np.float32], *, count: int, share: float
) -> NDArray[np.float64]:
    """What each candidate receives from the candidates most like it.

    Args:
        base: float64 [n], scores so far.
        pooled: float32 [n, dense_dim], L2-normalised.
        count: Neighbours per candidate.
        share: Weight of their mean.

    Returns:
        float64 [n]: `share` times the neighbours' mean score, weighted by the fourth power of the cosine.
    """
    n = len(base)
    if n < 2 or share == 0 or count < 1:
        return np.zeros(n, np.float64)
    affinity = np.clip(pooled @ pooled.T, 0.0, 1.0).astype(np.float64) ** 4
    np.fill_diagonal(affinity, 0.0)
    if n - 1 > count:
        threshold = np.partition(affinity, n - count, axis=1)[:, n - count]
        affinity[affinity < threshold[:, None]] = 0.0
    total = affinity.sum(axis=1)
    received = affinity @ base
    return np.asarray(share * np.divide(received, total, out=np.zeros(n), where=total > 0), np.float64)


def fuse(
    signals: Mapping[str, NDArray[np.float32]],
    *,
    weights: FusionWeights,
    lexical_ceiling: float,
    pooled: NDArray[np.float32] | None = None,
    extra: Mapping[str, NDArray[np.float64]] | None = None,
) -> Fused:
    """Adds the signals of n candidates up.

    Args:
        signals: Any of "maxsim", "dense", "lexical" to float32 [n]; a missing one is left out and the weights
            of the others are scaled up to keep their sum.
        weights: See `FusionWeights`.
        lexical_ceiling: The largest BM25 score the query could reach, the unit of the lexical prior.
        pooled: float32 [n, dense_dim] for the neighbours' part; None leaves that part out.
        extra: Further parts in units of the score, added as they are.

    Returns:
        The scores and their parts.
    """
    present = {name: getattr(weights, name) for name in ("maxsim", "dense", "lexical") if name in signals}
    total = sum(present.values()) or 1.0
    parts: dict[str, NDArray[np.float64]] = {}
    for name, weight in present.items():
        unit = max(lexical_ceiling, 1e-6) if name == "lexical" else 1.0
        values = standardise(
            signals[name], prior_std=weights.prior_std[name] * unit, prior_count=weights.prior_count
        )
        parts[name] = weight / total * values
    parts.update(extra or {})
    base = sum(parts.values(), start=np.zeros(1))
    if pooled is not None and len(pooled):
        parts["neighbours"] = neighbour_part(base, pooled, count=weights.neighbour_count, share=weights.neighbours)
    return Fused(score=np.asarray(sum(parts.values(), start=np.zeros(1)), np.float64), parts=parts)


def token_weights(idf: NDArray[np.float32], power: float) -> NDArray[np.float32]:
    """MaxSim weight of each query token: rarer words count somewhat more.

    Args:
        idf: float32 [q_len], >= 0; 0 for tokens of stop words and for words outside the vocabulary of the index.
        power: See `FusionWeights.idf_power`.

    Returns:
        float32 [q_len], > 0.
    """
    return np.asarray((0.1 + idf) ** power, np.float32)


def best_first(score: NDArray[np.float64], rows: NDArray[np.int64]) -> NDArray[np.intp]:
    """Positions from best to worst; equal scores by row ascending, so that the order is always the same."""
    return np.lexsort((rows, -score))
