"""The lexical stage beside bm25s: the best 100 of 10,000 and of 100,000 passages, from the words of a question.

bm25s holds its index in memory, with statistics of everything; the product's lies on disk and reckons with what the
asker may read. Which engine was chosen, and why: docs/decisions/0001-lexical-search.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.bench import Bench, say
from benchmarks.corpus import mixed, passages_wanted, questions
from benchmarks.timing import interleaved, percentiles, ratio
from lir_agents import LateInteractionIndex
from lir_agents.stores.bm25 import top

SIZES = (10_000, 100_000)
_QUERIES = 200
_K = 100
_BATCH = 5_000


def run(bench: Bench) -> None:
    """One file a size."""
    for size in SIZES:
        if bench.standing(f"lexical/{size}") is None:
            with mixed(bench, passages_wanted(bench, size)) as index:
                bench.write(f"lexical/{size}", _measure(index, questions(bench, _QUERIES)))


def _measure(index: LateInteractionIndex, queries: Sequence[str]) -> dict[str, Any]:
    lexical, live = index.rooms.lexical, index.rooms.catalog.live()
    texts = _texts(index)
    say(f"{len(texts):,} passages into bm25s")
    taken = interleaved(
        {
            "lexical stage": lambda query: top(lexical.scores_for_text(query, live), _K),
            "bm25s": _bm25s(texts),
        },
        queries,
    )
    return {
        "passages": len(texts),
        "queries": len(queries),
        "latency_ms": percentiles(taken),
        "lexical stage against bm25s": ratio(taken, "lexical stage", "bm25s"),
    }


def _texts(index: LateInteractionIndex) -> list[str]:
    rows = np.flatnonzero(index.rooms.catalog.live()).astype(np.int64)
    batches = (index.rooms.catalog.passages(rows[at : at + _BATCH]) for at in range(0, len(rows), _BATCH))
    return [f"{passage.title}\n{passage.text}" for batch in batches for passage in batch]


def _bm25s(texts: list[str]) -> Callable[[str], object]:
    import bm25s
    import Stemmer

    stemmer, index = Stemmer.Stemmer("english"), bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    index.index(bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False), show_progress=False)

    def search(query: str) -> object:
        words = bm25s.tokenize(query, stopwords="en", stemmer=stemmer, show_progress=False)
        return index.retrieve(words, k=min(_K, len(texts)), show_progress=False)

    return search
