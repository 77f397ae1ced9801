from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from lir_agents import InputError
from lir_agents.evaluation import compare


def _by_hand(differences: list[float]) -> float:
    observed = abs(sum(differences))
    totals = [
        abs(sum(sign * value for sign, value in zip(signs, differences, strict=True)))
        for signs in product((1, -1), repeat=len(differences))
    ]
    return sum(total >= observed - 1e-9 for total in totals) / len(totals)


@pytest.mark.parametrize("seed", range(5))
def test_few_pairs_are_counted_exactly(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 5, 8) / 4, rng.integers(0, 5, 8) / 4
    expected = _by_hand([float(value) for value in first - second])
    assert compare(list(first), list(second)).p_value == pytest.approx(expected)


def test_many_pairs_are_sampled_close_to_the_exact_value() -> None:
    rng = np.random.default_rng(7)
    first = rng.normal(0.25, 1.0, 18)
    sampled = compare(list(first), [0.0] * 18, resamples=20_000).p_value
    bits = (np.arange(2**18)[:, None] >> np.arange(18)) & 1
    exact = np.mean(np.abs((1.0 - 2.0 * bits) @ first) >= abs(first.sum()))
    assert sampled == pytest.approx(float(exact), abs=0.015)


def test_equal_systems_do_not_differ() -> None:
    same = compare([0.1, 0.5, 0.9], [0.1, 0.5, 0.9])
    assert (same.difference, same.p_value, same.low, same.high) == (0.0, 1.0, 0.0, 0.0)


def test_it_is_two_sided_and_repeatable() -> None:
    rng = np.random.default_rng(1)
    first, second = list(rng.random(60)), list(rng.random(60))
    one, other = compare(first, second, seed=3), compare(second, first, seed=3)
    assert one.p_value == other.p_value
    assert one.difference == -other.difference
    assert compare(first, second, seed=3) == one


def test_no_difference_is_found_where_there_is_none() -> None:
    rng = np.random.default_rng(2)
    found = [compare(list(rng.random(40)), list(rng.random(40)), resamples=500).p_value for _ in range(200)]
    assert 0.01 <= np.mean(np.array(found) < 0.05) <= 0.1


def test_the_interval_covers_the_true_difference() -> None:
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(100):
        found = compare(list(rng.normal(0.2, 1.0, 80)), [0.0] * 80, resamples=1_000)
        covered += found.low <= 0.2 <= found.high
    assert covered >= 88


def test_unpaired_values_are_refused() -> None:
    with pytest.raises(InputError, match="3 and 2 values"):
        compare([1, 2, 3], [1, 2])
    with pytest.raises(InputError, match="at least one"):
        compare([], [])
