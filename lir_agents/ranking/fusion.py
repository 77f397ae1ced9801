"""Fusion: every signal in common units, weighted, added up, with each contribution kept.

A signal is *standardised* over the candidates (minus their mean, divided by their spread) before it is weighted,
because cosines, MaxSim and BM25 have no common scale and their spread differs by query. Mean and spread are shrunk
towards priors (Efron and Morris's empirical Bayes: `sqrt((n s^2 + n0 s0^2) / (n + n0))`), so that two candidates
that differ by a hair do not look as far apart as two that differ by much: without it, few candidates and ties turn
noise into votes.

Context, what was said before, enters each signal beside the turn and is standardised with it. Its share of a score
is kept apart as the part `context`; it never moves two passages against each other by more than the turn's own
scores lie apart.

`neighbours` is score regularisation (Diaz, CIKM 2005): passages that resemble each other should score alike, so
each one receives a share of what its nearest neighbours among the candidates scored.

The weights were tuned once on the open sets (docs/tuning.md) and are the same everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lir_agents.threads import product

__all__ = ["Fused", "FusionWeights", "best_first", "fuse", "neighbour_part", "standardise", "token_weights"]

SIGNALS = ("maxsim", "dense", "lexical")

_BLOCK = 1024
"""Candidates whose neighbours are looked for at a time: keeps memory linear in how many there are."""


@dataclass(frozen=True, slots=True)
class FusionWeights:
    """How much each signal counts. All dimensionless; tuned on the open sets.

    Attributes:
        maxsim, dense, lexical: Weight of each standardised signal; they sum to one.
        block: Share of the best block beside the whole passage in the MaxSim signal, in [0, 1] (`Maxima.score`).
        neighbours: Share of the neighbours' mean that is added, in [0, 1].
        neighbour_count: How many neighbours speak for a passage.
        context: Share of the context beside the turn in every signal, in [0, .5]: the turn keeps at least half.
        context_terms: Weight of a term of the conversation in BM25, where a term of the turn has 1.
        complete_terms: Different terms from which a turn says by itself what it is about, >= 1.
        context_of_complete: How much of its context counts for such a turn, in [0, 1].
        tool: What full confidence in a tool's answer adds to a passage that fits it, in units of the score.
        prior_count: Candidates that the priors are worth, `n0`.
        prior_mean, prior_std: Mean and spread `s0` to expect of each signal: medians over the queries of the
            open sets. Those of the lexical signal are relative to the largest BM25 the query could reach.
        idf_power: Exponent of a query token's inverse document frequency in its MaxSim weight; 0 weighs all
            tokens alike.
    """

    maxsim: float = 0.58
    dense: float = 0.3
    lexical: float = 0.12
    block: float = 0.5
    neighbours: float = 0.2
    neighbour_count: int = 10
    context: float = 0.5
    context_terms: float = 0.35
    complete_terms: int = 4
    context_of_complete: float = 0.5
    tool: float = 3.0
    prior_count: float = 10.0
    prior_mean: Mapping[str, float] = field(default_factory=lambda: {"maxsim": 0.4, "dense": 0.36, "lexical": 0.14})
    prior_std: Mapping[str, float] = field(
        default_factory=lambda: {"maxsim": 0.066, "dense": 0.106, "lexical": 0.09}
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


@dataclass(frozen=True, slots=True)
class Scale:
    """How one signal is standardised: `(values - mean) / std`. `std` > 0."""

    mean: float
    std: float


def standardise(
    values: NDArray[np.float32], *, prior_mean: float, prior_std: float, prior_count: float
) -> tuple[NDArray[np.float64], Scale]:
    """Values minus their mean, over their spread, both shrunk towards a prior.

    Args:
        values: [n], finite.
        prior_mean: Mean to expect, in the unit of the values.
        prior_std: Spread to expect, > 0, in the unit of the values.
        prior_count: How many values the priors are worth, > 0.

    Returns:
        float64 [n], in the order of the values (equal values stay equal), and the scale that was used.
    """
    n = len(values)
    exact = np.asarray(values, np.float64)
    mean = (float(exact.sum()) + prior_count * prior_mean) / (n + prior_count)
    variance = (n * float(exact.var()) if n else 0.0) + prior_count * prior_std**2
    scale = Scale(mean, float(np.sqrt(variance / (n + prior_count))))
    return (exact - scale.mean) / scale.std, scale


def neighbour_part(
    base: NDArray[np.float64], pooled: NDArray[np.float32], *, count: int, share: float
) -> NDArray[np.float64]:
    """What each candidate receives from the candidates most like it. Linear in `base`.

    Args:
        base: float64 [n] or [n, c], scores so far, of one or several kinds.
        pooled: float32 [n, dense_dim], L2-normalised.
        count: Neighbours per candidate.
        share: Weight of their mean.

    Returns:
        float64, shaped as `base`: `share` times the neighbours' mean, weighted by the fourth power of the cosine.
    """
    n = len(base)
    if n < 2 or share == 0 or count < 1:
        return np.zeros_like(base)
    received = np.zeros_like(base)
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        cosines = product(pooled[start:stop], pooled.T)
        np.clip(cosines, 0.0, 1.0, out=cosines)
        cosines[np.arange(stop - start), np.arange(start, stop)] = 0.0
        if n - 1 > count:
            cosines *= cosines >= np.partition(cosines, n - count, axis=1)[:, n - count, None]
        affinity = cosines.astype(np.float64)
        affinity *= affinity
        affinity *= affinity  # squared twice: a power takes ten times as long
        total = affinity.sum(axis=1)
        affinity /= np.where(total > 0, total, 1.0)[:, None]
        received[start:stop] = product(affinity, base)
    return share * received


def fuse(
    turn: Mapping[str, NDArray[np.float32]],
    *,
    weights: FusionWeights,
    lexical_ceiling: float,
    context: Mapping[str, NDArray[np.float32]] | None = None,
    pooled: NDArray[np.float32] | None = None,
    extra: Mapping[str, NDArray[np.float64]] | None = None,
) -> Fused:
    """Adds the signals of n candidates up.

    Args:
        turn: The turn's share of any of "maxsim", "dense", "lexical": float32 [n] each; a missing one is left
            out and the weights of the others are scaled up to keep their sum.
        weights: See `FusionWeights`.
        lexical_ceiling: The largest BM25 score the query could reach, the unit of the lexical priors.
        context: The context's share of the same signals, to be added to the turn's.
        pooled: float32 [n, dense_dim] for the neighbours' part; None leaves that part out.
        extra: Further parts in units of the score, added last and as they are.

    Returns:
        The scores and their parts.
    """
    present = {name: getattr(weights, name) for name in SIGNALS if name in turn}
    total = sum(present.values()) or 1.0
    n = len(next(iter(turn.values())))
    parts: dict[str, NDArray[np.float64]] = {}
    moved = np.zeros(n)
    for name, weight in present.items():
        unit = max(lexical_ceiling, 1e-6) if name == "lexical" else 1.0
        together, scale = standardise(
            turn[name] + context[name] if context else turn[name],
            prior_mean=weights.prior_mean[name] * unit,
            prior_std=weights.prior_std[name] * unit,
            prior_count=weights.prior_count,
        )
        if context:
            added = context[name]
            share = (added - (added.mean() if n else 0.0)) / scale.std
            together -= share
            moved += weight / total * share
        parts[name] = weight / total * together
    received = np.zeros((n, 2))
    if pooled is not None:
        both = np.stack([sum(parts.values(), start=np.zeros(n)), moved], axis=1)
        received = neighbour_part(both, pooled, count=weights.neighbour_count, share=weights.neighbours)
        parts["neighbours"] = received[:, 0]
    if context:
        own = sum(parts.values(), start=np.zeros(n))
        parts["context"] = _no_wider_than(own, moved + received[:, 1])
    parts.update(extra or {})
    return Fused(score=np.asarray(sum(parts.values(), start=np.zeros(n)), np.float64), parts=parts)


def _no_wider_than(own: NDArray[np.float64], added: NDArray[np.float64]) -> NDArray[np.float64]:
    """`added`, scaled down where its values lie further apart than those of `own`."""
    widest, width = (float(np.ptp(values)) if len(values) else 0.0 for values in (own, added))
    return added * (widest / width) if width > widest else added


def token_weights(idf: NDArray[np.float32], power: float) -> NDArray[np.float32]:
    """MaxSim weight of each query token: rarer words count somewhat more.

    Args:
        idf: float32 [q_len], >= 0; 0 for tokens of stop words and punctuation.
        power: See `FusionWeights.idf_power`.

    Returns:
        float32 [q_len], > 0.
    """
    return np.asarray((0.1 + idf) ** power, np.float32)


def best_first(score: NDArray[np.float64], rows: NDArray[np.int64]) -> NDArray[np.intp]:
    """Positions from best to worst; equal scores by row ascending, so that the order is always the same."""
    return np.lexsort((rows, -score))
