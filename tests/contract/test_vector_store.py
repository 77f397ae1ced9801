"""What every vector store must do: embedded Chroma, Chroma reading exact vectors from LMDB, and a Chroma server."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lir_agents.arrays import PackedTokens
from lir_agents.codes import TokenCodec
from lir_agents.errors import InputError, IntegrityError, StoreError
from lir_agents.stores import vectors as stores_vectors
from lir_agents.stores.chroma import ChromaCollection
from lir_agents.stores.tokens import LmdbTokens
from lir_agents.stores.vectors import ChromaVectors

DIM = 24


def unit(count: int, seed: int, dim: int = DIM) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def mask(rows, size: int | None = None) -> np.ndarray:
    rows = np.asarray(rows, np.int64)
    result = np.zeros(size or int(rows.max(initial=-1)) + 1, bool)
    result[rows] = True
    return result


def brute_force(held: dict[int, np.ndarray], query: np.ndarray, k: int, allowed=None) -> list[int]:
    rows = sorted(row for row in held if allowed is None or (row < len(allowed) and allowed[row]))
    scores = {row: float(held[row] @ query) for row in rows}
    return sorted(rows, key=lambda row: (-scores[row], row))[:k]


# ---------------------------------------------------------------- three stores


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[int]:
    """The port of a real `chroma run` on loopback."""
    command = shutil.which("chroma", path=str(Path(sys.executable).parent)) or shutil.which("chroma")
    if command is None:
        pytest.skip("the chroma command is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            command,
            "run",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--path",
            str(tmp_path_factory.mktemp("served")),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.skip("chroma run does not start on this machine")
                time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(10)


class Bench:
    """A store and what must be done beside it so that its source knows the vectors."""

    def __init__(self, store: ChromaVectors, tokens: LmdbTokens | None = None) -> None:
        self.store, self.tokens = store, tokens

    def add(self, rows, vectors: np.ndarray) -> None:
        rows = np.asarray(rows, np.int64)
        if self.tokens is not None:
            n = len(rows)
            ones = PackedTokens(np.ones((n, 1), np.uint8), np.arange(n + 1), TokenCodec(2))
            self.tokens.put(rows, ones, vectors)
        self.store.upsert(rows, vectors, [1] * len(rows))

    def stored(self, held: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
        """The vectors as the store's source returns them: LMDB keeps halves, and near-ties can turn."""
        if self.tokens is None:
            return held
        return {row: self.tokens.pooled(np.array([row]))[0] for row in held}

    def delete(self, rows) -> None:
        rows = np.asarray(rows, np.int64)
        self.store.delete(rows)
        if self.tokens is not None:
            self.tokens.delete(rows)


@pytest.fixture(params=["embedded", "embedded+tokens", "server"])
def make(request, tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    opened: list[Bench] = []

    def build(dim: int = DIM, **options) -> Bench:
        if request.param == "server":
            port = request.getfixturevalue("server")
            bench = Bench(ChromaVectors.connect("127.0.0.1", port, f"c-{uuid.uuid4().hex}", dim, **options))
        else:
            home = tmp_path / str(len(opened))
            tokens = (
                LmdbTokens.open(home / "tokens", TokenCodec(2), dim) if request.param == "embedded+tokens" else None
            )
            source = tokens.pooled if tokens else None
            bench = Bench(ChromaVectors.open(home / "vectors", dim, source=source, **options), tokens)
        opened.append(bench)
        return bench

    yield build
    for bench in opened:
        bench.store.close()
        if bench.tokens:
            bench.tokens.close()


# ---------------------------------------------------------------- the contract


def test_finds_the_nearest_with_their_cosines(make) -> None:
    bench, vectors = make(), unit(300, 0)
    bench.add(range(300), vectors)
    query = unit(1, 1)[0]
    rows, scores = bench.store.search(query, 10, None)
    assert rows.tolist() == brute_force(bench.stored(dict(enumerate(vectors))), query, 10)
    assert rows.dtype == np.int64
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, vectors[rows] @ query, atol=1e-4)
    np.testing.assert_array_equal(bench.store.scores(query, rows), scores)
    np.testing.assert_allclose(bench.store.scores(query * 7, rows), scores, atol=1e-6)


def test_hnsw_and_scan_agree_on_order_and_scores(make) -> None:
    vectors, query = unit(800, 2), unit(1, 3)[0]
    by_hnsw, by_scan = make(hnsw_above=100), make(hnsw_above=10_000)
    for bench in (by_hnsw, by_scan):
        bench.add(range(800), vectors)
    everything = mask(range(800), 2000)
    for allowed in (None, everything):
        rows, scores = by_hnsw.store.search(query, 20, allowed)
        expected, expected_scores = by_scan.store.search(query, 20, allowed)
        np.testing.assert_array_equal(rows, expected)
        np.testing.assert_array_equal(scores, expected_scores)


def test_a_mask_is_searched_exactly(make) -> None:
    bench, vectors = make(hnsw_above=100), unit(1500, 4)
    bench.add(range(1500), vectors)
    held = bench.stored(dict(enumerate(vectors)))
    for selectivity in (0.9, 0.5, 0.1, 0.01, 0.001):
        allowed = np.random.default_rng(5).random(1500) < selectivity
        for query in unit(3, 6):
            rows, _ = bench.store.search(query, 50, allowed)
            assert rows.tolist() == brute_force(held, query, 50, allowed)


@pytest.mark.parametrize(("ways", "by_index"), [((), True), (("portable",), True), (("portable", "avx2"), False)])
def test_the_index_of_chroma_takes_over_sooner_where_the_scan_is_slow(tmp_path, monkeypatch, ways, by_index):
    monkeypatch.setattr(stores_vectors, "paths", lambda: ways)
    monkeypatch.setattr(stores_vectors, "_HNSW_ABOVE", 100)
    monkeypatch.setattr(stores_vectors, "_HNSW_ABOVE_SLOW", 20)
    asked, nearest = [], ChromaCollection.nearest
    monkeypatch.setattr(ChromaCollection, "nearest", lambda *given: (asked.append(given), nearest(*given))[1])
    vectors = unit(60, 3)
    with closing(ChromaVectors.open(tmp_path / "v", DIM)) as store:
        store.upsert(np.arange(60), vectors, [0] * 60)
        assert store.search(vectors[7], 1, None)[0].tolist() == [7]
    assert bool(asked) == by_index


@pytest.mark.parametrize("hnsw_above", [100, 10_000], ids=["hnsw", "scan"])
def test_several_at_once_find_what_each_finds_alone(make, hnsw_above) -> None:
    bench, vectors = make(hnsw_above=hnsw_above), unit(900, 12)
    bench.add(range(900), vectors)
    queries = [*(unit(9, 13) * 3), vectors[4]]
    for allowed in (None, mask(range(900)), np.random.default_rng(14).random(900) < 0.2, mask([7, 9])):
        together = bench.store.search_batch(queries, 15, allowed)
        assert len(together) == len(queries)
        for query, (rows, scores) in zip(queries, together, strict=True):
            expected, expected_scores = bench.store.search(query, 15, allowed)
            np.testing.assert_array_equal(rows, expected)
            np.testing.assert_array_equal(scores, expected_scores)
    assert bench.store.search_batch([], 5, None) == []
    with pytest.raises(InputError) as caught:
        bench.store.search_batch([queries[0], np.zeros(DIM, np.float32)], 5, None)
    assert caught.value.field == "vector"


def test_nothing_outside_the_mask_shows(make) -> None:
    query, vectors = unit(1, 7)[0], unit(400, 8)
    allowed = mask(range(0, 400, 2))
    alone, crowded = make(), make()
    alone.add(range(0, 400, 2), vectors[::2])
    crowded.add(range(400), vectors)
    crowded.add(range(1000, 1100), np.tile(query, (100, 1)))  # the best of all, and not readable
    rows, scores = alone.store.search(query, 30, allowed)
    got, got_scores = crowded.store.search(query, 30, allowed)
    np.testing.assert_array_equal(got, rows)
    np.testing.assert_array_equal(got_scores, scores)


def test_ties_go_by_row(make) -> None:
    bench, one = make(), unit(1, 9)
    bench.add([40, 7, 23, 5], np.tile(one, (4, 1)))
    assert bench.store.search(one[0], 3, None)[0].tolist() == [5, 7, 23]


def test_the_edges_of_k_and_of_masks(make) -> None:
    bench, query = make(), unit(1, 1)[0]
    for allowed in (None, mask([]), mask([3], 10)):
        rows, scores = bench.store.search(query, 5, allowed)
        assert (len(rows), len(scores)) == (0, 0)
    bench.add([2, 5], unit(2, 0))
    assert sorted(bench.store.search(query, 1000, None)[0]) == [2, 5]
    assert bench.store.search(query, 1000, mask([5, 900]))[0].tolist() == [5]
    assert bench.store.search(query, 1000, mask([2]))[0].tolist() == [2]  # a row beyond the mask is not in it
    assert bench.store.search(query, 5, np.zeros(9, bool))[0].tolist() == []
    with pytest.raises(InputError) as caught:
        bench.store.search(query, 0, None)
    assert caught.value.field == "k"


def test_replacing_and_deleting(make) -> None:
    bench, vectors = make(), unit(20, 10)
    bench.add(range(10), vectors[:10])
    assert bench.store.search(vectors[0], 1, None)[0].tolist() == [0]
    bench.add([0], vectors[15:16])  # Chroma's own `add` would keep the old one without a word
    assert bench.store.search(vectors[15], 1, None)[0].tolist() == [0]
    assert bench.store.scores(vectors[15], np.array([0]))[0] == pytest.approx(1, abs=1e-4)
    bench.delete([0, 3, 999])
    assert bench.store.rows().tolist() == [1, 2, 4, 5, 6, 7, 8, 9]
    assert 0 not in bench.store.search(vectors[15], 20, None)[0]
    assert 3 not in bench.store.search(vectors[3], 20, mask(range(20)))[0]
    assert bench.store.scores(vectors[3], np.array([3, 1]))[0] == 0.0


def test_more_than_one_batch(make) -> None:
    bench = make(dim=2)
    angles = np.linspace(0, np.pi, 6000)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    bench.add(range(6000), vectors)
    assert len(bench.store.rows()) == 6000
    bench.delete(range(0, 6000, 2))
    assert bench.store.rows().tolist() == list(range(1, 6000, 2))


STEP = st.tuples(st.sampled_from(["add", "delete", "search"]), st.lists(st.integers(0, 30), min_size=1, max_size=8))


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, max_size=10))
def test_any_history_is_searched_as_brute_force_would(make, steps) -> None:
    bench, held, query = make(), {}, unit(1, 99)[0]
    for number, (verb, rows) in enumerate(steps):
        rows = list(dict.fromkeys(rows))
        if verb == "add":
            vectors = unit(len(rows), number)
            bench.add(rows, vectors)
            held.update(zip(rows, vectors, strict=True))
        elif verb == "delete":
            bench.delete(rows)
            for row in rows:
                held.pop(row, None)
        else:
            allowed = mask(rows)
            assert bench.store.search(query, 4, allowed)[0].tolist() == brute_force(
                bench.stored(held), query, 4, allowed
            )
    assert bench.store.rows().tolist() == sorted(held)
    assert bench.store.search(query, 5, None)[0].tolist() == brute_force(bench.stored(held), query, 5)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda r, v, a: (r - 9, v, a), "rows"),
        (lambda r, v, a: (np.array([1, 1]), v, a), "rows"),
        (lambda r, v, a: (r, v[:, :5], a), "vectors"),
        (lambda r, v, a: (r, v[:1], a), "vectors"),
        (lambda r, v, a: (r, v * np.nan, a), "vectors"),
        (lambda r, v, a: (r, v * 0, a), "vectors"),
        (lambda r, v, a: (r, v, a[:1]), "access_classes"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(make, change, field: str) -> None:
    bench = make()
    with pytest.raises(InputError) as caught:
        bench.store.upsert(*change(np.array([1, 2]), unit(2, 0), [0, 0]))
    assert caught.value.field == field
    assert bench.store.rows().tolist() == []


@pytest.mark.parametrize("query", [np.zeros(DIM), np.ones(DIM - 1), np.full(DIM, np.nan), np.full(DIM, np.inf)])
def test_a_query_that_does_not_fit_is_refused(make, query: np.ndarray) -> None:
    bench = make()
    for ask in (lambda: bench.store.search(query, 3, None), lambda: bench.store.scores(query, np.array([1]))):
        with pytest.raises(InputError) as caught:
            ask()
        assert caught.value.field == "vector"


def test_rebuild_leaves_exactly_what_it_was_given(make) -> None:
    bench, vectors = make(), unit(30, 11)
    bench.add(range(20), vectors[:20])
    bench.store.search(vectors[0], 3, None)
    keep = np.arange(5, 15)
    bench.store.rebuild(keep, [2] * 10)  # from what the store's source holds
    assert bench.store.rows().tolist() == keep.tolist()
    expected = brute_force(bench.stored({row: vectors[row] for row in keep}), vectors[0], 4)
    assert bench.store.search(vectors[0], 4, None)[0].tolist() == expected
    bench.store.rebuild(np.array([3, 4]), [2, 2], vectors[3:5])
    assert bench.store.rows().tolist() == [3, 4]
    bench.add([50], vectors[25:26])
    bench.store.reset()
    assert bench.store.rows().tolist() == []
    bench.add([1], vectors[:1])
    assert bench.store.search(vectors[0], 4, None)[0].tolist() == [1]


def test_a_closed_store_says_so_and_closing_twice_is_fine(make) -> None:
    bench = make()
    bench.add([1], unit(1, 0))
    bench.store.close()
    bench.store.close()
    for use in (
        bench.store.rows,
        lambda: bench.store.search(unit(1, 0)[0], 1, None),
        lambda: bench.store.search(unit(1, 0)[0], 1, mask([1])),
        lambda: bench.store.upsert(np.array([2]), unit(1, 0), [0]),
        bench.store.reset,
    ):
        with pytest.raises(StoreError, match="closed") as caught:
            use()
        assert caught.value.store == "vectors"


# ---------------------------------------------------------------- on disk


def test_reopening_finds_everything_and_refuses_another_width(tmp_path: Path) -> None:
    store = ChromaVectors.open(tmp_path, DIM)
    vectors = unit(50, 12)
    store.upsert(np.arange(50), vectors, [0] * 50)
    store.close()
    with pytest.raises(IntegrityError, match=str(DIM)):
        ChromaVectors.open(tmp_path, DIM + 1)
    store = ChromaVectors.open(tmp_path, DIM)
    assert store.rows().tolist() == list(range(50))
    assert store.search(vectors[7], 1, None)[0].tolist() == [7]
    store.close()


def test_rows_that_only_the_source_still_holds_are_found_when_the_mask_names_them(tmp_path: Path) -> None:
    tokens = LmdbTokens.open(tmp_path / "tokens", TokenCodec(2), DIM)
    bench = Bench(ChromaVectors.open(tmp_path / "vectors", DIM, source=tokens.pooled), tokens)
    vectors = unit(10, 13)
    bench.add(range(10), vectors)
    bench.store.delete(np.array([4]))  # retired: no longer searched by default, still part of the past
    assert bench.store.search(vectors[4], 10, None)[0].tolist().count(4) == 0
    assert bench.store.search(vectors[4], 1, mask(range(10)))[0].tolist() == [4]
    tokens.delete(np.array([4]))  # erased
    bench.store.delete(np.array([4]))
    assert 4 not in bench.store.search(vectors[4], 10, mask(range(10)))[0]
    bench.store.close()
    tokens.close()


def test_rebuild_removes_deleted_vectors_from_the_bytes_of_the_directory(tmp_path: Path) -> None:
    store = ChromaVectors.open(tmp_path, DIM)
    vectors = unit(2500, 14)
    store.upsert(np.arange(2500), vectors, [0] * 2500)
    gone, kept = np.arange(0, 2500, 5), np.setdiff1d(np.arange(2500), np.arange(0, 2500, 5))
    store.delete(gone)

    def traces(rows: np.ndarray) -> int:
        content = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
        return sum(vectors[row, :4].tobytes() in content for row in rows[:200])

    assert traces(gone) > 0, "deletion alone leaves the bytes: the scan can find them"
    store.rebuild(kept, [0] * len(kept))
    assert traces(gone) == 0
    assert traces(kept) > 100
    store.close()
    store = ChromaVectors.open(tmp_path, DIM)
    np.testing.assert_array_equal(store.rows(), kept)
    store.close()


@pytest.mark.timeout(120)
def test_hnsw_finds_98_of_the_100_nearest(tmp_path: Path) -> None:
    rng = np.random.default_rng(15)
    topics = rng.standard_normal((60, 64)) / np.sqrt(np.arange(1, 65))
    latent = topics[rng.integers(0, 60, 4000)] + 0.5 * rng.standard_normal((4000, 64)) / np.sqrt(np.arange(1, 65))
    vectors = latent.astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    store = ChromaVectors.open(tmp_path, 64, hnsw_above=0)
    store.upsert(np.arange(4000), vectors, [0] * 4000)
    found = []
    for query in vectors[::200] + 0.02 * rng.standard_normal((20, 64)).astype(np.float32):
        exact = np.argsort(-(vectors @ query), kind="stable")[:100]
        found.append(len(np.intersect1d(exact, store.search(query, 100, None)[0])) / 100)
    assert np.mean(found) >= 0.98
    store.close()
