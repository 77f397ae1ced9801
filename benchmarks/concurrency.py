"""Eight threads that search one index at once, beside one thread: searches a second, and what the slowest wait.

The two take turns, round by round, over the same questions; a ratio comes from each round.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from benchmarks.bench import Bench
from benchmarks.corpus import mixed, passages_wanted, questions
from lir_agents import LateInteractionIndex

PASSAGES = 10_000
THREADS = 8
_QUERIES = 200
_ROUNDS = 9


def run(bench: Bench) -> None:
    """One file."""
    if bench.standing("concurrency/threads") is not None:
        return
    with mixed(bench, passages_wanted(bench, PASSAGES)) as index:
        bench.write("concurrency/threads", _measure(index, questions(bench, _QUERIES), bench.limit or _ROUNDS))


def _measure(index: LateInteractionIndex, queries: Sequence[str], rounds: int) -> dict[str, Any]:
    per_second: dict[int, list[float]] = {1: [], THREADS: []}
    waited: dict[int, list[float]] = {1: [], THREADS: []}
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(THREADS) as many:
        for pool in (one, many):
            _searches(index, pool, queries[:THREADS])  # what each thread sets up once is no part of it
        for at in range(rounds):
            for threads, pool in ((1, one), (THREADS, many))[:: 1 if at % 2 == 0 else -1]:
                taken, whole_s = _searches(index, pool, queries)
                waited[threads] += taken
                per_second[threads].append(len(queries) / whole_s)
    gained = np.asarray(per_second[THREADS]) / np.asarray(per_second[1])
    return {
        "passages": index.stats()["live_passages"],
        "threads": THREADS,
        "searches": len(queries) * rounds,
        "per_second": {str(threads): float(np.median(each)) for threads, each in per_second.items()},
        "latency_ms": {str(threads): _tail(each) for threads, each in waited.items()},
        "throughput": {
            "ratio": float(np.median(gained)),
            "low": float(np.percentile(gained, 25)),
            "high": float(np.percentile(gained, 75)),
        },
        "p99 against p50": float(np.percentile(waited[THREADS], 99) / np.median(waited[THREADS])),
    }


def _searches(
    index: LateInteractionIndex, pool: ThreadPoolExecutor, queries: Sequence[str]
) -> tuple[list[float], float]:
    """Milliseconds of each search, and seconds of all together."""

    def search(query: str) -> float:
        start = time.perf_counter()
        index.search(query, k=10)
        return (time.perf_counter() - start) * 1000

    start = time.perf_counter()
    taken = list(pool.map(search, queries))
    return taken, time.perf_counter() - start


def _tail(taken: Sequence[float]) -> dict[str, float]:
    middle, most, last = np.percentile(taken, (50, 95, 99)).tolist()
    return {"p50": middle, "p95": most, "p99": last}
