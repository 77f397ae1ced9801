"""What is kept of the token store's entries is what stands in its file, at that moment and for everybody."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lir_agents.stores.token_entries import AT_ONCE
from lir_agents.stores.tokens import LmdbTokens
from tests.contract.test_token_store import CODEC, DENSE_DIM, packed, unit

ROWS = 6 * AT_ONCE
"""More than are kept."""


@pytest.fixture
def filled(tmp_path: Path):
    with_store = LmdbTokens.open(tmp_path / "tokens", CODEC, DENSE_DIM)
    tokens, pooled = packed([1 + row % 3 for row in range(ROWS)], 1), unit(ROWS, 1)
    with_store.put(np.arange(ROWS), tokens, pooled)
    yield with_store, tokens, pooled
    with_store.close()


def parts(tokens, rows):
    return [tokens.data[tokens.offsets[row] : tokens.offsets[row + 1]] for row in rows]


@pytest.mark.parametrize("size", [1, 40, AT_ONCE, AT_ONCE + 1])
def test_many_threads_that_look_up_more_than_is_kept_find_what_was_put(filled, size):
    store, tokens, pooled = filled

    def look(seed: int) -> int:
        rng = np.random.default_rng(seed)
        for _ in range(12):
            rows = rng.integers(0, ROWS, size)
            assert np.abs(store.pooled(rows) - pooled[rows]).max() < 1e-3
            np.testing.assert_array_equal(store.gather(rows).data, np.concatenate(parts(tokens, rows)))
        return 12

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(look, range(4))) == 48


def test_a_change_is_seen_at_once_also_of_what_was_looked_up(filled):
    store, _, pooled = filled
    rows = np.arange(20)
    store.pooled(rows), store.gather(rows)
    tokens, others = packed([4] * 5, 2), unit(5, 2)
    store.put(rows[:5], tokens, others)
    store.delete(rows[5:10])
    found = store.pooled(rows)
    assert np.abs(found[:5] - others).max() < 1e-3
    assert not found[5:10].any()
    assert np.abs(found[10:] - pooled[10:20]).max() < 1e-3
    np.testing.assert_array_equal(store.gather(rows[:5]).data, tokens.data)
    assert store.gather(rows).lengths.tolist()[5:10] == [0] * 5
    store.compact()
    np.testing.assert_array_equal(store.gather(rows[:5]).data, tokens.data)


def test_what_a_caller_does_with_its_vectors_changes_nobody_elses(filled):
    store, _, pooled = filled
    rows = np.arange(9)
    store.pooled(rows)[:] = 7
    assert np.abs(store.pooled(rows) - pooled[:9]).max() < 1e-3


def test_a_row_asked_for_twice_is_given_twice(filled):
    store, _, pooled = filled
    found = store.pooled(np.array([3, 2**40, 3, 1]))
    assert np.abs(found[[0, 2, 3]] - pooled[[3, 3, 1]]).max() < 1e-3
    assert not found[1].any()
