"""The vector store with damaged files, a server that dies, and many threads."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from lir_agents.errors import IntegrityError, LirError, StoreError
from lir_agents.stores.vectors import ChromaVectors

DIM, COUNT = 16, 1500


def unit(count: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "vectors"
    store = ChromaVectors.open(path, DIM)
    store.upsert(np.arange(COUNT), unit(COUNT, 0), [0] * COUNT)
    store.close()
    return path


def database(path: Path) -> Path:
    return path / "1" / "chroma.sqlite3"


def index_files(path: Path) -> list[Path]:
    return [file for file in (path / "1").glob("*/*") if file.is_file()]


def cut_database(path: Path) -> None:
    database(path).write_bytes(database(path).read_bytes()[:5000])


def junk_database(path: Path) -> None:
    database(path).write_bytes(b"junk" * 5000)


def zero_pages(path: Path) -> None:
    content = bytearray(database(path).read_bytes())
    content[4096 * 5 : 4096 * 60] = bytes(4096 * 55)
    database(path).write_bytes(content)


def drop_database(path: Path) -> None:
    database(path).unlink()


def cut_index(path: Path) -> None:
    for file in index_files(path):
        file.write_bytes(file.read_bytes()[:50])


def drop_index(path: Path) -> None:
    for file in index_files(path):
        shutil.rmtree(file.parent, ignore_errors=True)


@pytest.mark.parametrize("damage", [cut_database, junk_database, zero_pages, drop_database, cut_index, drop_index])
def test_damage_is_named_with_its_remedy(whole: Path, tmp_path: Path, damage) -> None:
    path = tmp_path / "vectors"
    shutil.copytree(whole, path)
    damage(path)

    def use() -> None:
        with closing(ChromaVectors.open(path, DIM, hnsw_above=0)) as store:
            store.search(unit(1, 1)[0], 500, None)

    with pytest.raises(IntegrityError, match="rebuild"):
        use()


@pytest.mark.parametrize("damage", [cut_index, drop_index])
def test_a_search_under_a_mask_needs_no_index_and_rebuild_mends_it(whole: Path, tmp_path: Path, damage) -> None:
    path, vectors = tmp_path / "vectors", unit(COUNT, 0)
    shutil.copytree(whole, path)
    damage(path)
    store = ChromaVectors.open(path, DIM, hnsw_above=COUNT - 1, source=lambda rows: vectors[rows])
    query, allowed = unit(1, 1)[0], np.arange(COUNT) % 2 == 0
    expected = store.search(query, 20, allowed)
    store.rebuild(np.arange(COUNT), [0] * COUNT)
    np.testing.assert_array_equal(store.search(query, 20, allowed), expected)
    exact = np.argsort(-(vectors @ query), kind="stable")[:10]
    np.testing.assert_array_equal(store.search(query, 10, None)[0], exact)
    store.close()


def test_a_foreign_directory_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(IntegrityError):
        ChromaVectors.open(tmp_path, DIM)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(StoreError):
        ChromaVectors.open(tmp_path / "thesis.txt", DIM)


def test_leftovers_of_a_rebuild_that_died_are_removed(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "vectors"
    shutil.copytree(whole, path)
    shutil.copytree(whole / "1", path / "2.partial")
    store = ChromaVectors.open(path, DIM)
    assert len(store.rows()) == COUNT
    assert [entry.name for entry in path.iterdir()] == ["1"]
    store.close()


def test_a_source_that_fails_is_a_store_error_and_passes(tmp_path: Path) -> None:
    vectors, broken = unit(50, 2), threading.Event()

    def source(rows: np.ndarray) -> np.ndarray:
        if broken.is_set():
            raise OSError("the disk went away")
        return vectors[rows]

    store = ChromaVectors.open(tmp_path, DIM, source=source)
    store.upsert(np.arange(50), vectors, [0] * 50)
    broken.set()
    with pytest.raises(StoreError, match="went away"):
        store.search(vectors[0], 3, None)
    broken.clear()
    assert store.search(vectors[0], 1, None)[0].tolist() == [0]
    store.close()


def test_a_server_that_is_away_is_a_failure_worth_repeating(tmp_path: Path) -> None:
    command = shutil.which("chroma", path=str(Path(sys.executable).parent)) or shutil.which("chroma")
    if command is None:
        pytest.skip("the chroma command is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [command, "run", "--host", "127.0.0.1", "--port", str(port), "--path", str(tmp_path)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def eventually(action):
        deadline = time.monotonic() + 30
        while True:
            try:
                return action()
            except StoreError as error:
                if not error.retryable:
                    raise
                if time.monotonic() > deadline:
                    pytest.skip("chroma run does not start on this machine")
                time.sleep(0.2)

    with pytest.raises(StoreError) as caught:
        ChromaVectors.connect("127.0.0.1", port, "passages", DIM)
    assert caught.value.retryable
    process = start()
    try:
        store = eventually(lambda: ChromaVectors.connect("127.0.0.1", port, "passages", DIM))
        vectors = unit(20, 3)
        store.upsert(np.arange(20), vectors, [0] * 20)
        process.kill()
        process.wait(10)
        with pytest.raises(StoreError) as caught:
            store.upsert(np.arange(20, 22), vectors[:2], [0, 0])
        assert caught.value.retryable
        assert caught.value.store == "vectors"
        process = start()
        assert eventually(lambda: store.search(vectors[7], 1, None))[0].tolist() == [7]
        assert eventually(store.rows).tolist() == list(range(20))
        store.close()
    finally:
        process.kill()
        process.wait(10)


def test_eight_readers_see_only_right_answers_while_one_writes_deletes_and_rebuilds(tmp_path: Path) -> None:
    vectors = unit(400, 4)
    store = ChromaVectors.open(tmp_path, DIM, source=lambda rows: vectors[rows], hnsw_above=10)
    store.upsert(np.arange(200), vectors[:200], [0] * 200)
    fixed = np.arange(200) % 2 == 0  # these rows stay throughout
    stop, failures = threading.Event(), []

    def read(seed: int) -> None:
        for query in np.resize(unit(50, seed), (100_000, DIM)):
            if stop.is_set():
                return
            try:
                got = store.search(query, 5, fixed)[0]
                exact = np.flatnonzero(fixed)[np.argsort(-(vectors[:200][fixed] @ query), kind="stable")[:5]]
                np.testing.assert_array_equal(got, exact)
                rows, scores = store.search(query, 10, None)
                np.testing.assert_allclose(scores, vectors[rows] @ query, atol=1e-5)
                assert (np.diff(scores) <= 0).all()
            except (AssertionError, LirError) as error:
                failures.append(error)
                return

    readers = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for reader in readers:
        reader.start()
    for start in range(200, 400, 50):
        rows = np.arange(start, start + 50)
        store.upsert(rows, vectors[rows], [0] * 50)
        store.delete(rows[::2])
        keep = store.rows()
        store.rebuild(keep, [0] * len(keep))
    stop.set()
    for reader in readers:
        reader.join(30)
    assert failures == []
    assert store.rows().tolist() == [*range(200), *range(201, 400, 2)]
    store.close()
