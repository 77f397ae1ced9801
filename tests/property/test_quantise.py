"""Codes of few bits: the compiled loop makes those of NumPy, and both follow the rule, coordinate by coordinate."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lir_agents.native import quantise as module
from lir_agents.native.library import paths
from lir_agents.native.quantise import quantise

COMPILED = pytest.mark.skipif(not paths(), reason="the package was built without a compiler")
KINDS = ["normal", "few values", "halves", "nearly halves", "zeros"]
_KEPT = (None, 0.882, 0.989, 1.5, 0.2)


def scene(seed: int, kind: str, rows: int, dim: int) -> NDArray[np.float32]:
    """Coordinates in steps: as they are, or such that much is equal, far out, or right between two codes."""
    rng = np.random.default_rng(seed)
    steps = rng.standard_normal((rows, dim)) * rng.choice([0.3, 1, 3, 20])
    match kind:
        case "few values":
            steps = rng.choice(steps.ravel()[:5], steps.shape)
        case "halves":
            steps = np.round(steps * 4) / 4
        case "nearly halves":
            steps = np.nextafter(np.round(steps * 2) / 2, rng.choice([-9, 9]), dtype=np.float32)
        case "zeros":
            steps = np.zeros_like(steps)
    return steps.astype(np.float32)


@COMPILED
@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(KINDS),
    rows=st.sampled_from([0, 1, 3, 600]),
    dim=st.sampled_from([1, 7, 15, 16, 17, 100, 128, 384]),
    bits=st.sampled_from([2, 4, 8]),
    kept=st.sampled_from(_KEPT),
)
def test_the_compiled_codes_are_those_of_numpy(seed, kind, rows, dim, bits, kept) -> None:
    steps = scene(seed, kind, rows, dim)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "paths", lambda: ())
        by_numpy = quantise(steps, bits, kept)
    np.testing.assert_array_equal(quantise(steps, bits, kept), by_numpy)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(KINDS),
    dim=st.sampled_from([1, 17, 128]),
    bits=st.sampled_from([2, 4, 8]),
    kept=st.sampled_from(_KEPT),
)
def test_codes_follow_the_rule(seed, kind, dim, bits, kept) -> None:
    steps = scene(seed, kind, 4, dim)
    for row, codes in zip(steps, unpacked(quantise(steps, bits, kept), bits, dim), strict=True):
        expected = by_the_rule(row, (1 << bits) - 1, kept)
        if expected is not None:
            assert codes.tolist() == expected


def by_the_rule(steps: NDArray[np.float32], levels: int, kept: float | None) -> list[int] | None:
    """The codes of one vector, coordinate by coordinate; None where it is too close to call."""
    codes = np.clip(np.floor(steps + np.float32((levels + 1) / 2)), 0, levels)
    if kept is None:
        return [int(code) for code in codes]
    values = (codes - levels / 2).astype(float)
    squares, products = steps.astype(float) ** 2, values * steps
    wanted = kept * math.fsum(squares) - math.fsum(products)
    doubt = 1e-5 * (math.fsum(squares) + math.fsum(abs(products))) + 1e-9
    if abs(wanted) <= doubt:
        return None
    between = []
    for at, (step, value) in enumerate(zip(steps, codes - np.float32(levels / 2), strict=True)):
        rest = step - value
        way = 1 if rest > 0 else -1
        gain = np.float32(way * step * (1 if wanted > 0 else -1))
        if abs(rest) >= 0.25 and gain > 0 and 0 <= codes[at] + way <= levels:
            between.append((max(np.float32(1) - 2 * abs(rest), np.float32(0)) / gain, at, way, float(gain)))
    gained = 0.0
    for _, at, way, gain in sorted(between)[:24]:
        if abs(abs(wanted) - gained - gain / 2) <= doubt:
            return None
        if abs(wanted) > gained + gain / 2:
            codes[at] += way
        gained += gain
    return [int(code) for code in codes]


def test_the_rule_is_called_nearly_always() -> None:
    steps = scene(1, "normal", 200, 128)
    assert sum(by_the_rule(row, 15, 0.989) is None for row in steps) < 20


def unpacked(data: NDArray[np.uint8], bits: int, dim: int) -> NDArray[np.int64]:
    planes = [(data.astype(np.int64) >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)]
    return np.concatenate(planes, axis=1)[:, :dim]
