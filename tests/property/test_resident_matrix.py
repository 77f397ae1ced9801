"""The exact scan against brute force, bit for bit, and the integer products beneath it."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lir_agents.stores.scan import ResidentMatrix


def unit(rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
    vectors = rng.standard_normal((count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Table:
    """A source of vectors that counts how often each row was read."""

    def __init__(self, dim: int) -> None:
        self.dim, self.vectors, self.reads = dim, {}, 0

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        self.reads += len(rows)
        missing = np.zeros(self.dim, np.float32)
        return np.array([self.vectors.get(int(row), missing) for row in rows], np.float32).reshape(-1, self.dim)


def oracle(table: Table, query: np.ndarray, k: int, allowed: np.ndarray) -> tuple[list[int], list[float]]:
    pairs = [
        (-float(np.clip(np.einsum("ij,j->i", vector[None], query)[0], -1, 1)), row)
        for row, vector in table.vectors.items()
        if row < len(allowed) and allowed[row]
    ]
    best = sorted(pairs)[:k]
    return [row for _, row in best], [-score for score, _ in best]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    dim=st.sampled_from([1, 2, 7, 16, 65]),
    count=st.integers(0, 300),
    k=st.integers(1, 60),
    share=st.sampled_from([0.02, 0.3, 0.8, 1.0]),
    alike=st.booleans(),
)
def test_the_scan_is_exact_to_the_last_bit(seed, dim, count, k, share, alike) -> None:
    rng = np.random.default_rng(seed)
    table = Table(dim)
    vectors = unit(rng, count, dim)
    if alike and count:  # near-duplicates and exact ones, whose codes cannot tell them apart
        vectors = vectors[:1] + 1e-3 * vectors
        vectors[::3] = vectors[0]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = rng.choice(2 * count + 1, count, replace=False)
    table.vectors = dict(zip(rows.tolist(), vectors, strict=True))
    matrix = ResidentMatrix(dim, table)
    for query in unit(rng, 3, dim):
        allowed = rng.random(2 * count + 3) < share
        got, scores = matrix.search(query, k, allowed)
        expected, expected_scores = oracle(table, query, k, allowed)
        assert got.tolist() == expected
        assert scores.tolist() == expected_scores
        np.testing.assert_array_equal(matrix.scores(query, got), scores)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    dim=st.sampled_from([1, 7, 65]),
    count=st.integers(0, 300),
    vectors=st.integers(0, 11),
    k=st.integers(1, 60),
    share=st.sampled_from([0.3, 0.8, 1.0]),
)
def test_several_vectors_change_no_bit_of_each_other(seed, dim, count, vectors, k, share) -> None:
    rng = np.random.default_rng(seed)
    table = Table(dim)
    table.vectors = dict(enumerate(unit(rng, count, dim)))
    matrix, allowed = ResidentMatrix(dim, table), rng.random(count + 3) < share
    queries = list(unit(rng, vectors, dim))
    for query, (rows, scores) in zip(queries, matrix.search_batch(queries, k, allowed), strict=True):
        alone, alone_scores = matrix.search(query, k, allowed)
        assert (rows.tolist(), scores.tolist()) == (alone.tolist(), alone_scores.tolist())
        assert rows.tolist() == oracle(table, query, k, allowed)[0]


@pytest.mark.parametrize("seed", range(5))
def test_what_the_codes_lose_of_the_query_is_no_reason_to_miss_a_row(seed) -> None:
    """Rows of equal magnitudes lose nothing as codes: between them, only the rounding of the query can mislead."""
    rng, dim = np.random.default_rng(seed), 384
    query = unit(rng, 1, dim)[0]
    step = np.abs(query).max() / 127
    lost = query - (np.rint(query / step) + np.rint((query / step - np.rint(query / step)) * 254) / 254) * step
    best = np.sign(lost) / np.sqrt(dim)
    while True:  # hardly worse than the best, and better by what the two digits keep of the query
        other = np.where(rng.random(dim) < 0.5, best, -best)
        if 0 < (best - other) @ query < 1e-5:
            break
    table = Table(dim)
    table.vectors = dict(enumerate(np.array([other, best, -query, -query, -query], np.float32)))
    allowed = np.ones(5, bool)
    assert ResidentMatrix(dim, table).search(query, 1, allowed)[0].tolist() == oracle(table, query, 1, allowed)[0]


@pytest.mark.parametrize(("dim", "seeds"), [(384, 40), (1536, 60), (2048, 40)])
def test_nearly_equal_components_lose_alike_and_are_no_reason_to_miss_a_row(dim, seeds) -> None:
    """What float32 loses adds up over the dimensions, and codes that lose nothing leave no other room for it."""
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        vectors = np.full((150, dim), 127.0)
        for vector in vectors:
            some = rng.integers(0, dim, rng.integers(1, dim // 100))
            vector[some] = rng.integers(110, 128, len(some))
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        table, allowed = Table(dim), np.ones(150, bool)
        table.vectors = dict(enumerate(vectors))
        matrix, query = ResidentMatrix(dim, lambda rows, vectors=vectors: vectors[rows]), vectors[0]
        assert matrix.search(query, 3, allowed)[0].tolist() == oracle(table, query, 3, allowed)[0]


@pytest.mark.parametrize("sign", [1, -1])
def test_lengths_beyond_one_tie_at_a_cosine_of_one(sign) -> None:
    table, allowed = Table(8), np.ones(6, bool)
    lengths = [1.001, 1.009, 1.009, 1.009, 1.0002, 1.003]
    table.vectors = {row: sign * length * np.eye(8, dtype=np.float32)[0] for row, length in enumerate(lengths)}
    matrix, query = ResidentMatrix(8, table), np.eye(8, dtype=np.float32)[0]
    for k in (1, 2):
        assert matrix.search(query, k, allowed)[0].tolist() == list(range(k))


CHANGE = st.tuples(
    st.sampled_from(["set", "remove", "forget"]), st.lists(st.integers(0, 40), min_size=1, max_size=12)
)


@settings(max_examples=60, deadline=None)
@given(changes=st.lists(CHANGE, max_size=12), seed=st.integers(0, 2**32))
def test_what_was_forgotten_is_read_anew(changes, seed) -> None:
    rng = np.random.default_rng(seed)
    table = Table(8)
    matrix, query = ResidentMatrix(8, table), unit(rng, 1, 8)[0]
    for verb, rows in changes:
        for row in rows:
            if verb == "set":
                table.vectors[row] = unit(rng, 1, 8)[0]
            elif verb == "remove":
                table.vectors.pop(row, None)
        matrix.forget(np.array(rows))
        allowed = rng.random(45) < 0.7
        assert matrix.search(query, 5, allowed)[0].tolist() == oracle(table, query, 5, allowed)[0]


def test_rows_outside_the_mask_change_nothing_to_the_last_bit() -> None:
    rng = np.random.default_rng(1)
    table, crowded = Table(48), Table(48)
    vectors, query = unit(rng, 4000, 48), unit(rng, 1, 48)[0]
    for row in range(4000):
        crowded.vectors[row] = vectors[row]
        if row % 4 == 0:
            table.vectors[row] = vectors[row]
    allowed = np.arange(4000) % 4 == 0
    alone, among = ResidentMatrix(48, table), ResidentMatrix(48, crowded)
    among.search(query, 5, np.ones(4000, bool))
    for one, other in zip(alone.search(query, 100, allowed), among.search(query, 100, allowed), strict=True):
        np.testing.assert_array_equal(one, other)


def test_vectors_are_read_once_and_only_for_masks_that_ask() -> None:
    rng = np.random.default_rng(2)
    table = Table(16)
    table.vectors = dict(enumerate(unit(rng, 1000, 16)))
    matrix, query = ResidentMatrix(16, table), unit(rng, 1, 16)[0]
    first = np.arange(1000) < 400
    matrix.search(query, 3, first)
    assert 400 <= table.reads < 500  # the rows, and some again for exact scores
    before = table.reads
    matrix.search(query, 3, first)
    assert table.reads - before < 100


def test_memory_is_what_is_promised() -> None:
    count, dim = 20_000, 384
    rng = np.random.default_rng(3)
    block = unit(rng, 1000, dim)
    matrix = ResidentMatrix(dim, lambda rows: block[rows % 1000])
    for part in range(1, 11):
        matrix.search(block[0], 10, np.arange(count * part // 10) >= 0)
    assert matrix.nbytes <= 1.25 * count * (dim + 20)
    assert matrix.nbytes * 100_000 / count <= 80_000_000 * 0.7
    matrix.forget(np.arange(count - count // 4))
    assert matrix.nbytes < 100


def test_searches_stay_exact_while_rows_come_and_go() -> None:
    rng = np.random.default_rng(4)
    table, dim = Table(16), 16
    vectors = unit(rng, 3000, dim)
    table.vectors = dict(enumerate(vectors[:500]))
    matrix, query = ResidentMatrix(dim, table), unit(rng, 1, dim)[0]
    stable = np.arange(500) % 2 == 0
    expected = oracle(table, query, 20, stable)[0]
    stop, failures = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            got = matrix.search(query, 20, stable)[0].tolist()
            if got != expected:
                failures.append(got)

    readers = [threading.Thread(target=read) for _ in range(8)]
    for reader in readers:
        reader.start()
    for start in range(500, 3000, 100):
        table.vectors.update({row: vectors[row] for row in range(start, start + 100)})
        matrix.search(query, 5, np.arange(start + 100) >= 0)
        matrix.forget(np.arange(1, start, 2))
    stop.set()
    for reader in readers:
        reader.join()
    assert failures == []
