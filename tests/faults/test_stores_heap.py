"""What Chroma writes where no vector is yet is not left to be whatever lay in this process's memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lir_agents.stores.vectors import ChromaVectors

MARKER = b"what another tenant said, or what was just erased; "
DIM = 48


def vectors(count: int) -> np.ndarray:
    made = np.random.default_rng(1).normal(size=(count, DIM)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def holding(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file() and MARKER in file.read_bytes()]


def as_if_from_the_heap(path: Path) -> None:
    """Chroma gives a new index room for 100 vectors, straight from malloc: here, with words in it."""
    for file in path.rglob("data_level0.bin"):
        room = file.stat().st_size
        assert room > len(MARKER)
        file.write_bytes((MARKER * (room // len(MARKER) + 1))[:room])
    assert holding(path)


@pytest.mark.parametrize("when", ["upsert", "rebuild", "open"])
def test_the_room_for_vectors_is_blank(tmp_path: Path, when: str) -> None:
    store = ChromaVectors.open(tmp_path, DIM)
    made = vectors(1500)
    store.upsert(np.arange(1, 5), made[:4], [0] * 4)
    as_if_from_the_heap(tmp_path)
    if when == "upsert":
        store.upsert(np.arange(5, 7), made[4:6], [0] * 2)
    elif when == "rebuild":
        store.rebuild(np.arange(1, 5), [0] * 4, made[:4])
    else:
        store.close()
        assert holding(tmp_path) == []
        as_if_from_the_heap(tmp_path)
        store = ChromaVectors.open(tmp_path, DIM)
    assert holding(tmp_path) == []
    store.upsert(np.arange(1, 1501), made, [0] * 1500)  # more than Chroma keeps back: its file is written
    store.close()
    store = ChromaVectors.open(tmp_path, DIM, hnsw_above=10)
    rows, scores = store.search(made[700], 5, np.arange(1501) > 0)
    store.close()
    assert int(rows[0]) == 701
    assert scores[0] > 0.999
