"""Milliseconds of what takes turns in one process, and ratios of their medians with what chance leaves of them.

What is compared takes turns, so that whatever else the machine does slows both alike. A ratio's interval comes from
drawing rounds anew (bootstrap): a round holds one call of each, so that the pairing is kept.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

_DRAWS = 2000
_INTERVAL = (2.5, 97.5)

Taken = Mapping[str, Sequence[float]]
"""Milliseconds of every call by system; the same position is the same round."""


def interleaved(systems: Mapping[str, Callable[[Any], object]], inputs: Sequence[Any]) -> dict[str, list[float]]:
    """Milliseconds of every call; for each input every system once, in an order that turns round each time."""
    for call in systems.values():
        call(inputs[0])
    taken: dict[str, list[float]] = {name: [] for name in systems}
    order = list(systems.items())
    for given in inputs:
        for name, call in order:
            start = time.perf_counter()
            call(given)
            taken[name].append((time.perf_counter() - start) * 1000)
        order = order[::-1]
    return taken


def percentiles(taken: Taken) -> dict[str, dict[str, float]]:
    """p50 and p95 of each, and the quartiles between which half of its calls lie."""
    return {name: _summary(values) for name, values in taken.items()}


def _summary(values: Sequence[float]) -> dict[str, float]:
    low, high, most = np.percentile(values, (25, 75, 95)).tolist()
    return {"p50": statistics.median(values), "p95": most, "q1": low, "q3": high}


def ratio(taken: Taken, of: str, to: str) -> dict[str, float]:
    """Median of `of` divided by the median of `to`, with its 95 % interval."""
    over, under = np.asarray(taken[of]), np.asarray(taken[to])
    drawn = np.random.default_rng(0).integers(0, len(over), (_DRAWS, len(over)))
    spread = np.median(over[drawn], axis=1) / np.median(under[drawn], axis=1)
    low, high = np.percentile(spread, _INTERVAL).tolist()
    return {"ratio": float(np.median(over) / np.median(under)), "low": low, "high": high}


def ratios(taken: Taken, to: str) -> dict[str, dict[str, float]]:
    """`ratio` of every other system to this one."""
    return {name: ratio(taken, name, to) for name in taken if name != to}
