"""Is a difference between two systems more than luck? Paired randomisation test and bootstrap interval.

Sources: Smucker, Allan and Carterette (CIKM 2007) on the randomisation test for retrieval; Efron and
Tibshirani (1993) on the percentile bootstrap; Phipson and Smyth (2010) on counting the observed arrangement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lir_agents.errors import InputError

__all__ = ["Comparison", "compare"]

_EXACT = 16
"""Up to this many differing pairs every arrangement is counted (2^16 of them), beyond it they are sampled."""

_ROUNDING = 1e-12
"""Sums of the same numbers in another order differ by this much and are ties, not wins."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How much better the first system is than the second.

    Attributes:
        difference: Mean of the paired differences, first minus second.
        p_value: Two-sided, of the paired randomisation test; in (0, 1].
        low: Lower end of the 95 % bootstrap interval of `difference`.
        high: Its upper end.
        queries: Number of pairs.
    """

    difference: float
    p_value: float
    low: float
    high: float
    queries: int


def compare(
    first: Sequence[float], second: Sequence[float], *, resamples: int = 10_000, seed: int = 0
) -> Comparison:
    """Compares two systems over the same queries, in the same order.

    Args:
        first: The metric of one system, per query.
        second: The metric of the other.
        resamples: Arrangements drawn where they are too many to count, and bootstrap samples.
        seed: Makes the sampled parts repeatable.

    Raises:
        InputError: The two differ in length, or are empty.
    """
    if len(first) != len(second) or not first:
        raise InputError(
            f"{len(first)} and {len(second)} values cannot be paired",
            field="second",
            remedy="Compare over the same queries, at least one.",
        )
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    rng = np.random.default_rng(seed)
    p_value = _randomisation(differences[differences != 0.0], resamples, rng)
    low, high = np.percentile(_bootstrap_means(differences, resamples, rng), [2.5, 97.5])
    return Comparison(float(differences.mean()), p_value, float(low), float(high), len(first))


def _randomisation(differences: NDArray[np.float64], resamples: int, rng: np.random.Generator) -> float:
    """P-value of |sum| when each sign is a coin toss. Equal pairs carry no sign and are left out before."""
    n = len(differences)
    observed = abs(differences.sum()) - _ROUNDING
    if n <= _EXACT:
        bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        return float(np.mean(np.abs((1.0 - 2.0 * bits) @ differences) >= observed))
    extreme = 0
    for chunk in _chunks(resamples, n):
        signs = rng.integers(0, 2, size=(chunk, n), dtype=np.int8).astype(np.float64) * 2.0 - 1.0
        extreme += int(np.count_nonzero(np.abs(signs @ differences) >= observed))
    return (extreme + 1) / (resamples + 1)


def _bootstrap_means(
    differences: NDArray[np.float64], resamples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    n = len(differences)
    means = [differences[rng.integers(0, n, size=(chunk, n))].mean(axis=1) for chunk in _chunks(resamples, n)]
    return np.concatenate(means)


def _chunks(total: int, width: int) -> list[int]:
    """Sizes that sum to `total`, each a block of at most about a million numbers of the given width."""
    size = max(1, 1_000_000 // max(1, width))
    return [min(size, total - start) for start in range(0, total, size)]
