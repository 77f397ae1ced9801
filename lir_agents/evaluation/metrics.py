"""Ranking metrics as trec_eval computes them: nDCG with linear gain, Recall and reciprocal rank with a cut-off.

A document that nobody judged counts as not relevant; relevant means a judgement of 1 or more. A query without
a relevant document scores 0, and a query that a system did not answer scores 0 and stays in the mean.
Source: NIST trec_eval, measures `ndcg_cut`, `recall` and `recip_rank`; Järvelin and Kekäläinen (2002).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

__all__ = ["METRICS", "by_score", "mean", "ndcg", "recall", "reciprocal_rank", "score_query"]

METRICS = ("nDCG@10", "Recall@5", "Recall@10", "Recall@100", "MRR@10")


def by_score(scores: Mapping[str, float]) -> list[str]:
    """Document ids in trec_eval's order: higher scores first, ties by id from the end of the alphabet."""
    return sorted(scores, key=lambda document: (scores[document], document), reverse=True)


def _gain(levels: Sequence[int]) -> float:
    return sum(max(level, 0) / math.log2(rank + 1) for rank, level in enumerate(levels, start=1))


def ndcg(ranking: Sequence[str], judged: Mapping[str, int], k: int) -> float:
    """Discounted cumulative gain of the first k, against that of the best order possible; in [0, 1]."""
    ideal = _gain(sorted(judged.values(), reverse=True)[:k])
    return _gain([judged.get(document, 0) for document in ranking[:k]]) / ideal if ideal > 0 else 0.0


def recall(ranking: Sequence[str], judged: Mapping[str, int], k: int) -> float:
    """Share of the relevant documents that are among the first k; in [0, 1]."""
    relevant = {document for document, level in judged.items() if level >= 1}
    return len(relevant.intersection(ranking[:k])) / len(relevant) if relevant else 0.0


def reciprocal_rank(ranking: Sequence[str], judged: Mapping[str, int], k: int) -> float:
    """1 / rank of the first relevant document among the first k; 0 where there is none."""
    ranks = (rank for rank, document in enumerate(ranking[:k], start=1) if judged.get(document, 0) >= 1)
    return 1.0 / next(ranks, math.inf)


def score_query(ranking: Sequence[str], judged: Mapping[str, int]) -> dict[str, float]:
    """Every metric of `METRICS` for one query. `ranking` holds each document at most once, best first."""
    return {
        "nDCG@10": ndcg(ranking, judged, 10),
        "Recall@5": recall(ranking, judged, 5),
        "Recall@10": recall(ranking, judged, 10),
        "Recall@100": recall(ranking, judged, 100),
        "MRR@10": reciprocal_rank(ranking, judged, 10),
    }


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean; 0 for no values."""
    return math.fsum(values) / len(values) if values else 0.0
