"""How a search grows: 1,000, 10,000 and 100,000 passages through the whole product, and a million where it counts.

The three sizes are nested samples of one corpus, open in one process, and take turns. A million passages are made:
their vectors are those of real passages, perturbed, in the product's own token store and vector scan; what is not
measured there is projected along the line through the two largest sizes. Every question is asked twice: what is
said of warm searches is the second time, when the token vectors that it reads are in memory.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from functools import partial
from typing import Any

from benchmarks.bench import Bench, say
from benchmarks.corpus import mixed, passages_wanted, questions
from benchmarks.timing import interleaved, percentiles, ratio
from lir_agents import LateInteractionIndex, SearchResult

SIZES = (1_000, 10_000, 100_000)
_QUERIES = 150


def run(bench: Bench) -> None:
    """Two files: curve, million."""
    curve = bench.standing("scale/curve")
    if curve is None:
        curve = bench.write("scale/curve", _curve(bench))
    if bench.standing("scale/million") is None:
        from benchmarks.million import measure

        bench.write("scale/million", measure(bench, curve))


def _curve(bench: Bench) -> dict[str, Any]:
    queries = questions(bench, _QUERIES)
    with ExitStack() as opened:
        indexes = {str(size): opened.enter_context(mixed(bench, passages_wanted(bench, size))) for size in SIZES}
        asked = {size: _Asked(index) for size, index in indexes.items()}
        say(f"{len(queries)} questions of {', '.join(indexes)} passages")
        systems = {size: one.search for size, one in asked.items()}
        first = percentiles(interleaved(systems, queries))
        for one in asked.values():
            one.timings.clear()
        taken = interleaved(systems, queries)
        held = {size: index.stats()["live_passages"] for size, index in indexes.items()}
        sizes = {size: _sizes(index) for size, index in indexes.items()}
    middle, large = (str(size) for size in SIZES[1:])
    return {
        "passages": held,
        "queries": len(queries),
        "latency_ms": percentiles(taken),
        "asked_first_ms": first,
        "stages_ms": {size: one.stages() for size, one in asked.items()},
        "bytes": sizes,
        "largest against the one before": ratio(taken, large, middle),
    }


class _Asked:
    """Searches one index and keeps what its stages took."""

    def __init__(self, index: LateInteractionIndex) -> None:
        self._search = partial(index.search, k=10)
        self.timings: dict[str, list[float]] = {}

    def search(self, query: str) -> SearchResult:
        result = self._search(query)
        for stage, taken in result.timings_ms.items():
            self.timings.setdefault(stage, []).append(taken)
        return result

    def stages(self) -> dict[str, float]:
        """Median of each stage."""
        return {stage: statistics.median(taken) for stage, taken in self.timings.items()}


def _sizes(index: LateInteractionIndex) -> dict[str, int]:
    stats = index.stats()
    return {"tokens": stats["token_bytes"], "disk": stats["disk_bytes"]}
