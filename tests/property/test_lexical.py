"""Lexical search: what holds for any corpus, any scope and any history. Plain Python is the oracle."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lir_agents.stores.bm25 import Bm25, top
from lir_agents.stores.lexical import LmdbLexical
from lir_agents.stores.postings import BLOCK

WORDS = ["kiwi", "lemon", "mango", "node", "19.9.0", "max_row", "東京"]
# Rows at both sides of a border between blocks, so that terms span several entries.
ROW = st.sampled_from([0, 1, 2, 3, 7, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5])
TEXT = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)
CORPUS = st.dictionaries(ROW, TEXT, max_size=7)
QUERY = st.lists(st.tuples(st.sampled_from([*WORDS, "durian", "max", "京"]), st.floats(0, 4)), max_size=6)
LENGTH = 2 * BLOCK + 9


def mask(rows, length: int = LENGTH) -> np.ndarray:
    bitmap = np.zeros(length, bool)
    bitmap[[row for row in rows if row < length]] = True
    return bitmap


def add(store: LmdbLexical, corpus: dict[int, str]) -> None:
    store.add(np.array(list(corpus), np.int64), list(corpus.values()))


def oracle(store: LmdbLexical, corpus: dict[int, str], query, scope, bm25: Bm25) -> dict[int, float]:
    """The formula, term by term and passage by passage, over the passages of the scope alone."""
    counts = {row: Counter(store.analyze(text)) for row, text in corpus.items() if row in scope}
    lengths = {row: count.total() for row, count in counts.items()}
    mean = sum(lengths.values()) / len(lengths) if any(lengths.values()) else 1.0
    scores: dict[int, float] = dict.fromkeys(counts, 0.0)
    for term, weight in query:
        df = sum(term in count for count in counts.values())
        idf = math.log(1 + (len(counts) - df + 0.5) / (df + 0.5))
        for row, count in counts.items():
            norm = bm25.k1 * (1 - bm25.b + bm25.b * lengths[row] / mean)
            if count[term]:
                scores[row] += weight * idf * count[term] / (count[term] + norm)
    return scores


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """Opens an empty store; all are closed at the end of the module."""
    opened: list[LmdbLexical] = []

    def make(bm25: Bm25 | None = None, path: Path | None = None) -> LmdbLexical:
        opened.append(LmdbLexical.open(path or tmp_path_factory.mktemp("lexical"), bm25=bm25))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


STEP = st.one_of(
    st.tuples(st.just("add"), CORPUS),
    st.tuples(st.just("delete"), st.lists(ROW, max_size=4)),
    st.tuples(st.sampled_from(["compact", "reopen"]), st.none()),
)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(STEP, max_size=6),
    query=QUERY,
    scope=st.sets(ROW),
    bm25=st.builds(Bm25, k1=st.floats(0, 3), b=st.floats(0, 1)),
)
def test_scores_are_the_formula_over_the_scope_after_any_history(
    fresh, tmp_path_factory, steps, query, scope, bm25
):
    path = tmp_path_factory.mktemp("history")
    store, corpus = fresh(bm25, path), {}
    for verb, what in steps:
        if verb == "add":
            add(store, what)
            corpus.update(what)
        elif verb == "delete":
            store.delete(np.array(what, np.int64))
            corpus = {row: text for row, text in corpus.items() if row not in what}
        elif verb == "compact":
            store.compact()
        else:
            store.close()
            store = fresh(bm25, path)
    expected = np.zeros(LENGTH)
    for row, score in oracle(store, corpus, query, scope, bm25).items():
        expected[row] = score
    np.testing.assert_allclose(store.scores(query, mask(scope)), expected, rtol=2e-5, atol=1e-7)
    assert store.rows().tolist() == sorted(corpus)
    assert store.verify() == []


@settings(max_examples=60, deadline=None)
@given(inside=CORPUS, outside=CORPUS, later=CORPUS, query=QUERY)
def test_what_lies_outside_the_scope_changes_no_bit(fresh, inside, outside, later, query):
    scope = mask(inside)
    outside = {row: text for row, text in outside.items() if row not in inside}
    later = {row: text for row, text in later.items() if row not in inside}
    alone, mixed = fresh(), fresh()
    add(alone, inside)
    add(mixed, outside | inside)
    terms = [term for term, _ in query]

    def assert_same() -> None:
        assert mixed.scores(query, scope).tobytes() == alone.scores(query, scope).tobytes()
        assert mixed.idf(terms, scope).tobytes() == alone.idf(terms, scope).tobytes()

    assert_same()
    add(mixed, later)
    assert_same()
    mixed.delete(np.array(list(outside), np.int64))
    assert_same()


@settings(max_examples=30, deadline=None)
@given(first=CORPUS, second=CORPUS, gone=st.sets(ROW))
def test_the_file_holds_the_same_whatever_the_order_of_changes(fresh, first, second, gone):
    eventful, direct = fresh(), fresh()
    add(eventful, second)
    add(eventful, first)
    eventful.delete(np.array(sorted(gone), np.int64))
    add(eventful, second)
    remaining = {row: text for row, text in first.items() if row not in gone} | second
    for row, text in remaining.items():
        add(direct, {row: text})
    assert entries(eventful) == entries(direct)


def entries(store: LmdbLexical) -> dict[tuple[bytes, bytes], bytes]:
    """All that the file holds but the counter of changes."""
    with store._file.reading("test") as (txn, databases):
        return {
            (name, bytes(key)): bytes(value)
            for name, database in databases.items()
            for key, value in txn.cursor(database)
            if bytes(key) != b"revision"
        }


@settings(max_examples=30, deadline=None)
@given(corpus=CORPUS, query=QUERY, data=st.data())
def test_terms_may_come_in_any_order_and_in_parts(fresh, corpus, query, data):
    store = fresh()
    add(store, corpus)
    everything = mask(corpus)
    shuffled = data.draw(st.permutations(query))
    assert store.scores(query, everything).tobytes() == store.scores(iter(shuffled), everything).tobytes()
    halves = [(term, weight / 2) for term, weight in query for _ in range(2)]
    np.testing.assert_allclose(store.scores(halves, everything), store.scores(query, everything), rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(corpus=CORPUS, length=st.integers(0, LENGTH), extra=st.integers(0, 50))
def test_a_mask_may_be_shorter_or_longer_than_the_rows_held(fresh, corpus, length, extra):
    store = fresh()
    add(store, corpus)
    query = [(word, 1.0) for word in WORDS]
    short = store.scores(query, mask(corpus, length))
    assert len(short) == length
    within = fresh()
    add(within, {row: text for row, text in corpus.items() if row < length})
    assert short.tobytes() == within.scores(query, np.ones(length, bool)).tobytes()
    longer = store.scores(query, mask(corpus, LENGTH + extra))
    assert longer[:LENGTH].tobytes() == store.scores(query, mask(corpus)).tobytes()
    assert not longer[LENGTH:].any()


@given(
    scores=st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0]), max_size=40),
    k=st.integers(1, 45),
)
def test_top_is_a_sort_by_score_then_row_without_zeros(scores, k):
    rows, best = top(np.array(scores, np.float32), k)
    expected = sorted((-score, row) for row, score in enumerate(scores) if score > 0)[:k]
    assert list(zip((-best).tolist(), rows.tolist(), strict=True)) == expected
    assert rows.dtype == np.int64
