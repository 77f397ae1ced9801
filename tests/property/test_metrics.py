"""The metrics against trec_eval's own code (through ir-measures), and their invariants."""

from __future__ import annotations

import ir_measures
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lir_agents.evaluation.metrics import METRICS, by_score, mean, ndcg, recall, reciprocal_rank, score_query

ORACLE = {
    "nDCG@10": ir_measures.nDCG @ 10,
    "Recall@5": ir_measures.R @ 5,
    "Recall@10": ir_measures.R @ 10,
    "Recall@100": ir_measures.R @ 100,
}
documents = st.integers(0, 40).map(lambda number: f"d{number}")
# Few distinct scores: most runs hold ties, which trec_eval breaks by document id.
runs = st.dictionaries(
    st.sampled_from(["q1", "q2", "q3", "q4"]),
    st.dictionaries(documents, st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=40),
    min_size=1,
)
judgements = st.dictionaries(
    st.sampled_from(["q1", "q2", "q3", "q5"]),
    st.dictionaries(documents, st.integers(0, 3), min_size=1, max_size=30),
    min_size=1,
)


def _ours(qrels: dict[str, dict[str, int]], run: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {query: score_query(by_score(run.get(query, {})), judged) for query, judged in qrels.items()}


@given(qrels=judgements, run=runs)
@settings(max_examples=150, deadline=None)
def test_every_query_scores_as_in_trec_eval(
    qrels: dict[str, dict[str, int]], run: dict[str, dict[str, float]]
) -> None:
    ours = _ours(qrels, run)
    names = {str(measure): name for name, measure in ORACLE.items()}
    for found in ir_measures.iter_calc(ORACLE.values(), qrels, run):
        assert ours[found.query_id][names[str(found.measure)]] == pytest.approx(found.value, abs=1e-9)


@given(qrels=judgements, run=runs)
@settings(max_examples=100, deadline=None)
def test_means_keep_unanswered_queries_as_zeros(
    qrels: dict[str, dict[str, int]], run: dict[str, dict[str, float]]
) -> None:
    ours = _ours(qrels, run)
    theirs = ir_measures.calc_aggregate(ORACLE.values(), qrels, run)
    for name, measure in ORACLE.items():
        assert mean([ours[query][name] for query in qrels]) == pytest.approx(theirs[measure], abs=1e-9)


@given(qrels=judgements, run=runs, k=st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_reciprocal_rank_is_that_of_the_first_k_alone(
    qrels: dict[str, dict[str, int]], run: dict[str, dict[str, float]], k: int
) -> None:
    first = {query: by_score(scores)[:k] for query, scores in run.items()}
    cut = {query: {doc: float(-place) for place, doc in enumerate(docs)} for query, docs in first.items()}
    for found in ir_measures.iter_calc([ir_measures.RR], qrels, cut):
        ours = reciprocal_rank(by_score(run.get(found.query_id, {})), qrels[found.query_id], k)
        assert ours == pytest.approx(found.value, abs=1e-9)


@given(
    ranking=st.lists(documents, unique=True, max_size=120),
    judged=st.dictionaries(documents, st.integers(-1, 3)),
)
def test_every_metric_lies_between_zero_and_one(ranking: list[str], judged: dict[str, int]) -> None:
    scores = score_query(ranking, judged)
    assert tuple(scores) == METRICS
    assert all(0.0 <= value <= 1.0 + 1e-12 for value in scores.values())


@given(judged=st.dictionaries(documents, st.integers(0, 3), min_size=1))
def test_the_ideal_order_is_perfect(judged: dict[str, int]) -> None:
    ideal = sorted(judged, key=lambda document: -judged[document])
    relevant = any(judged.values())
    assert ndcg(ideal, judged, 10) == pytest.approx(1.0 if relevant else 0.0)
    assert recall(ideal, judged, len(ideal)) == (1.0 if relevant else 0.0)
    assert reciprocal_rank(ideal, judged, 10) == (1.0 if relevant else 0.0)


def test_graded_gain_by_hand() -> None:
    # gains 1, 0, 3 at ranks 1, 2, 3: 1/1 + 3/2; ideal 3/1 + 1/log2(3)
    assert ndcg(["a", "x", "b"], {"a": 1, "b": 3}, 10) == pytest.approx(2.5 / (3 + 1 / 1.584962500721156))
